"""DVC's hashes of files and folders as they are on disk, and the objects of DVC's cache that do not match theirs.

DVC itself does not read again (1) a write-protected file of its cache, (2) a file of a workspace whose time stamp it
knows. Bytes that a disk, a copy or a program changed would be restored as a result.
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
_OID = re.compile(r"[0-9a-f]{32}(\.dir)?")


def dvc_hash(path: Path) -> str:
    """Returns DVC's hash of a file, or of a folder (`<32 hex>.dir`), as it is on disk.

    It is not read from dvc.lock, which is out of date if steps were run by hand, and missing in a folder without DVC.
    """
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    nowhere = HashFileDB(MemoryFileSystem(), "/")  # type: ignore[no-untyped-call]
    disk = LocalFileSystem()  # type: ignore[no-untyped-call]
    return str(build(nowhere, str(path.resolve()), disk, "md5", dry_run=True)[2].hash_info.value)


def remove_damaged(repo: "Repo", oid: str) -> list[Path]:
    """Removes the object `oid` from DVC's cache if it is damaged, and if it is a folder, the damaged ones of its files.

    Returns:
        The removed objects: the hash of their bytes differs from their name.
    """
    removed = []
    for path, digest in _objects(Path(repo.cache.local.path), oid):
        if path.is_file() and _md5(path) != digest:
            path.unlink()
            removed.append(path)
    return removed


def _objects(cache: Path, oid: str) -> Iterator[tuple[Path, str]]:
    """Yields path and digest of an object; for a folder, its files first: its list is read before it may be removed."""
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
