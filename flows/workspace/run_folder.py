"""A private DVC workspace per flow run, and the run-cache that joins it to `dvc repro` and to every other run.

`.runs/<run id>/` holds params.yaml, dvc.yaml, dvc.lock and the code that the stages depend on, as they were when the
run began, and a `.dvc/config` whose cache is the repository's. So what one run has computed no other computes again,
and no two runs ever write into one folder.
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import known_secrets
from flows.known_secrets import safe_line
from flows.workspace.dvc_commit import commit, copying
from flows.workspace.dvc_hashes import dvc_hash, remove_damaged
from flows.workspace.own_code import CODE, own_code
from flows.workspace.raw_data import is_inside
from tasks.errors import InputError, RunError
from tasks.files import replacing

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

RUNS = ".runs"
COPIED = ("dvc.yaml", "dvc.lock", ".dvcignore")

log = logging.getLogger(__name__)

# DVC resolves every path against the process's current folder.
_IN_FOLDER = threading.RLock()


def find_repository(start: Path) -> Path:
    """Returns the folder at or above `start` that holds dvc.yaml and .dvc.

    Raises:
        InputError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise InputError(f"{start.resolve()} is not inside a DVC repository with a dvc.yaml: run this in the repository")


@dataclass(frozen=True)
class Workspace:
    """One run's folder."""

    repository: Path
    folder: Path

    @classmethod
    def open(cls, repository: Path, run_id: str, params: str, data_path: str) -> "Workspace":
        """Returns the workspace of `run_id`, made if this is its first time.

        Args:
            repository: the folder of dvc.yaml.
            run_id: names the folder below .runs; a retry finds what the first attempt left.
            params: the text of params.yaml.
            data_path: `data.path`; inside the repository, it is linked into the workspace at the same place.
        """
        folder = repository / RUNS / run_id
        if folder.is_dir():
            _refresh(repository, folder)
        else:
            with replacing(folder) as fresh:
                fresh.mkdir()
                _fill(repository, folder, fresh, params, data_path)
        return cls(repository, folder)

    def restore(self, step: str) -> bool:
        """Takes the step's outputs from the cache, if a run with the same code, data and settings is there.

        The outputs of an unfinished or another run are removed first, as `dvc repro` does. What is restored is read
        and held to its hashes: if a file was damaged, it is removed from the cache too, and the step must run.
        """
        from dvc.stage.cache import RunCacheNotFoundError

        with self._repo() as repo:
            stage = _stage(repo, step)
            try:
                if not stage.changed() and _is_sound(repo, stage, ""):
                    return True
                stage.remove_outs(ignore_remove=False, force=False)
                repo.stage_cache.restore(stage)
                if not _is_sound(repo, stage, ": the step runs"):
                    stage.remove_outs(ignore_remove=False, force=False)
                    return False
                commit(repo, stage, is_sound=True)
            except (RunCacheNotFoundError, FileNotFoundError):  # a dependency is missing: the step will say so
                return False
            except OSError as exc:
                raise RunError(f"the outputs of {step} could not be taken from DVC's cache: {safe_line(exc)}") from exc
            except Exception as exc:  # what DVC raises for a damaged entry or list cannot be listed
                log.warning("%s: DVC's cache is damaged, %s: the step runs", step, safe_line(exc))
                _forget(repo, stage)
                return False
            return True

    def clear(self, step: str) -> None:
        """Removes the step's outputs, so that nothing is ever written through a link into the cache."""
        with self._repo() as repo:
            _stage(repo, step).remove_outs(ignore_remove=False, force=False)

    def commit(self, step: str) -> None:
        """Puts the step's outputs into the cache and the run into the run-cache.

        Raises:
            RunError: an output is missing, or the disk is full; the workspace keeps what the step wrote.
        """
        from dvc.exceptions import DvcException

        with self._repo() as repo:
            try:
                commit(repo, _stage(repo, step))
            except (DvcException, OSError, RunError) as exc:
                raise RunError(f"the outputs of {step} could not be put into DVC's cache: {safe_line(exc)}") from exc

    def check_remote(self) -> None:
        """Raises InputError if `push` has nowhere to go: better before the first step than after the last."""
        from dvc.config import NoRemoteError

        with self._repo() as repo:
            try:
                repo.cloud.get_remote(command="push")
            except NoRemoteError as exc:
                raise InputError("push: DVC has no default remote: dvc remote add --default NAME URL") from exc

    def push(self) -> int:
        """Sends the run's outputs and its entries of the run-cache to the default remote; returns how many files.

        Raises:
            RunError: there is no remote, or it does not take them.
        """
        from dvc.exceptions import DvcException

        with self._repo() as repo:
            try:
                with copying():
                    return int(repo.push(run_cache=True))
            except (DvcException, OSError, RunError) as exc:
                raise RunError(f"dvc push: {safe_line(exc)}") from exc

    def hashes(self) -> dict[str, str]:
        """Returns DVC's hash of every output, by its path, as dvc.lock of the workspace has them."""
        import yaml

        path = self.folder / "dvc.lock"
        stages: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}

    @contextmanager
    def _repo(self) -> Iterator["Repo"]:
        from dvc.repo import Repo, lock_repo

        # Its import sets the level to INFO: a line for every stage and lock file, beside Prefect's own.
        logging.getLogger("dvc").setLevel(logging.ERROR)
        with _IN_FOLDER:
            before = Path.cwd()
            os.chdir(self.folder)
            try:
                with _reading():
                    _remember_remotes(Path())
                    repo = Repo(str(Path.cwd()), _wait_for_lock=True)  # .runs may be a link to a shared folder
                    with lock_repo(repo):  # counts: DVC's own commands below, as push, take it again
                        yield repo
            finally:
                os.chdir(before)


