"""A run that was killed, started again: it goes on in the folder, and in the MLflow run, of the killed one.

A flow run has another id each time it is started, so its folder would be another one too. Before it fills that, it
looks for the folder of a run of the same (settings, code, data's place, repository) that no process runs and whose
MLflow run is not whole, and renames it. How that run ended does not matter: what stopped by itself stops again.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from flows.mlflow_store import run_record
from flows.recovery import killed_runs, prefect_states
from flows.workspace.file_lock import file_lock
from flows.workspace.own_code import own_code
from flows.workspace.repository import CELL_LOCKS, CODE, RUNS, STAGE_FILES, STOP
from tasks.files import replacing

log = logging.getLogger(__name__)

IDENTITY = ".identity"
"""The file in a flow run's folder that says what the run is of."""
_PATIENCE = 60.0
"""Seconds in which the cells of a killed comparison, on a Dask cluster, come to the end of their rounds."""


def identity(repository: Path, *what: str) -> str:
    """Returns the digest of what makes two flow runs the same: `what`, the code and the stages, and the repository.

    dvc.lock is left out: a run before writes it, and no result depends on it.
    """
    digest = hashlib.sha256()
    for text in (str(repository.resolve()), *what):
        _add(digest, text.encode())
    stages = [repository / name for name in STAGE_FILES if name != "dvc.lock"]
    for path in (*stages, *_code(repository)):
        if path.is_file():
            _add(digest, path.relative_to(repository).as_posix().encode())
            _add(digest, path.read_bytes())
    return digest.hexdigest()


def mark(folder: Path, identity: str) -> None:
    """Records what the flow run in `folder` is of."""
    with replacing(folder / IDENTITY) as fresh:
        fresh.write_text(identity, encoding="utf-8")


def take_over(repository: Path, run_id: str, identity: str) -> None:
    """Makes the newest folder of a run of `identity` that can go on the folder of `run_id`, if there is one.

    One rename is all that changes: a process that is killed here leaves a folder that the next run takes over.
    """
    for folder in _candidates(repository, identity):
        with killed_runs.dead(repository, folder.name) as is_dead:
            # Asked again, now that nobody else can take it.
            if is_dead and _is_of(folder, identity) and _cells_have_ended(folder):
                prefect_states.crash_flow_run(UUID(folder.name), killed_runs.KILLED)
                folder.rename(repository / RUNS / run_id)
                killed_runs.remove_lock(repository, folder.name)
                log.info("goes on with flow run %s, which was stopped", folder.name)
                return


def _candidates(repository: Path, identity: str) -> list[Path]:
    """Returns the folders of runs of `identity` that can go on, the newest first."""
    found = [path.parent for path in (repository / RUNS).glob(f"*/{IDENTITY}") if _is_of(path.parent, identity)]
    return sorted(found, key=_begun_at, reverse=True)


def _is_of(folder: Path, identity: str) -> bool:
    try:
        return (folder / IDENTITY).read_text(encoding="utf-8") == identity and run_record.can_go_on(folder)
    except (OSError, UnicodeDecodeError):  # another run has just taken it, or a damaged one
        return False


def _begun_at(folder: Path) -> float:
    try:
        return (folder / IDENTITY).stat().st_mtime
    except OSError:
        return 0.0


def _cells_have_ended(folder: Path) -> bool:
    """Returns whether no cell of a killed comparison runs any more, which those on a Dask cluster do for a round."""
    cells = sorted((folder / CELL_LOCKS).glob("cell-*"))
    if cells:
        (folder / STOP).touch()
    until = time.monotonic() + _PATIENCE
    while not all(map(_is_free, cells)):
        if time.monotonic() > until:
            log.warning("cells of flow run %s, which was killed, still run: it is left alone", folder.name)
            return False
        time.sleep(0.2)
    return True


def _is_free(lock: Path) -> bool:
    with file_lock(lock, seconds=0) as is_free:
        return is_free


def _code(repository: Path) -> Iterator[Path]:
    for name in (*CODE, *own_code(repository)):
        place = repository / name
        found = [place] if place.is_file() else place.rglob("*")
        yield from sorted(path for path in found if "__pycache__" not in path.parts)


def _add(digest: "hashlib._Hash", part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big") + part)
