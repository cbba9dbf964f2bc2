"""The files of a finished run that MLflow gets: its data, models, reports, pictures and settings."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import DataError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATA = {"data/partition": "partition", "data/clients": "training"}
"""Data set of a run → its use in the run, which MLflow calls its context."""
MODEL_FILES = {"global": "models/global.h5", "pruned": "models/pruned.h5"}
FILES = (
    "params.yaml",
    "data/partition/partition.json",
    "data/clients/preprocess.json",
    "models/pruned.tflite",
    "models/pruned_float.tflite",
    "reports/clients.csv",
    "reports/confusion.png",
    "reports/diagnosis.html",
    "reports/diagnosis.json",
    "reports/diagnosis.md",
    "reports/drift.png",
    "reports/evaluation.json",
    "reports/labels.png",
    "reports/loss.png",
    "reports/metrics.json",
    "reports/prune.json",
    "reports/rounds.csv",
)
"""The artifacts of a run, without the models. Every finished run has these files."""
TIMINGS, LOCK = "reports/timings.csv", "dvc.lock"
"""More artifacts, if they exist."""

_log = logging.getLogger(__name__)


def check(folder: Path) -> None:
    """Raises DataError if a file of the finished run in the workspace `folder` is missing."""
    for path in (*FILES, *MODEL_FILES.values()):
        if not (folder / path).is_file():
            raise DataError(f"{path} is missing: run the step that makes it first")


def log_artifacts(client: "MlflowClient", run_id: str, folder: Path, digests: Mapping[str, str]) -> None:
    """Logs reports, pictures, settings and exported models under their paths in the workspace.

    dvc.lock is logged only if it has the hashes of this run's data and models, path → hash in `digests`: with it and
    params.yaml, `dvc pull` restores them. DVC updates dvc.lock when a stage ends, so the file is out of date if steps
    ran without DVC.
    """
    from flows.mlflow_store import data_versions

    paths = [*FILES]
    if (folder / TIMINGS).is_file():
        paths.append(TIMINGS)
    if (folder / LOCK).is_file():
        locked = data_versions.locked(folder / LOCK)
        if all(digests[path] == locked.get(path) for path in (*DATA, *MODEL_FILES.values())):
            client.log_text(run_id, data_versions.lock_of_results(folder / LOCK), LOCK)
        else:
            _log.warning("dvc.lock does not match this run's data and is not logged: run dvc repro or dvc commit")
    for path in paths:
        parent = Path(path).parent.as_posix()
        client.log_artifact(run_id, str(folder / path), None if parent == "." else parent)