@contextmanager
def _reading() -> Iterator[None]:
    """Raises DVC's complaint about params.yaml, dvc.yaml, dvc.lock or .dvc/config as InputError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as exc:
        raise InputError(f"DVC: {known_secrets.safe_text(exc)}") from exc


def _stage(repo: "Repo", step: str) -> "Stage":
    return repo.stage.load_one("dvc.yaml", step)


def _is_sound(repo: "Repo", stage: "Stage", then: str) -> bool:
    """Returns whether each output has the bytes that dvc.lock or the run-cache names.

    Otherwise what is damaged of it in the cache is removed there.

    Args:
        repo: the workspace's.
        stage: whose outputs are in the workspace.
        then: what a warning says will be done.
    """
    entry = repo.stage_cache._load(stage) or {}
    named = {out["path"]: {out.get("md5")} for out in entry.get("outs", [])}
    for out in stage.outs:
        path, known = Path(out.fs_path), named.get(out.def_path, set()) | {out.hash_info.value}
        if path.exists() and dvc_hash(path) in known:
            continue
        removed = [each for oid in known if oid for each in remove_damaged(repo, oid)]
        where = f", as {len(removed)} files of DVC's cache that are removed" if removed else ""
        log.warning("%s: %s is damaged%s%s", stage.name, out.def_path, where, then)
        return False
    return True


def _forget(repo: "Repo", stage: "Stage") -> None:
    """Removes the run-cache's entries of a stage, and its outputs: the next commit would read the entries again."""
    from dvc.stage.cache import _get_stage_hash

    stage.remove_outs(ignore_remove=False, force=False)
    shutil.rmtree(repo.stage_cache._get_cache_dir(_get_stage_hash(stage)), ignore_errors=True)


def _fill(repository: Path, folder: Path, fresh: Path, params: str, data_path: str) -> None:
    (fresh / "params.yaml").write_text(params, encoding="utf-8")
    for name in COPIED:
        if (repository / name).exists():
            shutil.copyfile(repository / name, fresh / name)
    for name in (*CODE, *own_code(repository)):
        _copy_code(repository / name, fresh / name)
    _write_config(repository, folder, fresh)
    source = repository / data_path
    apart = Path(data_path).is_absolute() or not is_inside(data_path)  # where a link would be outside this folder
    if not apart and not (fresh / data_path).exists() and source.exists():
        (fresh / data_path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / data_path).symlink_to(source.resolve(), target_is_directory=source.is_dir())


def _refresh(repository: Path, folder: Path) -> None:
    """Makes the folder of an earlier attempt ready for another.

    The code is copied again: it is what the attempt will run, and what DVC must know its results by. The configuration
    is written again, since the folder may have had another name; what DVC noted about its files by that name goes.
    """
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
    except shutil.Error as exc:  # a list of files, each with its reason
        raise RunError(f"{source.name} could not be copied into the run's folder: {exc.args[0][0][2]}") from exc


def _write_config(repository: Path, folder: Path, fresh: Path) -> None:
    """Writes the repository's own DVC configuration, remotes and all, with what makes the workspace private."""
    from configobj import ConfigObj
    from dvc.config import Config

    _remember_remotes(repository)
    with _reading():
        shared = Config(dvc_dir=str(repository / ".dvc"), validate=True)
    cache = shared["cache"].get("dir") or repository / ".dvc" / "cache"
    config = {
        "core": {**shared["core"], "no_scm": True, "site_cache_dir": str(folder / ".dvc" / "site")},
        "cache": {**shared["cache"], "dir": str(cache)},
        **{f'remote "{name}"': dict(remote) for name, remote in shared["remote"].items()},
    }
    written = ConfigObj({section: _plain(values) for section, values in config.items()}, encoding="utf-8")
    with replacing(fresh / ".dvc" / "config") as path, path.open("wb") as opened:
        path.chmod(0o600)  # a remote's password may stand in it, as in .dvc/config.local
        written.write(opened)


def _remember_remotes(folder: Path) -> None:
    """Keeps the remotes' addresses and passwords out of what is shown. Read as text: DVC may refuse and quote it."""
    for name in ("config", "config.local"):
        path = folder / ".dvc" / name
        if path.is_file():
            known_secrets.IN_USE.remember_config(path.read_text(encoding="utf-8", errors="replace"))


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns values as DVC's configuration spells them; `cache.type` is a list."""
    spelled = {key: ",".join(value) if isinstance(value, list) else value for key, value in values.items()}
    return {
        key: str(value) for key, value in spelled.items() if isinstance(value, str | int | float | bool | os.PathLike)
    }
