"""The clients' ids, and the files that name the clients: partition.json and preprocess.json."""

import re
from pathlib import Path
from typing import Any

from tasks.clients.shards import TEST_SHARD, shards
from tasks.errors import DataError, listed, reading
from tasks.files import as_size

_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_TAKEN = re.compile(
    r"test|__pycache__|dvc\.yaml|dvc\.lock|dvcfile|.*\.(json|dvc|pyc)|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.I
)
"""Names that no client can have, in any case of letters, because some file systems ignore the case.

A client's raw data can be a file or folder of this name, and `unzip` makes a folder of it from a shard. DVC leaves out
the names in .dvcignore and in its own defaults. con, prn, … are devices on Windows.
"""


def check_client_id(client: str) -> str:
    """Returns `client` if DVC, git and every file system keep a folder of this name.

    Raises:
        DataError: the id (1) has characters other than letters, digits and `._-`, or more than 100, (2) begins with a
            dot (DVC leaves out `.git`), (3) ends with a dot (Windows drops it), or (4) has another meaning.
    """
    if not _CLIENT_ID.fullmatch(client):
        raise DataError(
            "a client id must be 1 to 100 letters, digits and ._-, without a dot at the beginning or end (DVC or a "
            f"file system would lose it), got {client!r}: rename the client"
        )
    if _TAKEN.fullmatch(client):
        raise DataError(
            "a client id must not be test, __pycache__, *.json, *.pyc, *.dvc, dvc.yaml, dvc.lock, dvcfile or a device "
            f"(con, nul, com1, ...), in small or capital letters, got {client!r}: rename the client"
        )
    return client


def client_sizes(record: Any, path: Path, step: str) -> dict[str, int]:
    """Returns the clients in partition.json or preprocess.json, sorted by id, with their numbers of examples.

    The next step must find exactly these clients: the shards alone do not show which client is missing.

    Args:
        record: the content of the file.
        path: the file; the shards are next to it.
        step: the step that writes it.

    Raises:
        DataError: (1) the file has no clients with numbers of examples, (2) a client's id is not allowed, or (3) there
            is a file or folder that these clients do not have, such as the folders of earlier versions.
    """
    with reading(f"{path} must name the clients with their numbers of examples (run the step {step} again)"):
        named = {client: _size(of_client) for client, of_client in sorted(record["clients"].items())}
    for client in named:
        try:
            check_client_id(client)
        except DataError as exc:
            raise DataError(f"{path}: {exc}") from exc
    if not named:
        raise DataError(f"{path} names no client: run the step {step} again")
    allowed = {*shards(list(named)), TEST_SHARD}
    # A desktop leaves files such as .DS_Store.
    others = [
        entry.name
        for entry in path.parent.iterdir()
        if entry.name not in allowed
        and (entry.is_dir() or not (entry.name.startswith(".") or entry.name.endswith(".json")))
    ]
    if others:
        raise DataError(
            f"{path.parent} must hold {listed(sorted(allowed - {TEST_SHARD}), 2)} for the clients that {path.name} "
            f"names, and {TEST_SHARD}, got {len(others)} more ({', '.join(sorted(others)[:5])}): "
            f"run the step {step} again"
        )
    return named


def _size(of_client: Any) -> int:
    size = of_client["num_examples"] if isinstance(of_client, dict) else of_client
    return as_size(size)
