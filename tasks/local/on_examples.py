"""How every client computation in plain Python begins: the client opens its own examples."""

from collections.abc import Callable
from typing import TypeVar

from tasks.clients import Examples, Stored, read_checked

T = TypeVar("T")


def on_examples(compute: Callable[[Examples], T], stored: Stored) -> T:
    """Returns the result of `compute` for a client's normalised examples.

    Args:
        compute: a function of the examples that returns numbers or vectors, but no examples.
        stored: where they are.

    Raises:
        DataError: see `read_checked`.
    """
    return compute(read_checked(stored))
