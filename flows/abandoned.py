"""Runs whose process was killed with nobody left to say so, as by `kill -9` of a command or a machine's power loss.

A flow run holds a lock, which the system takes from it however it ends. The next flow run of the repository finds the
runs whose lock is free and whose MLflow run never ended.
"""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from flows import live, task_runs
from flows.cell import STOP
from flows.workspace import RUNS
from tasks.errors import UndriftError

log = logging.getLogger(__name__)

_LOCKS = Path(RUNS, ".alive")
_TOLD = "its process was killed; found by a later run"


@contextmanager
def alive(repository: Path, run_id: str) -> Iterator[None]:
    """Holds the lock of the flow run in the block. Take it first: `end_all` would end the run's earlier attempt."""
    path = repository / _LOCKS / run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)  # held for a moment by one who ends what an earlier attempt left
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def end_all(repository: Path) -> None:
    """Ends in MLflow (FAILED) and in Prefect (Crashed) what killed flow runs left there as running.

    Their workspaces stay: a retry of such a run goes on in it and in its MLflow run.
    """
    for lock in sorted((repository / _LOCKS).glob("*")):
        folders = _folders(repository / RUNS / lock.name)
        if any(map(live.is_unfinished, folders)):
            _end(lock, folders)


def _folders(folder: Path) -> list[Path]:
    """Returns a flow run's folders: its own, and of a comparison its cells'."""
    return [folder, *sorted(folder.glob("cell-*"))]


def _end(lock: Path, folders: list[Path]) -> None:
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if len(folders) > 1:
            (folders[0] / STOP).touch()  # cells on a Dask cluster may still run
        log.info("flow run %s was killed: it is ended in MLflow and in Prefect", lock.name)
        for folder in folders:
            try:
                live.end_abandoned(folder, "FAILED")
            except UndriftError as exc:  # the run that looked will say so itself, if it needs MLflow
                log.debug("%s", exc)
                return
        task_runs.crash_flow_run(UUID(lock.name), _TOLD)
