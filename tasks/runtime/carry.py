"""Carries a client computation in plain Python to each client's data, one client after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tasks.errors import DataError, RunError
from tasks.runtime.failed import Failed

T = TypeVar("T")


def at_clients(compute: Callable[[Path], T], folders: Mapping[str, Path]) -> dict[str, T | Failed]:
    """Returns the result of a client computation for each client, in the order of `folders`.

    The result is `Failed` for a client whose data cannot be used, or on whose data the model fails. The other clients
    are not affected. A defect of the code itself is raised.

    Args:
        compute: a client computation (tasks/local) from the client's folder to numbers or vectors.
        folders: the folder of each client's data.
    """
    results: dict[str, T | Failed] = {}
    for client, folder in folders.items():
        try:
            results[client] = compute(folder)
        except (DataError, RunError) as exc:
            results[client] = Failed(str(exc))
    return results
