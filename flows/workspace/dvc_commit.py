"""Puts all outputs of a stage into DVC's cache, or raises an error that says why.

If DVC cannot copy a file, as on a full disk, it only logs that. Without this module, the run would end well, but its
data would be missing.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.known_secrets import safe_line
from flows.workspace.dvc_hashes import remove_damaged
from tasks.errors import RunError

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

_log = logging.getLogger(__name__)

_BLOCK = 4096
"""Assumed size of a disk block, in bytes; a file takes whole blocks."""
_SPARE = 64 * 1024
"""Most bytes of the lists of folders and the run-cache's entry together."""


def commit(repo: "Repo", stage: "Stage", is_sound: bool = False) -> None:
    """Puts the stage's outputs into the cache, and then the run into the run-cache and dvc.lock.

    Objects that are in the cache already are read again, and replaced if they are damaged: DVC would replace the sound
    output by a link to the damaged object. With `is_sound`, the objects are not read, because the caller has just read
    them.

    Raises:
        OSError: the disk is full, or cannot be written.
        RunError: a file did not reach the cache for another reason.
        DvcException: an output is missing.
    """
    stage.save(run_cache=False)
    for out in () if is_sound else stage.outs:
        for path in remove_damaged(repo, str(out.hash_info.value)):
            _log.warning("%s: %s was damaged in DVC's cache and is replaced", stage.name, path.name)
    check_space(repo, stage)
    with copying():
        stage.commit()
    if not stage.outs_cached():
        raise RunError("some files are missing there")
    repo.stage_cache.save(stage)
    stage.dump(update_pipeline=False)


@contextmanager
def copying() -> Iterator[None]:
    """After the block, raises the first error of a file that DVC could not copy in it, and removes half-copied files.

    Raises:
        OSError: the error of the copy.
        RunError: the copy raised another error.
    """
    transfer, failed = logging.getLogger("dvc_data.hashfile.transfer"), _Failures()
    transfer.addHandler(failed)
    transfer.propagate = False
    try:
        yield
    finally:
        transfer.removeHandler(failed)
        transfer.propagate = True
        for path in failed.halves:
            path.unlink(missing_ok=True)
        if failed.errors:
            raise failed.errors[0]


class _Failures(logging.Handler):
    """Collects what DVC logs about files that it could not copy: the errors, and the half-copied temporary files."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.halves: list[Path] = []

    def emit(self, record: logging.LogRecord) -> None:
        exc = record.exc_info[1] if record.exc_info else None
        if not isinstance(exc, OSError):
            self.errors.append(RunError(f"{record.getMessage()}: {safe_line(exc) if exc else 'no reason'}"))
            return
        self.errors.append(OSError(exc.errno, exc.strerror or str(exc)))
        for name in (exc.filename, exc.filename2):
            path = Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else Path()
            if path.name.startswith(".") and path.suffix == ".tmp":
                self.halves.append(path)


def check_space(repo: "Repo", stage: "Stage") -> None:
    """Raises OSError if the disk lacks room for the outputs of `stage` that are not in the cache yet."""
    folder = Path(repo.cache.local.path)
    folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder).free, _SPARE
    for out in filter(lambda out: out.changed_cache(), stage.outs):
        for path in _files(Path(out.fs_path)):
            with suppress(FileNotFoundError):
                needed += -(-path.stat().st_size // _BLOCK) * _BLOCK
    if _SPARE < needed > free:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes needed, {free} free, {folder}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            yield from (Path(folder, name) for name in names)
    else:
        yield path
