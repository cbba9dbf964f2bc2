"""DVC's hashes of files and folders as they are on disk, and the removal of damaged objects from DVC's cache.

An object is damaged if the hash of its bytes differs from its name. DVC itself does not read again (1) a
write-protected file of its cache, (2) a file of a workspace whose time stamp it knows. So DVC would restore bytes that
a disk, a copy or a program has changed.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo

_BLOCK = 1 << 20
"""Bytes of a file that are hashed at a time."""
_OID = re.compile(r"[0-9a-f]{32}(\.dir)?")


def dvc_hash(path: Path) -> str:
    """Returns DVC's hash of a file (32 hex digits) or folder (`<32 hex digits>.dir`), computed from the disk.

    dvc.lock is not used: it is out of date if steps were run by hand, and missing in a folder without DVC.
    """
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    nowhere = HashFileDB(MemoryFileSystem(), "/")  # type: ignore[no-untyped-call]
    disk = LocalFileSystem()  # type: ignore[no-untyped-call]
    return str(build(nowhere, str(path.resolve()), disk, "md5", dry_run=True)[2].hash_info.value)


def remove_damaged(repo: "Repo", oid: str) -> list[Path]:
    """Removes the object `oid` from DVC's cache if it is damaged. If it is a folder, also removes its damaged files.

    Returns:
        The paths of the removed objects.
    """
    removed = []
    for path, digest in _objects(Path(repo.cache.local.path), oid):
        if path.is_file() and _md5(path) != digest:
            path.unlink()
            removed.append(path)
    return removed


def _objects(cache: Path, oid: str) -> Iterator[tuple[Path, str]]:
    """Yields (path, digest) of an object. A folder's files come first, because their list can be removed afterwards."""
    place = cache / oid[:2] / oid[2:]
    if oid.endswith(".dir") and place.is_file():
        try:
            named = {str(entry["md5"]) for entry in json.loads(place.read_bytes())}
        except (ValueError, TypeError, KeyError):  # the list itself is damaged
            named = set()
        for digest in sorted(filter(_OID.fullmatch, named)):
            yield cache / digest[:2] / digest[2:], digest
    yield place, oid.removesuffix(".dir")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
