"""Lets a new flow run continue an unfinished one, in the same folder and MLflow run.

Each start of a flow gets a new flow run id, and so a new folder. Before that folder is made, this module looks for an
earlier run that (1) has the same settings (but for `federate.runtime`), code, data path and repository, (2) has no
process, and (3) is not complete in MLflow. It renames that run's folder. How the earlier run ended does not matter: if
an error stopped it, the new run stops at the same error.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import yaml

from flows.mlflow_store import run_record
from flows.recovery import killed_runs, prefect_states
from flows.workspace.file_lock import file_lock
from flows.workspace.own_code import own_code
from flows.workspace.repository import CELL_LOCKS, CODE, RUNS, STAGE_FILES, STOP
from tasks.files import replacing

_log = logging.getLogger(__name__)

IDENTITY = ".identity"
"""The file in a flow run's folder that holds the run's identity."""
_PATIENCE = 60.0
"""Most seconds to wait until the cells of a killed comparison end their rounds on a Dask cluster."""


def identity(repository: Path, params: Sequence[str], *parts: str) -> str:
    """Returns a digest of the settings, the code, the stages and the repository's path: equal for equal flow runs.

    Left out is what no result depends on: `federate.runtime`, because a cluster that was started again has another
    address, and dvc.lock, because an earlier run writes it.

    Args:
        repository: the folder of dvc.yaml.
        params: texts of params.yaml.
        parts: anything else that tells two runs apart.
    """
    digest = hashlib.sha256()
    for text in (str(repository.resolve()), *map(_without_runtime, params), *parts):
        _add(digest, text.encode())
    stages = [repository / name for name in STAGE_FILES if name != "dvc.lock"]
    for path in (*stages, *_code(repository)):
        if path.is_file():
            _add(digest, path.relative_to(repository).as_posix().encode())
            _add(digest, path.read_bytes())
    return digest.hexdigest()


def _without_runtime(params: str) -> str:
    settings = yaml.safe_load(params)
    settings.get("federate", {}).pop("runtime", None)
    return yaml.safe_dump(settings)


def mark(folder: Path, identity: str) -> None:
    """Records the identity of the flow run in `folder`."""
    with replacing(folder / IDENTITY) as fresh:
        fresh.write_text(identity, encoding="utf-8")


def take_over(repository: Path, run_id: str, identity: str) -> None:
    """Renames the folder of an unfinished run of `identity` to the folder of `run_id`. Does nothing if there is none.

    If there are several, the newest is taken. The rename is atomic: if this process is killed, the next run can take
    the folder over.
    """
    for folder in _candidates(repository, identity):
        with killed_runs.dead(repository, folder.name) as is_dead:
            # Checked again: from here on, no other process can take the folder.
            if is_dead and _is_of(folder, identity) and _cells_have_ended(folder):
                prefect_states.crash_flow_run(UUID(folder.name), killed_runs.KILLED)
                folder.rename(repository / RUNS / run_id)
                killed_runs.remove_lock(repository, folder.name)
                _log.info("continues flow run %s, which had stopped before its end", folder.name)
                return


def _candidates(repository: Path, identity: str) -> list[Path]:
    """Returns the folders of the unfinished runs of `identity`, the newest first."""
    folders = [path.parent for path in (repository / RUNS).glob(f"*/{IDENTITY}")]
    return sorted((folder for folder in folders if _is_of(folder, identity)), key=_begun_at, reverse=True)


def _is_of(folder: Path, identity: str) -> bool:
    try:
        return (folder / IDENTITY).read_text(encoding="utf-8") == identity and run_record.can_go_on(folder)
    except (OSError, UnicodeDecodeError):  # another run has just renamed the folder, or the file is damaged
        return False


def _begun_at(folder: Path) -> float:
    try:
        return (folder / IDENTITY).stat().st_mtime
    except OSError:
        return 0.0


def _cells_have_ended(folder: Path) -> bool:
    """Stops the cells of a killed comparison. Returns whether all have ended within _PATIENCE seconds.

    On a Dask cluster, a cell runs until the end of its round.
    """
    cells = sorted((folder / CELL_LOCKS).glob("cell-*"))
    if cells:
        (folder / STOP).touch()
    until = time.monotonic() + _PATIENCE
    while not all(map(_is_free, cells)):
        if time.monotonic() > until:
            _log.warning("flow run %s was killed, but its cells still run: it is not continued", folder.name)
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
