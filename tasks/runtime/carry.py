"""Client computations in plain Python: carried to each client's data, one client after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tasks.errors import DataError, RunError
from tasks.runtime.failed import Failed

T = TypeVar("T")


def at_clients(compute: Callable[[Path], T], folders: Mapping[str, Path]) -> dict[str, T | Failed]:
    """Returns what a client computation gives at each client, in the order of `folders`.

    A client whose data cannot be used, or on whose data the model fails, is `Failed`; the others are not touched by it.

    Args:
        compute: a client computation (tasks/local): the client's folder -> numbers, or vectors of the model's size.
        folders: where each client's data are.
    """
    results: dict[str, T | Failed] = {}
    for client, folder in folders.items():
        try:
            results[client] = compute(folder)
        except (DataError, RunError) as exc:
            results[client] = Failed(str(exc))
    return results
