"""What is kept of each client's result, so that a result is dropped as soon as its numbers have been taken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Take = Callable[[Any], Any]
"""A client's part of a CLIENTS-placed result, or its `Failed` -> what takes its place in the result."""


def _everything(result: Any) -> Any:
    return result


_TAKE: ContextVar[Take] = ContextVar("take", default=_everything)


@contextmanager
def taking(take: Take) -> Iterator[None]:
    """Within the block, TFF's computations return take(result) in place of each client's result.

    `take` is called once for each client, in the order of the clients, while later clients still compute: by one thread
    at a time, not always the same.
    """
    token = _TAKE.set(take)
    try:
        yield
    finally:
        _TAKE.reset(token)


def taken() -> Take:
    """Returns the `take` of the present block; outside of a block, everything is kept. Runtimes call this."""
    return _TAKE.get()
