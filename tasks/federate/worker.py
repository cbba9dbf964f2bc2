"""The runtime `worker`: TFF's own C++ runtime in a process that we own, with a deadline and bounded restarts.

TFF's default context starts the same binary, but never surely ends it, waits for its answer without a limit, and
starts it again for ever. Here a lost worker is replaced a counted number of times; the call that it took with it is
run again, which is safe because our computations are pure.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
import tensorflow_federated as tff

from tasks.errors import WorkerLost
from tasks.federate.worker_process import WorkerProcess, start_worker

_logger = logging.getLogger(__name__)

_DISPOSE_SECONDS = 5.0
_LONGEST_SECONDS = 1e8
"""Three years. gRPC takes much longer deadlines, and infinity, for one that has passed."""
_CHANNEL_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # a proxy in the environment would be asked for 127.0.0.1
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


@contextmanager
def owned_worker(threads: int, deadline: float, restarts: int) -> Iterator["WorkerContext"]:
    """Yields a context for `tff.framework.get_context_stack().install(...)` whose computations run in a worker process.

    The process is gone when the block ends, and also when this process does, in whatever way.

    Args:
        threads: clients computed at a time; 0: one a core.
        deadline: seconds after which a remote call without an answer counts as lost. A computation is one such call for
            its work and a few short ones around it; Python's own part (compiling the computation) is not counted.
        restarts: how often a lost worker is replaced while the block runs.

    Raises:
        WorkerLost: the worker does not start, or was lost more often than `restarts`.
        ComputationFailed: from a call: the computation itself failed. The worker goes on.
    """
    context = WorkerContext(threads or len(os.sched_getaffinity(0)), deadline, restarts)
    try:
        context._running()
        yield context
    finally:
        context.close()


class WorkerContext(tff.framework.SyncContext):
    """A synchronous TFF context on one worker at a time; calls from several threads are run one after the other."""

    def __init__(self, threads: int, deadline: float, restarts: int) -> None:
        self._threads = threads
        self._deadline = deadline
        self._restarts = restarts
        self._losses = 0
        self._reason = ""
        self._closed = False
        self._session: _Session | None = None
        self._one_call = threading.RLock()
        self._changing = threading.Lock()  # never held while computing, so that `close` can cut a call short

    @property
    def pid(self) -> int | None:
        """The worker's process id, None when none runs."""
        session = self._session
        return session.worker.pid if session else None

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Returns the result of `comp` for `arg`; called by TFF when a computation is called."""
        with self._one_call:
            while self._losses <= self._restarts:
                try:
                    return self._running().context.invoke(comp, arg)
                except _Lost as lost:
                    self._replace(str(lost))
                except (KeyboardInterrupt, SystemExit):
                    self._drop()  # it would go on computing, and the next call would wait for that
                    raise
            raise WorkerLost(
                f"TFF's worker was lost {self._losses} times, federate.runtime.restarts allows {self._restarts}: "
                f"{self._reason}"
            )

    def _running(self) -> "_Session":
        with self._changing:
            if self._closed:
                raise WorkerLost("TFF's worker was closed while a computation ran, or before")
            if self._session is None:
                self._session = _Session(start_worker(self._threads), self._deadline)
                _logger.warning(
                    "port %d: TFF's worker (pid %d) listens there on every network interface, without authentication, "
                    "and runs any graph that it is sent",
                    self._session.worker.port,
                    self._session.worker.pid,
                )
            return self._session

    def close(self) -> None:
        """Ends the worker; a call that runs in another thread raises WorkerLost. Safe to call again."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        with self._changing:
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def _replace(self, reason: str) -> None:
        self._drop()
        if self._closed:
            return  # not lost, and `_running` says so
        self._losses += 1
        self._reason = reason
        if self._losses <= self._restarts:
            _logger.warning("%d of %d restarts: TFF's worker was lost: %s", self._losses, self._restarts, reason)


