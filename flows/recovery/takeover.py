"""A killed run, started again: it goes on in the folder and in the MLflow run of the killed one.

A flow run has another id each time it is started, and so another folder. Before it makes that folder, it looks for the
folder of an equal run (settings, code, place of the data, repository) which (1) no process runs and (2) is not complete
in MLflow, and renames it. How that run ended does not matter: a run that stopped by an error stops again.
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

_log = logging.getLogger(__name__)

IDENTITY = ".identity"
"""The file in a flow run's folder with the run's identity."""
_PATIENCE = 60.0
"""Seconds to wait until the cells of a killed comparison on a Dask cluster end their rounds."""


def identity(repository: Path, *parts: str) -> str:
    """Returns the digest that equal flow runs share: of `parts`, the code, the stages and the repository's path.

    dvc.lock is left out: an earlier run writes it, and no result depends on it.
    """
    digest = hashlib.sha256()
    for text in (str(repository.resolve()), *parts):
        _add(digest, text.encode())
    stages = [repository / name for name in STAGE_FILES if name != "dvc.lock"]
    for path in (*stages, *_code(repository)):
        if path.is_file():
            _add(digest, path.relative_to(repository).as_posix().encode())
            _add(digest, path.read_bytes())
    return digest.hexdigest()


def mark(folder: Path, identity: str) -> None:
    """Records the identity of the flow run in `folder`."""
    with replacing(folder / IDENTITY) as fresh:
        fresh.write_text(identity, encoding="utf-8")


def take_over(repository: Path, run_id: str, identity: str) -> None:
    """Renames the newest folder of a run of `identity` that can go on to the folder of `run_id`, if there is one.

    The rename is one step: a process that is killed here leaves a folder that the next run takes over.
    """
    for folder in _candidates(repository, identity):
        with killed_runs.dead(repository, folder.name) as is_dead:
            # Checked again, now that no other process can take it.
            if is_dead and _is_of(folder, identity) and _cells_have_ended(folder):
                prefect_states.crash_flow_run(UUID(folder.name), killed_runs.KILLED)
                folder.rename(repository / RUNS / run_id)
                killed_runs.remove_lock(repository, folder.name)
                _log.info("goes on with flow run %s, which was stopped", folder.name)
                return


def _candidates(repository: Path, identity: str) -> list[Path]:
    """Returns the folders of runs of `identity` that can go on, the newest first."""
    folders = [path.parent for path in (repository / RUNS).glob(f"*/{IDENTITY}")]
    return sorted((folder for folder in folders if _is_of(folder, identity)), key=_begun_at, reverse=True)


def _is_of(folder: Path, identity: str) -> bool:
    try:
        return (folder / IDENTITY).read_text(encoding="utf-8") == identity and run_record.can_go_on(folder)
    except (OSError, UnicodeDecodeError):  # another run has just taken the folder, or the file is damaged
        return False


def _begun_at(folder: Path) -> float:
    try:
        return (folder / IDENTITY).stat().st_mtime
    except OSError:
        return 0.0


def _cells_have_ended(folder: Path) -> bool:
    """Returns whether no cell of a killed comparison runs; cells on a Dask cluster run until the end of a round."""
    cells = sorted((folder / CELL_LOCKS).glob("cell-*"))
    if cells:
        (folder / STOP).touch()
    until = time.monotonic() + _PATIENCE
    while not all(map(_is_free, cells)):
        if time.monotonic() > until:
            _log.warning("cells of flow run %s, which was killed, still run: it is left alone", folder.name)
            return False
        time.sleep(0.2)
    return True


def _is_free(lock: Path) -> bool:
    with file_lock(lock, seconds=0) as is_free:
        return is_free


def _code(repository: Path) -> Iterator[Path]:
    for name in (*CODE, *own_code(repository)):
        place = repository / name
        paths = [place] if place.is_file() else place.rglob("*")
        yield from sorted(path for path in paths if "__pycache__" not in path.parts)


def _add(digest: "hashlib._Hash", part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big") + part)
