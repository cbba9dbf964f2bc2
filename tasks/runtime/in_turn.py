"""Work on numbered things by several threads, whose results are added up in the order of the numbers."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InTurn(Generic[T]):
    """Computes things 0 to `num` − 1, and adds the result of each in their order.

    Each thread that calls `work` takes the next thing and computes it. It then adds what can be added. Only one thread
    adds at a time; the others leave their results to it.

    Rejected: a thread that only adds. It must be woken up for each thing, and then wait for Python's lock. With the
    smallest models, that takes 7 % of the time.
    """

    def __init__(self, num: int, compute: Callable[[int], T], add: Callable[[int, T], None], ahead: int) -> None:
        """At most `ahead` >= 1 things are being computed, or wait to be added, at a time."""
        self._places, self._compute, self._add = iter(range(num)), compute, add
        self._room = threading.Semaphore(ahead)
        self._computed: dict[int, T] = {}
        self._next = 0
        self._adding = threading.Lock()
        self._failed = False

    def work(self) -> None:
        """Works until nothing is left to be begun, or until a thread's `compute` or `add` has raised.

        When all threads have returned, everything has been added, unless one of them raised.
        """
        try:
            while (place := self._begin()) is not None:
                self._computed[place] = self._compute(place)
                self._add_computed()
        except BaseException:
            self.stop()
            raise
        finally:
            self._room.release()  # a thread that waits for room ends as well

    def stop(self) -> None:
        """Ends all threads, each after the thing that it computes."""
        self._failed = True
        self._room.release()

    def _begin(self) -> int | None:
        self._room.acquire()
        return None if self._failed else next(self._places, None)  # atomic, so no two threads get the same one

    def _add_computed(self) -> None:
        # The thread that adds looks once more after it has released the lock: so no result is left behind.
        while self._next in self._computed and self._adding.acquire(blocking=False):
            try:
                while self._next in self._computed:
                    self._add(self._next, self._computed.pop(self._next))
                    self._next += 1
                    self._room.release()
            finally:
                self._adding.release()