class _Session:
    """A worker and the TFF context that talks to it; a new worker knows no value of the old one, so it gets its own."""

    def __init__(self, worker: WorkerProcess, deadline: float) -> None:
        self.worker = worker
        self._channel = grpc.insecure_channel(f"127.0.0.1:{worker.port}", _CHANNEL_OPTIONS)
        stub = _Stub(grpc.intercept_channel(self._channel, _Translator(deadline)))

        def executor(cardinalities: Any) -> Any:
            cardinalities.setdefault(tff.CLIENTS, 0)
            remote = tff.framework.RemoteExecutor(stub)
            remote.set_cardinalities(cardinalities)
            return remote

        self.context = tff.framework.SyncExecutionContext(
            executor_fn=tff.framework.ResourceManagingExecutorFactory(executor),
            compiler_fn=tff.backends.native.desugar_and_transform_to_native,
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )

    def close(self) -> None:
        self.worker.stop()
        self._channel.close()


class ComputationFailed(Exception):
    """TensorFlow refused a value or could not read a file. No `UndriftError`: the round looks for the client first.

    One line without values of the data, and without the gRPC error, whose text holds them, as its cause.
    """


class _Lost(Exception):
    """The worker died, was closed, or missed its deadline. Not TFF's `RetryableError`: on that TFF retries for ever."""


@dataclass(frozen=True)
class _CallDetails(grpc.ClientCallDetails):
    """A remote call with a deadline: gRPC's own classes offer none that a client may fill in."""

    method: str
    timeout: float
    metadata: None = None
    credentials: None = None
    wait_for_ready: None = None
    compression: None = None


class _Translator(grpc.UnaryUnaryClientInterceptor):
    """Raises `_Lost` or `ComputationFailed` for gRPC's errors, which hold clients' data and make TFF retry."""

    def __init__(self, deadline: float) -> None:
        self._deadline = min(deadline, _LONGEST_SECONDS)
        self._lost: str | None = None

    def intercept_unary_unary(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        if self._lost:
            raise _Lost(self._lost)  # TFF tidies up after an error: do not wait for a dead worker again
        disposes = "/Dispose" in details.method
        seconds = min(self._deadline, _DISPOSE_SECONDS) if disposes else self._deadline
        call = continuation(_CallDetails(details.method, seconds), request)
        error = call.exception()
        if error is None:
            return call
        reason = self._loss(error)
        if reason is None:
            raise ComputationFailed(f"{error.code().name}: {scrubbed(error.details() or '')}")
        if not disposes:
            self._lost = reason
        raise _Lost(reason)

    def _loss(self, error: Exception) -> str | None:
        if isinstance(error, ValueError):
            return "its channel was closed"
        if not isinstance(error, grpc.Call):
            raise error
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within federate.runtime.deadline = {self._deadline:g} s"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return "its process ended (a crash, or no memory was left)"
        return None


class _Stub(tff.framework.RemoteExecutorGrpcStub):
    """TFF's stub; giving back the values of a dead worker is no error (TFF does so whenever Python frees one)."""

    def dispose(self, request: Any) -> Any:
        return _or_nothing(super().dispose, request)

    def dispose_executor(self, request: Any) -> Any:
        return _or_nothing(super().dispose_executor, request)


def _or_nothing(method: Callable[[Any], Any], request: Any) -> Any:
    try:
        return method(request)
    except (_Lost, ComputationFailed):
        return None


def scrubbed(details: str) -> str:
    """Returns the first line of a TensorFlow error without the values that it quotes from a batch.

    TensorFlow prints every label of a batch when one is out of range (`Label values: 3 1 4`), and the start of a tensor
    when an assertion fails (`[x = ] [0.1 0.2 0.3...]`). Shapes (`[20,10]`), ranges (`[0, 10)`) and paths stay.
    """
    line = details.strip().split("\n", 1)[0].split("Label values", 1)[0]
    line = re.sub(r"(= \] )\[[^\]]*\]+", r"\1[...]", line)
    line = re.sub(r"-?\d[\d.e+-]*(?:\s+-?\d[\d.e+-]*)+(?:\.\.\.)?", "...", line)
    return line.strip()[:300]
