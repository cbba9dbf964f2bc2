"""How every client computation in plain Python begins: the client opens its own examples."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tasks.clients import Examples, Form, read_checked

T = TypeVar("T")


def on_examples(compute: Callable[[Examples], T], form: Form, num_examples: int | None, folder: Path) -> T:
    """Returns the result of `compute` for the examples in the client's `folder`.

    Args:
        compute: a function of the examples that returns numbers or vectors, but no examples.
        form: what the arrays must be.
        num_examples: how many examples there must be; None: any number.
        folder: the client's folder.

    Raises:
        DataError: see `read_checked`.
    """
    return compute(read_checked(folder, form, num_examples))
