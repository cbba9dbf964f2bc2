"""Signals that end a run: a cancellation stays one wherever its exception comes up, and never breaks a computation.

Python runs signal handlers in the main thread, after any of its calls. Where one raises (Ctrl-C, SIGTERM of a command,
Prefect's cancellation) inside of `threading` or `concurrent.futures`, a lock stays taken, and the process hangs, or one
is released that was not taken: then what comes out is a RuntimeError ("cannot release un-acquired lock").
"""

import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

TERMINATED = 143

T = TypeVar("T")


class Terminated(SystemExit):
    """SIGTERM, in a command. No plain SystemExit: that is what a user's own model raises by `sys.exit`."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Abandoned(BaseException):
    """Ends a call whose caller waits no more."""


def number_of(exc: BaseException | None) -> int | None:
    """Returns the signal whose handler raised `exc`; None for any other exception."""
    if isinstance(exc, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(exc, Terminated):
        return signal.SIGTERM
    # A scheduler's exception for a signal, as Prefect's, says which one it was.
    number = None if isinstance(exc, Exception) else getattr(exc, "signal", None)
    return number if isinstance(number, int) else None


def masked(exc: BaseException) -> BaseException | None:
    """Returns what a signal's handler raised, if that is `exc` or what `exc` came of; None otherwise."""
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
    """One call of `Apart`: what runs, and whether somebody still waits for it."""

    def __init__(self, function: Callable[["Call[T]"], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self.abandoned = False
        self.finished = threading.Lock()
        self.finished.acquire()

    def check(self) -> None:
        """Ends the call where nobody waits for it any more: `function` calls this before each part of its work.

        Raises:
            Abandoned: nobody does.
        """
        if self.abandoned:
            raise Abandoned

    def run(self) -> None:
        """Runs it; never raises."""
        try:
            self.check()
            self._result = self._function(self)
        except BaseException as exc:
            self._error = exc
        finally:
            self.finished.release()

    def outcome(self) -> T:
        """Returns or raises what the finished call did."""
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class Apart:
    """A thread that runs calls, one after the other, while the caller waits: no handler raises inside a call.

    The caller itself uses nothing but functions in C, which a handler's exception leaves whole: SimpleQueue.put and
    Lock.acquire. `concurrent.futures` would not do: its `submit` and `result` are in Python, with locks of their own.

    The alternative, handlers of our own that wait for the end of the call, breaks cancelling: Prefect 3.8 acknowledges
    a cancellation only while its own handler of SIGTERM is installed, and reports the run as crashed otherwise.
    """

    def __init__(self, name: str, at_end: Callable[[], None]) -> None:
        """Starts the thread; `at_end` is its last call."""
        self._calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._at_end = at_end
        self._ended = threading.Lock()
        self._ended.acquire()
        # Of an interrupted `close` nobody waits for it.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[[Call[T]], T]) -> T:
        """Returns what `function` does; where a signal's handler raises meanwhile, the call is abandoned at once."""
        made = Call(function)
        try:
            self._calls.put(made)
            made.finished.acquire()
        except BaseException:
            made.abandoned = True
            raise
        return made.outcome()

    def close(self) -> None:
        """Waits for what is under way, and ends the thread."""
        self._calls.put(None)
        self._ended.acquire()

    def _run(self) -> None:
        try:
            while (made := self._calls.get()) is not None:
                made.run()
                del made  # and with it the arrays, until the next call comes
            self._at_end()
        finally:
            self._ended.release()
