"""DVC's hashes of files and folders as they are on disk, and DVC's cache held to them.

DVC itself never reads a file of its cache again that is write-protected, nor one in a workspace whose time stamp it
knows: bytes that a disk, a copy or a program changed would be restored as a result.
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

    Not read from dvc.lock: that is behind when steps were run by hand, and absent in a folder that DVC does not know.
    """
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    nowhere = HashFileDB(MemoryFileSystem(), "/")  # type: ignore[no-untyped-call]
    disk = LocalFileSystem()  # type: ignore[no-untyped-call]
    return str(build(nowhere, str(path.resolve()), disk, "md5", dry_run=True)[2].hash_info.value)


def remove_damaged(repo: "Repo", oid: str) -> list[Path]:
    """Removes from DVC's cache the object `oid`, and those of its files if it is a folder, that are not what they say.

    Returns:
        What was removed: objects whose bytes have another hash than their name.
    """
    removed = []
    for path, digest in _objects(Path(repo.cache.local.path), oid):
        if path.is_file() and _md5(path) != digest:
            path.unlink()
            removed.append(path)
    return removed


def _objects(cache: Path, oid: str) -> Iterator[tuple[Path, str]]:
    """Yields the place and the digest of an object, those of a folder's files first: its list is read before."""
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
