"""Flow runs whose process was killed before it could end them, as by `kill -9` or a power failure.

A flow run holds a file lock, which the system releases however the process ends. The next flow run of the repository
finds each flow run whose lock is free and whose MLflow run has not ended.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from flows.mlflow_store import run_record
from flows.recovery import prefect_states
from flows.workspace.file_lock import file_lock
from flows.workspace.repository import RUNS, STOP
from tasks.errors import UndriftError

_log = logging.getLogger(__name__)

_LOCKS = Path(RUNS, ".alive")
KILLED = "its process was killed; found by a later run"


@contextmanager
def alive(repository: Path, run_id: str) -> Iterator[None]:
    """Holds the lock of the flow run in the block.

    Call `end_killed_runs` only in the block: without the lock, it would end the earlier attempt that this run resumes.
    """
    path = repository / _LOCKS / run_id
    # Another process can hold the lock for a moment, while it ends or takes over an earlier attempt.
    with file_lock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def dead(repository: Path, run_id: str) -> Iterator[bool]:
    """Yields whether no process runs the flow run. If so, none can begin it during the block, not even a retry."""
    path = repository / _LOCKS / run_id
    existed = path.exists()
    with file_lock(path, seconds=0) as is_dead:
        try:
            yield is_dead
        finally:
            if is_dead and not existed:
                path.unlink(missing_ok=True)


def remove_lock(repository: Path, run_id: str) -> None:
    """Removes the lock file of a flow run whose folder is gone. Call it in a block of `dead`, which holds the lock."""
    (repository / _LOCKS / run_id).unlink(missing_ok=True)


def end_killed_run(repository: Path, run_id: str, status: str) -> None:
    """Ends the MLflow runs that a flow run left running. Does nothing if a process still runs the flow run.

    If the store does not answer, the MLflow runs stay as they are, and a warning is logged.
    """
    with dead(repository, run_id) as is_dead:
        for folder in _folders(repository / RUNS / run_id) if is_dead else []:
            try:
                run_record.end_abandoned(folder, status)
            except UndriftError as exc:
                _log.warning("%s", exc)


def end_killed_runs(repository: Path) -> None:
    """Ends the runs that killed flow runs left running: FAILED in MLflow, Crashed in Prefect.

    Their workspaces stay: a retry, or a new run with equal settings, continues in the workspace and its MLflow run.
    """
    for lock in sorted((repository / _LOCKS).glob("*")):
        with dead(repository, lock.name) as is_dead:
            folders = _folders(repository / RUNS / lock.name)
            if is_dead and any(map(run_record.is_unfinished, folders)):
                _end(lock.name, folders)


def _folders(folder: Path) -> list[Path]:
    """Returns the folder of a flow run and, for a comparison, the folders of its cells."""
    return [folder, *sorted(folder.glob("cell-*"))]


def _end(run_id: str, folders: list[Path]) -> None:
    if len(folders) > 1:
        (folders[0] / STOP).touch()  # cells on a Dask cluster can still run
    _log.info("flow run %s was killed: ending it in MLflow and in Prefect", run_id)
    for folder in folders:
        try:
            run_record.end_abandoned(folder, "FAILED")
        except UndriftError as exc:  # the calling run reports a lost store itself, if it needs MLflow
            _log.debug("%s", exc)
            return
    prefect_states.crash_flow_run(UUID(run_id), KILLED)
