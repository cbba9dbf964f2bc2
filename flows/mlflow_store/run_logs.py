"""Opens the logs of a run for a diagnosis: from a folder, or from MLflow, which then gets the diagnosis too."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, tracked_results, verdict_tags
from flows.mlflow_store.store_errors import store_errors
from flows.mlflow_store.tracked_results import REPORT
from flows.workspace.repository import RUNS, find_repository
from tasks import lock
from tasks.errors import DataError, InputError, TrackingLost, reading
from tasks.settings import Settings, load, parse

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOGS = ("rounds.csv", "clients.csv")
"""The files that a diagnosis needs."""
WRITTEN = ("diagnosis.json", "diagnosis.md", "diagnosis.html")
"""The files that a diagnosis writes next to the logs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunLogs:
    """A run to diagnose.

    Attributes:
        reports: the folder with the run's logs.
        settings: the run's settings; the default of each setting that is not known.
        workspace: the folder with the run's data; None if it is not on this machine.
    """

    reports: Path
    settings: Settings
    workspace: Path | None


@contextmanager
def open_run_logs(run: str) -> Iterator[RunLogs]:
    """Yields the logs of `run`, an MLflow run id or a folder. The block writes the diagnosis next to the logs.

    Raises:
        InputError: the run or folder does not exist or lacks a file, or another process runs a step in the folder.
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


def find_run(run: str, repository: Path) -> RunLogs:
    """Returns `run`, an MLflow run id or a folder, without reading its logs.

    Raises:
        InputError: the folder holds no run, or the folder of the MLflow run is not on this machine.
    """
    if Path(run).is_dir():
        return _in_folder(Path(run))
    if not re.fullmatch(r"[0-9a-f]{32}", run):
        raise InputError(f"a run must be an MLflow run id or a folder that holds reports/rounds.csv, got {run!r}")
    workspace = _workspace(repository, run)
    if workspace is None:
        raise InputError(
            f"the folder of MLflow run {run} is not on this machine, so it cannot be compared: run it again"
        )
    return RunLogs(workspace / "reports", load(workspace / "params.yaml"), workspace)


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
    """Yields copies of the MLflow run's logs. After the block, logs the files of WRITTEN and the verdict to the run."""
    repository = find_repository(Path.cwd())
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (repository / connection.DATABASE).exists():
        raise InputError(f"MLflow at sqlite:///{connection.DATABASE} has no run {run_id}: the file does not exist yet")
    try:
        opened = connection.connect(repository)
    except TrackingLost as exc:
        raise InputError(str(exc)) from exc
    with store_errors(opened.uri), tempfile.TemporaryDirectory() as holder:
        run = _find(opened.client, run_id, opened.uri)
        for name in LOGS:
            _download(opened, run_id, f"reports/{name}", holder)
        workspace = _workspace(repository, run_id, run.data.tags.get(tracked_results.TAG, ""))
        settings = load(workspace / "params.yaml") if workspace else _logged_settings(run)
        yield RunLogs(Path(holder), settings, workspace)
        for name in WRITTEN:
            opened.client.log_artifact(run_id, str(Path(holder, name)), "reports")
        verdict_tags.mark(opened.client, run_id, Path(holder))
        _log.info("%s: reports/%s logged to run %s", opened.uri, ", ".join(WRITTEN), run_id)


def _logged_settings(run: "Run") -> Settings:
    """Returns the defaults with the run's diagnose.significance. Without the run's data, no other setting is used."""
    significance = run.data.params.get("diagnose.significance")
    with reading(f"diagnose.significance of MLflow run {run.info.run_id} must be a number"):
        return parse({"diagnose": {"significance": float(significance)}} if significance else {})


def _workspace(repository: Path, run_id: str, digest: str = "") -> Path | None:
    """Returns the folder on this machine that has the run's results; None if there is none.

    `digest` is that of the run's settings and results. With it, the repository's folder is known although DVC has
    restored the results there, and reports/mlflow.json names another run.
    """
    if digest and tracked_results.digest_in(repository) == digest:
        return repository
    for report in (repository / REPORT, *sorted((repository / RUNS).rglob(REPORT))):
        if tracked_results.run_in(report.parents[1]) == run_id:
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
    except Exception as exc:  # an error of MLflow or of the file store; S3, Azure and SFTP each have their own
        raise TrackingLost(f"MLflow at {opened.uri}: {path} of run {run_id} cannot be read: {safe_line(exc)}") from exc
    if path not in paths:
        raise DataError(f"MLflow run {run_id} holds no {path}: it trained no round, or another program made it")
