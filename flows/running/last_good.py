"""The last good run of a deployment: the newest of its runs that finished, and in which nothing was wrong.

A flow run of a deployment that ends well leaves the file GOOD in its folder, also if DVC's cache had all of its
results. So the folders say which runs were good, and when. MLflow has the last word: a run is not taken if it was
deleted there, or if its tag `diagnosis.verdict` is not `none` (any more).
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.mlflow_store import tracked_results
from flows.mlflow_store.verdict_tags import PREFIX
from flows.workspace.repository import RUNS
from tasks.errors import DataError
from tasks.files import read_json, replacing

if TYPE_CHECKING:
    from mlflow import MlflowClient

GOOD = ".good"
"""The file in the folder of a flow run that holds the deployment whose good run it is, and the flow run's name."""
_SEPARATOR = " · "

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GoodRun:
    """A finished run in which nothing was wrong.

    Attributes:
        folder: of its flow run.
        run_id: of its MLflow run.
        name: that Prefect gave its flow run, such as `crazy-fox`.
    """

    folder: Path
    run_id: str
    name: str


def mark(folder: Path, is_good: bool, deployment: str, name: str) -> None:
    """Says whether the run in `folder`, which finished, is a good run of a deployment.

    Args:
        folder: of the flow run.
        is_good: whether nothing is wrong with the run.
        deployment: id of the deployment.
        name: of the flow run.
    """
    if not is_good:  # an earlier attempt can have been good
        (folder / GOOD).unlink(missing_ok=True)
        return
    with replacing(folder / GOOD) as fresh:
        fresh.write_text(json.dumps({"deployment": deployment, "flow_run": name}), encoding="utf-8")


def last_good(repository: Path, folder: Path, deployment: str, client: "MlflowClient") -> GoodRun | None:
    """Returns the newest good run of `deployment` on this machine, other than the run in `folder`; None if none is."""
    marks = [path for path in (repository / RUNS).glob(f"*/{GOOD}") if path.parent.name != folder.name]
    for path in sorted(marks, key=_written, reverse=True):
        found = _read(path, deployment)
        if found is not None and _is_good(client, found.run_id):
            return found
    return None


def _read(path: Path, deployment: str) -> GoodRun | None:
    try:
        content = read_json(path)
        if content["deployment"] != deployment:
            return None
        run_id = tracked_results.read_report(path.parent / tracked_results.REPORT)["run_id"]
        return GoodRun(path.parent, run_id, str(content["flow_run"]).rpartition(_SEPARATOR)[2])
    except (DataError, KeyError, TypeError) as damaged:
        _log.debug("%s: %s", path, damaged)
        return None


def _is_good(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    in_use = run.info.lifecycle_stage == "active" and run.info.status == "FINISHED"
    return in_use and run.data.tags.get(f"{PREFIX}verdict") == "none"


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # its folder has just been removed
        return 0.0
