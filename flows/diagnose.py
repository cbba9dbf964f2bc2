"""`python -m flows.diagnose RUN`: why did the loss of that run go up?"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # before Prefect's import, which takes seconds
    from flows import commands

    sys.exit(commands.diagnose())

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.commands import error_of, run_pipeline
from flows.known_secrets import safe_line
from flows.mlflow_store import connection, finished_run
from flows.mlflow_store.store_errors import store_errors
from flows.running.failed_state import failed
from flows.serving import reachability
from flows.workspace import overrides
from flows.workspace.run_folder import RUNS, find_repository
from tasks import command, lock
from tasks.diagnose import diagnose_logs
from tasks.diagnose.report.patch import flags
from tasks.errors import DataError, InputError, RunError, TrackingLost, reading
from tasks.files import read_json
from tasks.settings import Settings, load, parse, with_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOGS = ("rounds.csv", "clients.csv")
TRACKED = "reports/mlflow.json"
WRITTEN = ("diagnosis.json", "diagnosis.md", "diagnosis.html")

log = logging.getLogger("flows.diagnose")


@flow(name="diagnose", flow_run_name="diagnose {run}", persist_result=False)
def diagnose(run: str) -> State[Any]:
    """Why did the loss of that run go up?

    Args:
        run: an MLflow run id, or a folder on the worker's machine that holds reports/rounds.csv and clients.csv.
    """
    command.quiet()
    try:
        answer, told = _diagnosed(run)
    except Exception as exc:
        return failed(exc)
    create_markdown_artifact(told, key="diagnosis", description=f"of {run}")
    return Completed(message=answer)


def _diagnosed(run: str) -> tuple[str, str]:
    """Diagnoses `run`; returns the answer in one sentence, and diagnosis.md."""
    with _found(run) as found:
        answer = diagnose_logs(found.reports, found.settings, found.workspace)
        return answer, (found.reports / "diagnosis.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Found:
    """A run to diagnose: the folder of its logs, its settings, and the workspace with its data, if that is here."""

    reports: Path
    settings: Settings
    workspace: Path | None


@contextmanager
def _found(run: str) -> Iterator[_Found]:
    """Yields the run; what the block writes into the folder of its logs belongs to it.

    Raises:
        InputError: there is no such run or folder, it lacks a file, or another process runs a step in the folder.
    """
    if Path(run).is_dir():
        found = _folder(Path(run))
        with nullcontext() if found.workspace is None else lock.held(found.workspace, "diagnose"):
            yield found
    elif re.fullmatch(r"[0-9a-f]{32}", run):
        with _logged(run) as found:
            yield found
    else:
        raise InputError(f"RUN must be an MLflow run id or a folder that holds reports/rounds.csv, got {run!r}")


def _folder(folder: Path) -> _Found:
    reports = folder / "reports" if (folder / "reports/rounds.csv").is_file() else folder
    for name in LOGS:
        if not (reports / name).is_file():
            raise InputError(f"{folder} holds neither reports/{name} nor {name}")
    params = reports.parent / "params.yaml"
    if reports.name != "reports" or not params.is_file():
        return _Found(reports, Settings(), None)
    return _Found(reports, load(params), reports.parent)


@contextmanager
def _logged(run_id: str) -> Iterator[_Found]:
    """Yields the MLflow run as copies of its logs; what the block writes there goes into the run."""
    repository = find_repository(Path.cwd())
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (repository / connection.DATABASE).exists():
        raise InputError(f"MLflow at sqlite:///{connection.DATABASE} has no run {run_id}: there is no such file yet")
    try:
        opened = connection.connect(repository)
    except TrackingLost as exc:
        raise InputError(str(exc)) from exc
    with store_errors(opened.uri), tempfile.TemporaryDirectory() as holder:
        run = _find(opened.client, run_id, opened.uri)
        for name in LOGS:
            _download(opened, run_id, f"reports/{name}", holder)
        reports = Path(holder)
        workspace = _workspace(repository, run_id)
        if workspace is not None:
            yield _Found(reports, load(workspace / "params.yaml"), workspace)
        else:
            given = run.data.params.get("diagnose.significance")
            with reading(f"diagnose.significance of MLflow run {run_id} must be a number"):
                settings = parse({"diagnose": {"significance": float(given)}} if given else {})
            yield _Found(reports, settings, None)
        for name in WRITTEN:
            opened.client.log_artifact(run_id, str(reports / name), "reports")
        log.info("%s: reports/%s logged to run %s", opened.uri, ", ".join(WRITTEN), run_id)


def _workspace(repository: Path, run_id: str) -> Path | None:
    """Returns the folder on this machine in which the run was made; None if it is gone, or has been used again."""
    for tracked in (repository / TRACKED, *sorted((repository / RUNS).rglob(TRACKED))):
        with suppress(DataError):  # a damaged report of another run says nothing of this one
            if finished_run.read_report(tracked)["run_id"] == run_id:
                return tracked.parents[1]
    return None


def _find(client: "MlflowClient", run_id: str, uri: str) -> "Run":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise InputError(f"MLflow at {uri} has no run {run_id}") from exc
        raise


def _download(opened: connection.Store, run_id: str, path: str, folder: str) -> None:
    try:
        found = [each.path for each in opened.client.list_artifacts(run_id, path.rpartition("/")[0])]
        if path in found:
            opened.client.download_artifacts(run_id, path, folder)
    except Exception as exc:  # of MLflow, or of whatever keeps its files: S3, Azure, SFTP have their own each
        raise TrackingLost(f"MLflow at {opened.uri}: {path} of run {run_id} cannot be read: {safe_line(exc)}") from exc
    if path not in found:
        raise DataError(f"MLflow run {run_id} holds no {path}: it trained no round, or is not of this pipeline")


def apply(run: str) -> None:
    """Diagnoses, and runs the run's pipeline again with the remedy of the first cause."""
    repository = find_repository(Path.cwd())
    if not Path(run).is_dir():
        reachability.check_mlflow(repository)
    with _found(run) as found:
        answer = diagnose_logs(found.reports, found.settings, found.workspace)
        causes = read_json(found.reports / "diagnosis.json")["causes"]
        remedy = next((cause["remedy"]["settings"] for cause in causes if cause["remedy"]), None)
        if remedy is None or found.workspace is None:
            raise RunError(f"there is no proven remedy to apply: {answer}")
        params = found.workspace / "params.yaml"
        text = overrides.params_text(params, with_settings(found.settings, remedy))
    log.info("running again with %s", flags(remedy))
    run_pipeline(repository, text)


def report(run: str) -> None:
    """Diagnoses, as a flow run if there is a server."""
    if not Path(run).is_dir():
        reachability.check_mlflow(find_repository(Path.cwd()))
    if not reachability.prefect_address():  # a temporary one takes half a minute to start
        _diagnosed(run)
        return
    reachability.check_prefect()
    state = diagnose(run, return_state=True)
    if not state.is_completed():
        raise error_of(state)
