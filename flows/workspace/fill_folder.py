"""Fills a run's folder from the repository: code, dvc.yaml, a link to the raw data, and a configuration of DVC."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import known_secrets
from flows.known_secrets import safe_text
from flows.workspace.own_code import own_code
from flows.workspace.raw_data import is_inside
from flows.workspace.repository import CODE, STAGE_FILES
from tasks.errors import InputError, RunError
from tasks.files import replacing


def fill(repository: Path, folder: Path, fresh: Path, params: str, data_path: str) -> None:
    """Writes all that a run needs into the folder `fresh`, which is renamed to `folder` afterwards.

    Args:
        repository: the folder of dvc.yaml.
        folder: the run's folder.
        fresh: an empty folder next to `folder`.
        params: the text of params.yaml.
        data_path: `data.path`. If it is inside the repository, the run's folder gets a link at the same path.
    """
    (fresh / "params.yaml").write_text(params, encoding="utf-8")
    for name in STAGE_FILES:
        if (repository / name).exists():
            shutil.copyfile(repository / name, fresh / name)
    for name in (*CODE, *own_code(repository)):
        _copy_code(repository / name, fresh / name)
    _write_config(repository, folder, fresh)
    source = repository / data_path
    # An absolute path needs no link. A path that leaves the repository would put the link outside the run's folder.
    has_place = not Path(data_path).is_absolute() and is_inside(data_path)
    if has_place and not (fresh / data_path).exists() and source.exists():
        (fresh / data_path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / data_path).symlink_to(source.resolve(), target_is_directory=source.is_dir())


def refresh(repository: Path, folder: Path, params: str) -> None:
    """Makes the folder of an earlier attempt ready for a new attempt, with the text `params` of params.yaml.

    The settings are written again, because `federate.runtime` can be another one (flows/recovery/takeover.py).
    The code is copied again: the new attempt runs the present code, and DVC must cache its results under that code. The
    configuration is written again, because the folder can have had another name. If the configuration changes, DVC's
    notes about files under the old name are removed.
    """
    with replacing(folder / "params.yaml") as fresh:
        fresh.write_text(params, encoding="utf-8")
    for name in (*CODE, *own_code(repository)):
        with replacing(folder / name) as fresh:
            _copy_code(repository / name, fresh)
    config = folder / ".dvc" / "config"
    before = config.read_bytes() if config.is_file() else b""
    _write_config(repository, folder, folder)
    if config.read_bytes() != before:
        for name in ("site", "tmp"):
            shutil.rmtree(folder / ".dvc" / name, ignore_errors=True)


def _copy_code(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    except shutil.Error as exc:  # holds a list of (source, target, reason)
        raise RunError(f"{source.name} could not be copied into the run's folder: {exc.args[0][0][2]}") from exc


def _write_config(repository: Path, folder: Path, fresh: Path) -> None:
    """Writes the repository's DVC configuration with its remotes, but without git and with a site cache of its own."""
    from configobj import ConfigObj
    from dvc.config import Config

    remember_remotes(repository)
    with dvc_errors():
        shared = Config(dvc_dir=str(repository / ".dvc"), validate=True)
    cache = shared["cache"].get("dir") or repository / ".dvc" / "cache"
    config = {
        "core": {**shared["core"], "no_scm": True, "site_cache_dir": str(folder / ".dvc" / "site")},
        "cache": {**shared["cache"], "dir": str(cache)},
        **{f'remote "{name}"': dict(remote) for name, remote in shared["remote"].items()},
    }
    written = ConfigObj({section: _plain(values) for section, values in config.items()}, encoding="utf-8")
    with replacing(fresh / ".dvc" / "config") as path, path.open("wb") as opened:
        path.chmod(0o600)  # like .dvc/config.local, it can hold a remote's password
        written.write(opened)


def remember_remotes(folder: Path) -> None:
    """Hides the remotes' passwords from now on. The file is read as text, because DVC may refuse it and quote it."""
    for name in ("config", "config.local"):
        path = folder / ".dvc" / name
        if path.is_file():
            known_secrets.IN_USE.remember_config(path.read_text(encoding="utf-8", errors="replace"))


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the values as a DVC configuration spells them: a list, as in `cache.type`, is joined by commas."""
    spelled = {key: ",".join(value) if isinstance(value, list) else value for key, value in values.items()}
    return {
        key: str(value) for key, value in spelled.items() if isinstance(value, str | int | float | bool | os.PathLike)
    }


@contextmanager
def dvc_errors() -> Iterator[None]:
    """Raises a DvcException of the block as InputError: it is about params.yaml, dvc.yaml, dvc.lock or .dvc/config."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as exc:
        raise InputError(f"DVC: {safe_text(exc)}") from exc
