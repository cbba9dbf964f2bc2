"""Which MLflow run holds the results in a workspace: reports/mlflow.json, and reports/tracked.json beside it.

reports/mlflow.json names the MLflow run, so it differs on every machine. It is no output of DVC: dvc.lock would then
change with every run. The output of the stage `track` is reports/tracked.json, which has only the hashes of what was
logged. The MLflow run has their digest as a tag, so it is found again if DVC restores the results later. Then
reports/mlflow.json can name the run before; its digest shows it.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.mlflow_store import connection, run_files
from flows.mlflow_store.run_names import spelled_settings
from flows.workspace.dvc_hashes import dvc_hash
from tasks import files
from tasks.errors import DataError
from tasks.settings import Settings

TAG = "tracked"
"""The tag of a complete MLflow run: the digest of its settings and results."""
REPORT, TRACKED = "reports/mlflow.json", "reports/tracked.json"
_DIGEST = "digest"
"""A key of both files."""
_WITHOUT_EFFECT = "federate.runtime."
"""The settings on which no result depends."""


@dataclass(frozen=True)
class Results:
    """What a run logs.

    Attributes:
        hashes: path in the workspace → DVC's hash of the data, models and reports.
        digest: of these hashes and the settings.
    """

    hashes: Mapping[str, str]
    digest: str


def results_of(settings: Settings, folder: Path) -> Results:
    """Returns the results in the workspace `folder`, all of whose files exist; every file is read."""
    paths = {*run_files.DATA, *run_files.MODEL_FILES.values(), *run_files.FILES} - {"params.yaml"}
    hashes = {path: dvc_hash(folder / path) for path in sorted(paths)}
    spelled = {
        name: value for name, value in spelled_settings(settings).items() if not name.startswith(_WITHOUT_EFFECT)
    }
    whole = json.dumps([hashes, spelled], sort_keys=True).encode()
    return Results(hashes, hashlib.md5(whole, usedforsecurity=False).hexdigest())


def find(opened: connection.Store, results: Results) -> str:
    """Returns the id of the newest finished MLflow run that has these settings and results; empty if there is none."""
    query = f"tags.{TAG} = '{results.digest}' AND attributes.status = 'FINISHED'"
    found = opened.client.search_runs([opened.experiment_id], query, max_results=1)
    return str(found[0].info.run_id) if found else ""


def write(opened: connection.Store, run_id: str, folder: Path, results: Results) -> None:
    """Writes both files for the MLflow run that holds the results in `folder`."""
    report = {"run_id": run_id, "tracking_uri": opened.uri, "experiment_id": opened.experiment_id}
    files.write_json(folder / REPORT, {**report, _DIGEST: results.digest})
    files.write_json(folder / TRACKED, {_DIGEST: results.digest, "hashes": dict(results.hashes)})


def read_report(path: Path) -> dict[str, str]:
    """Returns `run_id`, `tracking_uri` and `experiment_id` of the MLflow run that a reports/mlflow.json names.

    Raises:
        DataError: the file is missing, or does not name a run.
    """
    report = files.read_json(path)
    names = ("run_id", "tracking_uri", "experiment_id")
    if not isinstance(report, dict) or not all(isinstance(report.get(name), str) for name in names):
        raise DataError(f"{path} must name an MLflow run by {', '.join(names)}: run the step track again")
    return {name: report[name] for name in names}


def digest_in(folder: Path) -> str:
    """Returns the digest in the reports/tracked.json of the workspace `folder`; empty if there is none."""
    return _digest(folder / TRACKED)


def _digest(path: Path) -> str:
    with suppress(DataError):  # missing or damaged
        content = files.read_json(path)
        return str(content.get(_DIGEST, "")) if isinstance(content, dict) else ""
    return ""


def run_in(folder: Path) -> str:
    """Returns the id of the MLflow run whose results are in the workspace `folder`; empty if it is not known.

    If DVC has restored other results, reports/mlflow.json names the run before, and its digest is another one than that
    of reports/tracked.json. A folder without reports/tracked.json, of an earlier version, is believed.
    """
    with suppress(DataError):  # missing or damaged
        run_id = read_report(folder / REPORT)["run_id"]
        if not (folder / TRACKED).exists() or digest_in(folder) == _digest(folder / REPORT) != "":
            return run_id
    return ""
