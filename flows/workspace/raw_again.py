"""Brings a run's data/partition back from DVC's cache or its remote."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from flows.known_secrets import safe_line
from flows.workspace.fill_folder import dvc_errors, remember_remotes
from tasks.errors import InputError

_PARTITION = "data/partition"
_log = logging.getLogger(__name__)


def bring_back(folder: Path, name: str) -> None:
    """Restores data/partition in the folder of a run from DVC's cache or, if it is not there, from the remote.

    Nothing happens if it is there, or if the folder has no dvc.lock.

    Raises:
        InputError: it is neither in the cache nor in a remote.
    """
    if (folder / _PARTITION / "partition.json").is_file() or not (folder / "dvc.lock").is_file():
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    before = Path.cwd()
    os.chdir(folder)  # DVC resolves every path against it
    try:
        with dvc_errors():
            remember_remotes(Path())
            repo = Repo(str(folder.resolve()))
        with suppress(DvcException):
            repo.checkout([_PARTITION], force=True)
        if not Path(_PARTITION, "partition.json").is_file():
            repo.pull([_PARTITION], force=True)
    except (DvcException, OSError) as exc:
        raise InputError(
            f"{name} cannot be compared, because its {_PARTITION} is neither in DVC's cache nor in a remote "
            f"({safe_line(exc)}): run it again"
        ) from exc
    finally:
        os.chdir(before)
    _log.info("%s: %s restored from DVC", name, _PARTITION)
