"""The functions that Dask's workers call."""

import importlib
from collections.abc import Callable
from typing import Any

MISSING = b"missing"
"""Answer: the worker lacks the computation or the server's values, which have to be sent again."""
REFUSED = b"refused"
"""Answer: the worker is not the one that was checked."""


def on_worker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of this module in a form that a process without this module can receive.

    A worker that cannot import the function raises an error when it calls it. Otherwise it would fail as it receives
    the function, and then Dask ends the worker, which others may use too. Dask's scheduler receives the function too.
    """
    module, name = __name__, function.__name__
    return lambda *arguments: getattr(importlib.import_module(module), name)(*arguments)


def describe() -> dict[str, Any]:
    """Returns what the bits of a worker's results depend on; see machine.py."""
    # `remote` too, so that no part of the code is imported later, when its files may have changed.
    from tasks.runtime.on_dask import machine, remote

    del remote
    return machine.describe()


def prove(folder: str) -> str:
    """See exchange.py."""
    from tasks.runtime.on_dask import exchange

    return exchange.prove(folder)


def compute(machine: str, part: bytes) -> bytes:
    """Returns the answer to a pickled `tasks.runtime.on_dask.remote.Part`: one of the above, or that of remote.py.

    Args:
        machine: the digest of the description that the host has.
        part: the pickled `Part`.
    """
    from tasks.runtime.on_dask.machine import digest
    from tasks.runtime.on_dask.remote import answer

    return answer(part) if digest() == machine else REFUSED
