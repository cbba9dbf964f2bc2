"""A file lock (`flock`), which the system releases however the process ends."""

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
    """Holds the lock of the file `path` in the block. Yields whether the block has the lock.

    The file is created if it is missing. The process with the lock can remove the file. A lock on a removed file
    excludes nobody, so a waiting process then takes the lock of the new file at that path.

    Args:
        path: the lock file.
        seconds: the time to wait for another process. After it, the block runs without the lock, with False.
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
