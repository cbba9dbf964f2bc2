"""flows/workspace/dvc_commit.py: a file that DVC cannot copy is an error, and new objects must fit onto the disk."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.workspace import dvc_commit
from tasks.errors import RunError

# The logger that DVC uses for transfers.
TRANSFER = logging.getLogger("dvc_data.hashfile.transfer")


def log_failure(exc: BaseException) -> None:
    """Logs a file that could not be copied, in the same way as DVC."""
    try:
        raise exc
    except BaseException:
        TRANSFER.exception("failed to transfer 'abc'")


def test_a_file_that_dvc_could_not_copy_is_an_error_and_its_half_is_removed(tmp_path: Path) -> None:
    half, whole = tmp_path / ".abc.tmp", tmp_path / "abc.tmp"
    for path in (half, whole):
        path.write_text("half")

    def copy() -> None:
        with dvc_commit.copying():
            log_failure(OSError(errno.ENOSPC, "No space left on device", str(whole), None, str(half)))
            log_failure(OSError(errno.EIO, "Input/output error"))

    with pytest.raises(OSError, match="No space left on device") as caught:
        copy()
    assert caught.value.errno == errno.ENOSPC
    assert (half.exists(), whole.exists()) == (False, True)


def test_another_failure_to_copy_is_one_line_that_quotes_it() -> None:
    def copy() -> None:
        with dvc_commit.copying():
            log_failure(ValueError("no such algorithm"))

    with pytest.raises(RunError, match=r"failed to transfer 'abc'.*no such algorithm"):
        copy()


def test_copying_without_a_failure_says_nothing_and_leaves_dvc_s_logger_as_it_was() -> None:
    handlers = list(TRANSFER.handlers)
    with dvc_commit.copying():
        pass
    assert (TRANSFER.handlers, TRANSFER.propagate) == (handlers, True)


@pytest.fixture
def check_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """(free bytes, (size of an output, whether it is cached), ...) → checks the space for these outputs."""

    def check(free: int, *outputs: tuple[int, bool]) -> None:
        outs = []
        for at, (size, is_cached) in enumerate(outputs):
            path = tmp_path / f"out-{at}"
            path.write_bytes(bytes(size))
            outs.append(SimpleNamespace(fs_path=str(path), changed_cache=lambda is_cached=is_cached: not is_cached))
        monkeypatch.setattr(dvc_commit.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        repo: Any = SimpleNamespace(cache=SimpleNamespace(local=SimpleNamespace(path=str(tmp_path / "cache"))))
        stage: Any = SimpleNamespace(outs=outs)
        dvc_commit.check_space(repo, stage)

    return check


def test_only_what_the_cache_lacks_needs_room(check_space: Callable[..., None]) -> None:
    # 5,000 bytes take two blocks of 4,096; the lists of folders are counted as 65,536.
    needed = 65_536 + 8192
    check_space(needed, (5000, False), (1_000_000, True))
    with pytest.raises(OSError, match=f"{needed} bytes needed, {needed - 1} free") as caught:
        check_space(needed - 1, (5000, False), (1_000_000, True))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="bytes needed"):
        check_space(needed, (5000, False), (1, False))
    # If the cache has all outputs, a full disk is no error.
    check_space(0, (1_000_000, True))
