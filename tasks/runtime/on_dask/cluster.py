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
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tasks.errors import RunError, SettingsError, listed, one_line
from tasks.runtime.on_dask import machine
from tasks.runtime.on_dask.jobs import Job, Jobs
from tasks.runtime.on_dask.remote import unpickled
from tasks.runtime.on_dask.task import MISSING, REFUSED, UNREAD, compute, describe

_log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds in which the scheduler has to answer."""
_CHECK = 300.0
"""Most seconds for the check of a worker: it imports TensorFlow."""
_LOOK = 0.25
"""Seconds between two looks at which workers there are."""


@dataclass
class _Worker:
    """A worker that was checked and takes part.

    Attributes:
        address: of Dask, such as tls://10.0.0.2:40001.
        threads: tasks that it computes at the same time.
        programs: digests of the computations that were sent to it.
        sent: names the last of the server's values that were sent to it.
    """

    address: str
    threads: int
    programs: set[str] = field(default_factory=set)
    sent: str = ""


class _Lost(Exception):
    """A worker or the scheduler was lost with a task."""


class Cluster:
    """The workers of one Dask scheduler, for one run."""

    def __init__(self, address: str, deadline: float) -> None:
        """Does not connect yet.

        Args:
            address: of the scheduler.
            deadline: most seconds without a worker.
        """
        self._address, self._deadline = address, deadline
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="dask", daemon=True)
        self._served: dict[str, asyncio.Task[None]] = {}
        self._workers: dict[str, _Worker] = {}
        self._left_out: dict[str, str] = {}
        self._jobs: Jobs | None = None
        self._lost: Exception | None = None

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
        return sum(worker.threads for worker in list(self._workers.values()))

    def compute(self, jobs: Jobs, check: Callable[[], None]) -> Generator[bytes, None, None]:
        """Yields the answers to the tasks, in their order; see `Jobs.ordered`.

        Raises:
            RunError: (1) the scheduler was lost, (2) there was no worker for `deadline` seconds, (3) several workers
                were lost with the same task, or (4) a task raised an error.
        """
        self._in_loop(self._begin, jobs)
        try:
            yield from jobs.ordered(check, partial(self._in_loop, self._tell))
        finally:
            self._in_loop(self._finish, jobs)

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
                if self._lost is not None and isinstance(jobs, Jobs):
                    jobs.fail(self._lost)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except Exception as exc:
            if self._opened.done():  # a defect
                self._lost = exc
                self._end(exc)
            else:
                self._opened.set_exception(exc)

    async def _live(self) -> None:
        from distributed import Client

        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._news = self._loop.create_future()
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
        since = time.monotonic()
        while not self._closing.is_set():
            try:
                there: dict[str, int] = await asyncio.wait_for(self._client.nthreads(), _PATIENCE)
            except Exception as exc:
                self._lost = RunError(
                    f"the Dask scheduler at {self._address} does not answer any more: {one_line(exc)}"
                )
                return self._end(self._lost)
            self._let_go(there)
            for address, threads in there.items():
                if address not in self._served and address not in self._left_out:
                    self._served[address] = asyncio.create_task(self._take_in(address, threads))
            if self._served:
                since = time.monotonic()
            elif time.monotonic() - since > self._deadline:
                self._end(self._without_workers())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _LOOK)
        return None

    def _without_workers(self) -> RunError:
        refused = [f"{address}: {reason}" for address, reason in self._left_out.items()]
        why = f", and these were refused: {listed(refused, between='; ')}" if refused else ""
        return RunError(
            f"no worker of the Dask scheduler at {self._address} took part for {self._deadline:g} s "
            f"(federate.runtime.deadline){why}"
        )

    def _let_go(self, there: dict[str, int]) -> None:
        self._left_out = {address: reason for address, reason in self._left_out.items() if address in there}
        for address in [address for address in self._served if address not in there]:
            _log.warning("Dask worker %s was lost", address)
            self._served.pop(address).cancel("lost")

    async def _take_in(self, address: str, threads: int) -> None:
        """Checks a worker, and has it compute until it is lost or refused."""
        try:
            reason = await self._refusal(address)
            if not reason:
                _log.info("Dask worker %s takes part", address)
                self._workers[address] = worker = _Worker(address, threads)
                reason = await self._serve(worker)
            self._left_out[address] = reason
            self._served.pop(address, None)
            _log.warning("Dask worker %s is refused: %s", address, reason)
        except Exception as exc:  # a defect
            self._end(exc)
        finally:
            self._workers.pop(address, None)
            self._tell()

    async def _refusal(self, address: str) -> str:
        """Returns why a worker cannot take part; empty if it can."""
        try:
            asked = self._client.submit(describe, **_on(address))
            theirs = await asyncio.wait_for(asked.result(), _CHECK)
        except TimeoutError:
            return f"it did not answer within {_CHECK:g} s"
        except Exception as exc:
            return f"it cannot run this project's code, so start it in this checkout: {one_line(exc)}"
        return "; ".join(machine.differences(theirs, machine.describe()))

    async def _serve(self, worker: _Worker) -> str:
        """Has a worker compute tasks; returns why it is refused from now on."""
        running: dict[asyncio.Task[bytes], tuple[Jobs, Job]] = {}
        lost = False
        try:
            while True:
                while len(running) <= worker.threads and not any(job.alone for _, job in running.values()):
                    jobs, job = self._jobs, self._next(worker, busy=bool(running))
                    if jobs is None or job is None:
                        break
                    running[asyncio.create_task(self._ask(worker, jobs, job))] = jobs, job
                await asyncio.wait({*running, self._news}, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task, (jobs, _) in running.items() if task.done() or jobs is not self._jobs]:
                    jobs, job = running.pop(task)
                    if jobs is not self._jobs:
                        task.cancel()
                    elif reason := self._got(worker, jobs, job, task):
                        return reason
        except asyncio.CancelledError as exc:
            lost = "lost" in exc.args
            raise
        finally:
            self._workers.pop(worker.address, None)
            for task, (jobs, job) in running.items():
                task.cancel()
                error = job.lose(worker.address) if lost else None
                jobs.put_back(job)
                if error is not None:
                    jobs.fail(error)

    def _next(self, worker: _Worker, busy: bool) -> Job | None:
        if self._jobs is None:
            return None
        return self._jobs.next(worker.address, sorted(self._workers), self.threads, busy)

    async def _ask(self, worker: _Worker, jobs: Jobs, job: Job) -> bytes:
        """Returns a worker's answer to a task.

        Raises:
            _Lost: the worker or the scheduler was lost.
        """
        from distributed import KilledWorker

        program, received = jobs.program not in worker.programs, jobs.sent != worker.sent
        worker.programs.add(jobs.program)
        worker.sent = jobs.sent
        while True:
            part = job.pickled(program, received)
            asked = self._client.submit(compute, machine.digest(), part, **_on(worker.address))
            try:
                answer: bytes = await asked.result()
            except (CancelledError, KilledWorker, OSError) as exc:
                if asked.status == "error" and not isinstance(exc, KilledWorker):
                    raise
                await asyncio.sleep(_LOOK)  # the next look at the workers shows what was lost
                raise _Lost from exc
            if answer != MISSING:
                return answer
            program = received = True

    def _got(self, worker: _Worker, jobs: Jobs, job: Job, task: "asyncio.Task[bytes]") -> str:
        """Deals with a worker's answer to a task; returns why the worker is refused from now on, or ""."""
        error = task.exception()
        if error is not None:
            return self._failed(worker, jobs, job, error)
        answer = task.result()
        if answer == REFUSED:
            jobs.put_back(job)
            return "it began again, with other code"
        if answer[:1] == UNREAD:
            job.unread[worker.address] = answer
            jobs.put_back(job)
            self._tell()
        else:
            for other, its in job.unread.items():
                self._refuse(other, f"it cannot read data that {worker.address} can read: {_reason(its)}")
            jobs.finish(job, answer)
        return ""

    def _failed(self, worker: _Worker, jobs: Jobs, job: Job, error: BaseException) -> str:
        jobs.put_back(job)
        if isinstance(error, _Lost):
            return ""
        if isinstance(error, RunError):
            jobs.fail(error)
            return ""
        job.failed[worker.address] = one_line(error)
        self._tell()
        return f"it failed: {one_line(error)}"

    def _settle(self, jobs: Jobs) -> None:
        """Ends the tasks that every worker has tried: a client whose data none of them can read has failed."""
        if not self._workers:
            return
        for job in jobs.tried_by_all(sorted(self._workers)):
            if job.unread:
                jobs.finish(job, min(job.unread.values(), key=lambda answer: len(unpickled(answer).unread)))
            else:
                said = [f"{address}: {reason}" for address, reason in job.failed.items()]
                jobs.fail(RunError(f"the Dask workers failed: {listed(said, between='; ')}"))

    def _refuse(self, address: str, reason: str) -> None:
        if address in self._workers:
            self._left_out[address] = reason
            self._served.pop(address).cancel()
            _log.warning("Dask worker %s is refused: %s", address, reason)

    def _begin(self, jobs: Jobs) -> None:
        self._jobs = jobs
        if self._lost is not None:
            jobs.fail(self._lost)
        self._tell()

    def _finish(self, jobs: Jobs) -> None:
        if self._jobs is jobs:
            self._jobs = None
            self._tell()

    def _end(self, error: Exception) -> None:
        if self._jobs is not None:
            self._jobs.fail(error)

    def _tell(self) -> None:
        """Has every worker look for tasks."""
        news, self._news = self._news, self._loop.create_future()
        news.set_result(None)
        if self._jobs is not None:
            self._settle(self._jobs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out Dask's own log lines: they would stand beside the one line that says the same."""
    noisy = logging.getLogger("distributed")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        noisy.setLevel(level)


def _on(address: str) -> dict[str, Any]:
    """Returns the arguments with which Dask runs a task on one worker and nowhere else."""
    key = f"undrift-{uuid.uuid4().hex}"
    return {"workers": [address], "allow_other_workers": False, "pure": False, "key": key}


def _reason(answer: bytes) -> str:
    return next(iter(unpickled(answer).unread.values()), "")
