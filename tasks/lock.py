"""One process at a time in a workspace: two processes there would mix their logs, checkpoints and models."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import InputError

NAME = ".undrift.lock"
"""The file in a workspace that a running step locks. It is never removed, or two processes could lock two files."""

_log = logging.getLogger(__name__)


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Locks the workspace `folder` in the block for `what`, a step's name. The system frees it if the process ends.

    If the file system has no locks, a warning is logged and the block runs.

    Raises:
        InputError: another process has locked the workspace.
    """
    with (folder / NAME).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(100).strip() or "another step"
            raise InputError(
                f"{folder.resolve()}: {owner} runs in this folder, so {what} cannot begin: wait for it, or end it"
            ) from None
        except OSError as exc:
            _log.warning("%s cannot be locked (%s): start no second step in this folder", folder.resolve(), exc)
        lock.truncate(0)
        lock.write(f"{what} (process {os.getpid()})\n")
        lock.flush()
        yield
