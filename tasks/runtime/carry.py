"""Carries a client computation in plain Python to each client's data, one client after the other."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from tasks.clients import Stored
from tasks.errors import DataError, RunError
from tasks.runtime.failed import Failed

T = TypeVar("T")


def at_clients(compute: Callable[[Stored], T], stored: Mapping[str, Stored]) -> dict[str, T | Failed]:
    """Returns the result of a client computation for each client, in the order of `stored`.

    The result is `Failed` for a client whose data cannot be used, or on whose data the model fails. The other clients
    are not affected. A defect of the code itself is raised.

    Args:
        compute: a client computation (tasks/local) from the client's stored examples to numbers or vectors.
        stored: each client's examples.
    """
    results: dict[str, T | Failed] = {}
    for client, examples in stored.items():
        try:
            results[client] = compute(examples)
        except (DataError, RunError) as exc:
            results[client] = Failed(str(exc))
    return results
