"""The connection to a Dask cluster: which workers take part, and what each of them computes.

Dask's own scheduling is not used: each task is sent to one worker, which was checked before. So a worker that was
refused never gets a task, and the host knows which workers were lost with which task. Dask itself would let a task of a
lost worker wait for ever if no other worker may run it, and would give up a task after three lost workers, whoever
killed them.

Everything but `open`, `compute` and `close` runs in an event loop, in a thread of its own.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from tasks.errors import RunError, SettingsError, listed, one_line
from tasks.runtime.on_dask import machine
from tasks.runtime.on_dask.exchange import Exchange
from tasks.runtime.on_dask.jobs import Jobs
from tasks.runtime.on_dask.lane import LOST, only_on, serve
from tasks.runtime.on_dask.remote import Answer
from tasks.runtime.on_dask.task import describe, on_worker, prove
from tasks.runtime.on_dask.team import Team, Worker

_log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds in which the scheduler has to answer."""
_CHECK = 300.0
"""Most seconds for the check of a worker: it imports TensorFlow."""
_LOOK = 0.25
"""Seconds between two looks at which workers there are."""


class Cluster:
    """The workers of one Dask scheduler, for one run."""

    def __init__(self, address: str, deadline: float, exchange: Exchange) -> None:
        """Does not connect yet.

        Args:
            address: of the scheduler.
            deadline: most seconds without a worker.
            exchange: for large answers.
        """
        self._address, self._deadline, self._exchange = address, deadline, exchange
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="dask", daemon=True)
        self._served: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, str] = {}

    def open(self) -> None:
        """Connects.

        Raises:
            SettingsError: no scheduler answers.
        """
        machine.describe()  # here, because it takes a moment, and the loop must not wait
        self._thread.start()
        self._opened.result()

    @property
    def threads(self) -> int:
        """The number of tasks that the workers compute at the same time; 0 without a worker."""
        return self._team.threads

    def compute(self, jobs: Jobs, check: Callable[[], None]) -> Generator[Answer, None, None]:
        """Yields the answers to the tasks, in their order; see `Jobs.ordered`.

        Raises:
            RunError: (1) the scheduler was lost, (2) there was no worker for `deadline` seconds, (3) several workers
                were lost with the same task, or (4) a task raised an error.
        """
        self._in_loop(self._team.begin, jobs)
        try:
            yield from jobs.ordered(check, partial(self._in_loop, self._team.tell))
        finally:
            self._in_loop(self._team.finish, jobs)

    def close(self) -> None:
        """Ends the connection; what the workers compute is dropped."""
        if self._thread.is_alive():
            self._in_loop(self._closing.set)
            self._thread.join()

    def _in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a function in the loop; if the loop has ended, a pass that begins gets the error that ended it."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            for jobs in arguments:
                if self._team.over is not None and isinstance(jobs, Jobs):
                    jobs.fail(self._team.over)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except Exception as exc:
            if self._opened.done():  # a defect
                self._team.over = exc
                self._team.fail(exc)
            else:
                self._opened.set_exception(exc)

    async def _live(self) -> None:
        from distributed import Client

        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        # Dask drops tasks of its own whose worker was lost, and asyncio would print their exceptions.
        self._loop.set_exception_handler(lambda loop, context: _log.debug("%s", context["message"]))
        self._team = Team(self._exchange)
        await self._check_address()
        self._client = await Client(self._address, asynchronous=True, set_as_default=False, timeout=_PATIENCE)  # type: ignore[no-untyped-call]
        self._opened.set_result(None)
        with _quiet():
            try:
                await self._watch()
            finally:
                for task in self._served.values():
                    task.cancel()
                with suppress(Exception):
                    await asyncio.wait_for(self._client.close(), _PATIENCE)

    async def _check_address(self) -> None:
        from distributed import Security
        from distributed.core import rpc

        try:
            arguments = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
            async with rpc(self._address, connection_args=arguments, timeout=_PATIENCE) as scheduler:  # type: ignore[no-untyped-call]
                await asyncio.wait_for(scheduler.identity(), _PATIENCE + 5)
        except Exception as exc:  # a wrong address, certificates, or a server that is no scheduler
            raise SettingsError(
                "federate.runtime.address must be the address of a running Dask scheduler, got "
                f"{self._address}: {one_line(exc)}"
            ) from exc

    async def _watch(self) -> None:
        """Takes in workers that join, and lets go those that are lost, until the end of the run."""
        since: float | None = time.monotonic()
        while not self._closing.is_set():
            try:
                there: dict[str, int] = await asyncio.wait_for(self._client.nthreads(), _PATIENCE)
            except Exception as exc:
                self._team.over = RunError(
                    f"the Dask scheduler at {self._address} does not answer any more: {one_line(exc)}"
                )
                return self._team.fail(self._team.over)
            self._let_go(there)
            for address, threads in there.items():
                if address not in self._served and address not in self._refused:
                    self._served[address] = asyncio.create_task(self._take_in(address, threads))
            if self._served:
                since = None
            elif since is None:  # from the first look without a worker, so that the run does not end too early
                since = time.monotonic()
            elif time.monotonic() - since > self._deadline:
                self._team.fail(self._without_workers())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _LOOK)
        return None

    def _without_workers(self) -> RunError:
        refused = [f"{address}: {reason}" for address, reason in self._refused.items()]
        why = f", and these were refused: {listed(refused, between='; ')}" if refused else ""
        return RunError(
            f"no worker of the Dask scheduler at {self._address} took part for {self._deadline:g} s "
            f"(federate.runtime.deadline){why}"
        )

    def _let_go(self, there: dict[str, int]) -> None:
        self._refused = {address: reason for address, reason in self._refused.items() if address in there}
        for address in [address for address in self._served if address not in there]:
            _log.warning("Dask worker %s was lost", address)
            self._served.pop(address).cancel(LOST)

    async def _take_in(self, address: str, threads: int) -> None:
        """Checks a worker, and has it compute until it is lost or refused."""
        try:
            reason, direct, shares = await self._check(address)
            if not reason:
                _log.info("Dask worker %s takes part", address)
                self._team.workers[address] = worker = Worker(address, threads, direct, shares)
                self._team.tell()
                reason = await serve(self._client, self._team, worker)
            _log.warning("Dask worker %s is refused: %s", address, reason)
            self._refused[address] = reason
            self._served.pop(address, None)
        except Exception as exc:  # a defect
            self._team.fail(exc)

    async def _check(self, address: str) -> tuple[str, bool, bool]:
        """Returns why a worker cannot take part (empty if it can), and the attributes `direct` and `shares` of it."""
        try:
            asked = self._client.submit(on_worker(describe), **only_on(address))
            theirs = await asyncio.wait_for(asked.result(), _CHECK)
        except TimeoutError:
            return f"it did not answer within {_CHECK:g} s", False, False
        except Exception as exc:
            return f"it cannot run this project's code, so start it in this checkout: {one_line(exc)}", False, False
        direct = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._client.gather(asked, direct=True), _PATIENCE)
            direct = True
        shares = False
        with suppress(Exception):  # then its answers come over the connection
            proof = self._client.submit(on_worker(prove), self._exchange.folder, **only_on(address))
            shares = self._exchange.is_shared(await asyncio.wait_for(proof.result(), _PATIENCE))
        return "; ".join(machine.differences(theirs, machine.describe())), direct, shares


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out Dask's own log lines: they would stand beside the one line that says the same."""
    noisy = [logging.getLogger(name) for name in ("distributed", "distributed.client", "distributed.core")]
    levels = [each.level for each in noisy]
    for each in noisy:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(noisy, levels, strict=True):
            each.setLevel(level)
