"""Signals that end a run: a signal is recognised wherever its exception is raised, and never breaks a computation.

Python runs signal handlers in the main thread, after any of its calls. A handler can raise (Ctrl-C, SIGTERM of a
command, Prefect's cancellation) inside `threading` or `concurrent.futures`. Then either a lock is not released, and the
process hangs; or a lock is released that was not taken, and the exception that comes out is a RuntimeError ("cannot
release un-acquired lock").
"""

import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

TERMINATED = 143
"""Exit status of a command that SIGTERM ends: 128 + 15."""

T = TypeVar("T")


class Terminated(SystemExit):
    """SIGTERM in a command. Not a plain SystemExit, because `sys.exit` in a user's own model raises one."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Abandoned(BaseException):
    """Ends a call whose caller no longer waits."""


def number_of(exc: BaseException | None) -> int | None:
    """Returns the signal whose handler raised `exc`; None for any other exception."""
    if isinstance(exc, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(exc, Terminated):
        return signal.SIGTERM
    # A scheduler's exception for a signal, such as Prefect's, has the signal's number.
    number = None if isinstance(exc, Exception) else getattr(exc, "signal", None)
    return number if isinstance(number, int) else None


def masked(exc: BaseException) -> BaseException | None:
    """Returns the exception of a signal's handler if it is `exc` or led to `exc`; None otherwise."""
    waiting: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while waiting:
        raised = waiting.pop()
        if raised is None or id(raised) in seen:
            continue
        if number_of(raised) is not None:
            return raised
        seen.add(id(raised))
        waiting += [raised.__context__, raised.__cause__]
        if isinstance(raised, BaseExceptionGroup):
            waiting += raised.exceptions
    return None


class Call(Generic[T]):
    """One call of `Apart`: its function, its result, and whether its caller still waits."""

    def __init__(self, function: Callable[["Call[T]"], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self.abandoned = False
        self.finished = threading.Lock()
        self.finished.acquire()

    def check(self) -> None:
        """Ends the call if its caller no longer waits. `function` calls this before each part of its work.

        Raises:
            Abandoned: the caller no longer waits.
        """
        if self.abandoned:
            raise Abandoned

    def run(self) -> None:
        """Runs the function. It never raises."""
        try:
            self.check()
            self._result = self._function(self)
        except BaseException as exc:
            self._error = exc
        finally:
            self.finished.release()

    def outcome(self) -> T:
        """Returns the result of the finished call, or raises its exception."""
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class Apart:
    """A thread that runs calls, one after the other, while the caller waits. So no handler raises inside a call.

    The caller uses only functions written in C, SimpleQueue.put and Lock.acquire, because the exception of a handler
    does not break them. Rejected: `concurrent.futures`, whose `submit` and `result` are in Python and take locks.

    Rejected too: own handlers that wait for the end of the call. They break cancelling, because Prefect 3.8
    acknowledges a cancellation only while its own handler of SIGTERM is installed; otherwise it reports the run as
    crashed.
    """

    def __init__(self, name: str, at_end: Callable[[], None]) -> None:
        """Starts the thread. It calls `at_end` before it ends."""
        self._calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._at_end = at_end
        self._ended = threading.Lock()
        self._ended.acquire()
        # A daemon, because after an interrupted `close` nothing waits for it.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[[Call[T]], T]) -> T:
        """Returns the result of `function`. If a signal's handler raises meanwhile, the call is abandoned at once."""
        made = Call(function)
        try:
            self._calls.put(made)
            made.finished.acquire()
        except BaseException:
            made.abandoned = True
            raise
        return made.outcome()

    def close(self) -> None:
        """Waits for the call that is running, and ends the thread."""
        self._calls.put(None)
        self._ended.acquire()

    def _run(self) -> None:
        try:
            while (made := self._calls.get()) is not None:
                made.run()
                del made  # frees its arrays before the next call comes
            self._at_end()
        finally:
            self._ended.release()
