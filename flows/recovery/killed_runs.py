"""Flow runs whose process was killed before it could end them, as by `kill -9` or a machine's power loss.

A flow run holds a lock, which the system takes from it however it ends. The next flow run of the repository finds the
runs whose lock is free and whose MLflow run never ended.
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

    Take it before `end_killed_runs`, which would end this run's earlier attempt.
    """
    path = repository / _LOCKS / run_id
    # Waits for a moment if another process just ends, or takes over, an earlier attempt.
    with file_lock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def dead(repository: Path, run_id: str) -> Iterator[bool]:
    """Yields whether no process runs the flow run; none, not even a retry, can begin it during the block."""
    path = repository / _LOCKS / run_id
    existed = path.exists()
    with file_lock(path, seconds=0) as is_dead:
        try:
            yield is_dead
        finally:
            if is_dead and not existed:
                path.unlink(missing_ok=True)


def remove_lock(repository: Path, run_id: str) -> None:
    """Removes the lock of a flow run whose folder is gone. Call it in a block of `dead`, which holds the lock."""
    (repository / _LOCKS / run_id).unlink(missing_ok=True)


def end_killed_run(repository: Path, run_id: str, status: str) -> None:
    """Ends the MLflow runs that a flow run left running, unless a process runs the flow run.

    If the store does not answer, there is a warning.
    """
    with dead(repository, run_id) as is_dead:
        for folder in _folders(repository / RUNS / run_id) if is_dead else []:
            try:
                run_record.end_abandoned(folder, status)
            except UndriftError as exc:
                _log.warning("%s", exc)


def end_killed_runs(repository: Path) -> None:
    """Ends the runs that killed flow runs left running: FAILED in MLflow, Crashed in Prefect.

    Their workspaces stay: a retry, or the same run started again, goes on in the workspace and its MLflow run.
    """
    for lock in sorted((repository / _LOCKS).glob("*")):
        with dead(repository, lock.name) as is_dead:
            folders = _folders(repository / RUNS / lock.name)
            if is_dead and any(map(run_record.is_unfinished, folders)):
                _end(lock.name, folders)


def _folders(folder: Path) -> list[Path]:
    """Returns the folders of a flow run: its own, and the cells' if it is a comparison."""
    return [folder, *sorted(folder.glob("cell-*"))]


def _end(run_id: str, folders: list[Path]) -> None:
    if len(folders) > 1:
        (folders[0] / STOP).touch()  # cells on a Dask cluster may still run
    _log.info("flow run %s was killed: it is ended in MLflow and in Prefect", run_id)
    for folder in folders:
        try:
            run_record.end_abandoned(folder, "FAILED")
        except UndriftError as exc:  # the run that looks for killed ones reports this itself, if it needs MLflow
            _log.debug("%s", exc)
            return
    prefect_states.crash_flow_run(UUID(run_id), KILLED)
