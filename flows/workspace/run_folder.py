"""A private DVC workspace for each flow run; all runs and `dvc repro` share the repository's DVC cache.

`.runs/<run id>/` holds (1) params.yaml, dvc.yaml, dvc.lock and the code of the stages, as they were when the run began,
(2) a `.dvc/config` with the repository's cache. So a run takes results that another run computed from the cache, and no
two runs write into the same folder.
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.known_secrets import safe_line
from flows.workspace.dvc_commit import commit, copying
from flows.workspace.dvc_hashes import dvc_hash, remove_damaged
from flows.workspace.fill_folder import dvc_errors, fill, refresh, remember_remotes
from flows.workspace.repository import RUNS
from tasks.errors import InputError, RunError
from tasks.files import replacing

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

_log = logging.getLogger(__name__)

# DVC resolves every path against the process's current folder.
_IN_FOLDER = threading.RLock()


@dataclass(frozen=True)
class Workspace:
    """One run's folder."""

    repository: Path
    folder: Path

    @classmethod
    def open(cls, repository: Path, run_id: str, params: str, data_path: str) -> "Workspace":
        """Returns the workspace of `run_id`; the first call creates it.

        Args:
            repository: the folder of dvc.yaml.
            run_id: the name of the folder below .runs. A retry finds the files of the first attempt there.
            params: the text of params.yaml.
            data_path: `data.path`. If it is inside the repository, the workspace gets a link at the same path.
        """
        folder = repository / RUNS / run_id
        if folder.is_dir():
            refresh(repository, folder, params)
        else:
            with replacing(folder) as fresh:
                fresh.mkdir()
                fill(repository, folder, fresh, params, data_path)
        return cls(repository, folder)

    def restore(self, step: str) -> bool:
        """Restores the step's outputs from the cache.

        The outputs of an unfinished or another run are removed first, as `dvc repro` does. The restored files are read
        and compared with their hashes. A damaged file is removed, from the cache too, and the step must run.

        Returns:
            Whether the outputs are restored. They are not if (1) no run with this code, data and settings is in the
            cache, (2) it is damaged there, or (3) a dependency of the step is missing.

        Raises:
            RunError: the files cannot be read or written.
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
            except (
                RunCacheNotFoundError,
                FileNotFoundError,
            ):  # no such run, or a dependency is missing, which the step reports
                return False
            except OSError as exc:
                raise RunError(f"the outputs of {step} could not be taken from DVC's cache: {safe_line(exc)}") from exc
            except Exception as exc:  # DVC has no own error class for a damaged entry or list
                _log.warning("%s: DVC's cache is damaged (%s): the step runs", step, safe_line(exc))
                _forget(repo, stage)
                return False
            return True

    def clear(self, step: str) -> None:
        """Removes the step's outputs. Otherwise, the step could write through a link into the cache."""
        with self._repo() as repo:
            _stage(repo, step).remove_outs(ignore_remove=False, force=False)

    def commit(self, step: str) -> None:
        """Puts the step's outputs into the cache, and records the run in the run-cache.

        Raises:
            RunError: an output is missing, or the disk is full. The workspace keeps the files that the step wrote.
        """
        from dvc.exceptions import DvcException

        with self._repo() as repo:
            try:
                commit(repo, _stage(repo, step))
            except (DvcException, OSError, RunError) as exc:
                raise RunError(f"the outputs of {step} could not be put into DVC's cache: {safe_line(exc)}") from exc

    def check_remote(self) -> None:
        """Raises InputError if `push` has no remote. Call it before the first step: after the last, it is too late."""
        from dvc.config import NoRemoteError

        with self._repo() as repo:
            try:
                repo.cloud.get_remote(command="push")
            except NoRemoteError as exc:
                raise InputError("push: DVC has no default remote: dvc remote add --default NAME URL") from exc

    def push(self) -> int:
        """Sends the run's outputs and run-cache entries to the default remote. Returns the number of sent files.

        Raises:
            RunError: there is no remote, or it refuses the files.
        """
        from dvc.exceptions import DvcException

        with self._repo() as repo:
            try:
                with copying():
                    return int(repo.push(run_cache=True))
            except (DvcException, OSError, RunError) as exc:
                raise RunError(f"dvc push: {safe_line(exc)}") from exc

    def bring_back(self, path: str) -> None:
        """Restores an output that is not in the workspace, from DVC's cache or, if it is not there, from the remote.

        Nothing happens without a dvc.lock.

        Raises:
            InputError: it is neither in the cache nor in a remote.
        """
        from dvc.exceptions import DvcException

        if (self.folder / path).exists() or not (self.folder / "dvc.lock").is_file():
            return
        with self._repo() as repo:
            try:
                with suppress(DvcException):
                    repo.checkout([path], force=True)
                if not (self.folder / path).exists():
                    repo.pull([path], force=True)
            except (DvcException, OSError) as exc:
                raise InputError(
                    f"{self.folder}: {path} is neither in DVC's cache nor in a remote ({safe_line(exc)}): run it again"
                ) from exc

    def hashes(self) -> dict[str, str]:
        """Returns path → DVC's hash, for every output in the workspace's dvc.lock."""
        import yaml

        path = self.folder / "dvc.lock"
        stages: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}

    @contextmanager
    def _repo(self) -> Iterator["Repo"]:
        from dvc.repo import Repo, lock_repo

        # DVC's import sets the level to INFO, which adds a line for every stage and lock file to Prefect's lines.
        logging.getLogger("dvc").setLevel(logging.ERROR)
        with _IN_FOLDER:
            before = Path.cwd()
            os.chdir(self.folder)
            try:
                with dvc_errors():
                    remember_remotes(Path())
                    repo = Repo(str(Path.cwd()), _wait_for_lock=True)  # .runs can be a link to a shared folder
                    with lock_repo(repo):  # reentrant: DVC's own commands, such as push, take it again
                        yield repo
            finally:
                os.chdir(before)


def _stage(repo: "Repo", step: str) -> "Stage":
    return repo.stage.load_one("dvc.yaml", step)


def _is_sound(repo: "Repo", stage: "Stage", then: str) -> bool:
    """Returns whether each output has its hash from dvc.lock or from the run-cache.

    If an output differs, removes its damaged objects from the cache, and logs a warning.

    Args:
        repo: the DVC repository of the workspace.
        stage: the stage, whose outputs are in the workspace.
        then: the end of the warning, which says what happens next.
    """
    entry = repo.stage_cache._load(stage) or {}
    named = {out["path"]: {out.get("md5")} for out in entry.get("outs", [])}
    for out in stage.outs:
        path, expected = Path(out.fs_path), named.get(out.def_path, set()) | {out.hash_info.value}
        if path.exists() and dvc_hash(path) in expected:
            continue
        removed = [path for oid in expected if oid for path in remove_damaged(repo, oid)]
        where = f" ({len(removed)} damaged files removed from DVC's cache)" if removed else ""
        _log.warning("%s: %s is damaged%s%s", stage.name, out.def_path, where, then)
        return False
    return True


def _forget(repo: "Repo", stage: "Stage") -> None:
    """Removes a stage's outputs, and its damaged entries in the run-cache, which the next commit would read again."""
    from dvc.stage.cache import _get_stage_hash

    stage.remove_outs(ignore_remove=False, force=False)
    shutil.rmtree(repo.stage_cache._get_cache_dir(_get_stage_hash(stage)), ignore_errors=True)
