"""The logs of a run that is to be diagnosed: in a folder, or in MLflow, whose diagnosis goes back into the run."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, finished_run
from flows.mlflow_store.store_errors import store_errors
from flows.workspace.repository import RUNS, find_repository
from tasks import lock
from tasks.errors import DataError, InputError, TrackingLost, reading
from tasks.settings import Settings, load, parse

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOGS = ("rounds.csv", "clients.csv")
"""What a diagnosis needs."""
WRITTEN = ("diagnosis.json", "diagnosis.md", "diagnosis.html")
"""What a diagnosis writes beside the logs."""
_REPORT = "reports/mlflow.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunLogs:
    """A run to diagnose.

    Attributes:
        reports: the folder with the run's logs.
        settings: the run's settings; defaults where the run does not say them.
        workspace: the folder with the run's data; None if it is not on this machine.
    """

    reports: Path
    settings: Settings
    workspace: Path | None


@contextmanager
def open_run_logs(run: str) -> Iterator[RunLogs]:
    """Yields the logs of `run`, an MLflow run id or a folder; the block writes the diagnosis beside the logs.

    Raises:
        InputError: there is no such run or folder, it lacks a file, or another process runs a step in the folder.
    """
    if Path(run).is_dir():
        logs = _in_folder(Path(run))
        with nullcontext() if logs.workspace is None else lock.held(logs.workspace, "diagnose"):
            yield logs
        _log.info("report: %s", logs.reports / "diagnosis.html")
    elif re.fullmatch(r"[0-9a-f]{32}", run):
        with _in_mlflow(run) as logs:
            yield logs
    else:
        raise InputError(f"RUN must be an MLflow run id or a folder that holds reports/rounds.csv, got {run!r}")


def _in_folder(folder: Path) -> RunLogs:
    reports = folder / "reports" if (folder / "reports/rounds.csv").is_file() else folder
    for name in LOGS:
        if not (reports / name).is_file():
            raise InputError(f"{folder} holds neither reports/{name} nor {name}")
    params = reports.parent / "params.yaml"
    if reports.name != "reports" or not params.is_file():
        return RunLogs(reports, Settings(), None)
    return RunLogs(reports, load(params), reports.parent)


@contextmanager
def _in_mlflow(run_id: str) -> Iterator[RunLogs]:
    """Yields copies of the MLflow run's logs; logs to the run what the block writes beside them."""
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
        workspace = _workspace(repository, run_id)
        settings = load(workspace / "params.yaml") if workspace else _logged_settings(run)
        yield RunLogs(Path(holder), settings, workspace)
        for name in WRITTEN:
            opened.client.log_artifact(run_id, str(Path(holder, name)), "reports")
        _log.info("%s: reports/%s logged to run %s", opened.uri, ", ".join(WRITTEN), run_id)


def _logged_settings(run: "Run") -> Settings:
    """Returns the defaults with the run's own diagnose.significance: without its data, no other setting is used."""
    significance = run.data.params.get("diagnose.significance")
    with reading(f"diagnose.significance of MLflow run {run.info.run_id} must be a number"):
        return parse({"diagnose": {"significance": float(significance)}} if significance else {})


def _workspace(repository: Path, run_id: str) -> Path | None:
    """Returns the folder on this machine in which the run was made; None if it is gone, or has been used again."""
    for report in (repository / _REPORT, *sorted((repository / RUNS).rglob(_REPORT))):
        with suppress(DataError):  # a damaged report of another run is not about this run
            if finished_run.read_report(report)["run_id"] == run_id:
                return report.parents[1]
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
        paths = [artifact.path for artifact in opened.client.list_artifacts(run_id, path.rpartition("/")[0])]
        if path in paths:
            opened.client.download_artifacts(run_id, path, folder)
    except Exception as exc:  # MLflow's, or that of the file store: S3, Azure and SFTP have errors of their own
        raise TrackingLost(f"MLflow at {opened.uri}: {path} of run {run_id} cannot be read: {safe_line(exc)}") from exc
    if path not in paths:
        raise DataError(f"MLflow run {run_id} holds no {path}: it trained no round, or is not of this pipeline")
