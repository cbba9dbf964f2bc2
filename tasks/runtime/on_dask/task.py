"""The functions that Dask's workers call. Nothing heavy is imported here, because Dask's scheduler imports it too."""

from typing import Any

MISSING = b"missing"
"""Answer: the worker lacks the computation or the server's values, which have to be sent again."""
REFUSED = b"refused"
"""Answer: the worker is not the one that was checked."""
READ, UNREAD = b"r", b"u"
"""Begin all other answers: whether the inputs of all clients could be made. A pickled `remote.Answer` follows."""


def describe() -> dict[str, Any]:
    """Returns what the bits of a worker's results depend on; see machine.py."""
    # `remote` too, so that no part of the code is imported later, when its files may have changed.
    from tasks.runtime.on_dask import machine, remote

    del remote
    return machine.describe()


def compute(machine: str, part: bytes) -> bytes:
    """Returns one of the answers above to a pickled `tasks.runtime.on_dask.remote.Part`.

    Args:
        machine: the digest of the description that the host has.
        part: the pickled `Part`.
    """
    from tasks.runtime.on_dask.machine import digest
    from tasks.runtime.on_dask.remote import answer

    return answer(part) if digest() == machine else REFUSED
