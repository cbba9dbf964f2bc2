"""Locks that the system takes from a process however it ends: `flock` on a file of its own."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of the file `path` in the block; yields whether it has it.

    The file is made where it is missing, and may be removed by who holds it: a lock on a file that is gone keeps nobody
    out, so it is taken again on the file that has its place.

    Args:
        path: the file.
        wait: until another process gives the lock back. Otherwise the block runs without it, and is given False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = _open(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield opened is not None
    finally:
        if opened is not None:
            os.close(opened)


def _open(path: Path, operation: int) -> int | None:
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(opened, operation)
            if path.exists() and os.path.samestat(os.fstat(opened), path.stat()):
                return opened
        except BlockingIOError:
            os.close(opened)
            return None
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)
