"""A lock that the system takes from a process however the process ends: `flock` on a file of its own."""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_EVERY = 0.1
"""Seconds between two attempts, if the wait has a limit."""


@contextmanager
def file_lock(path: Path, seconds: float = math.inf) -> Iterator[bool]:
    """Holds the lock of the file `path` in the block; yields whether it has the lock.

    The file is made if it is missing. Its holder may remove it: a lock on a removed file keeps nobody out, so a waiting
    process takes the lock of the new file at that path.

    Args:
        path: the file.
        seconds: to wait for another process. After that the block runs without the lock, and False is yielded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = _open(path, seconds)
    try:
        yield opened is not None
    finally:
        if opened is not None:
            os.close(opened)


def _open(path: Path, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    operation = fcntl.LOCK_EX if seconds == math.inf else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(opened, operation)
            if path.exists() and os.path.samestat(os.fstat(opened), path.stat()):
                return opened
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(opened)
                return None
            time.sleep(_LOOK_EVERY)
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)
