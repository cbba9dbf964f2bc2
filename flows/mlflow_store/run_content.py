"""The content of an MLflow run of Undrift. Each function writes or reads one part of a run, given the run's id.

No function here uses MLflow's active run: it belongs to a thread, and the tasks of a flow run in many threads, so a
number could be logged to the wrong run. Every function can be called while the run trains, or once at its end.
"""

import contextlib
import getpass
import math
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.data.dataset import Dataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from flows.mlflow_store import changed_settings, mending, run_start
from flows.mlflow_store.connection import store_folder
from flows.mlflow_store.run_names import run_name, spelled_settings
from tasks.settings import Settings

Item = TypeVar("Item")

METRICS_PER_CALL = 1000
"""Most metrics that MLflow's server accepts in one call."""
PARAMS_PER_CALL = 100
"""Most parameters that MLflow's server accepts in one call."""


def create(
    client: MlflowClient,
    experiment_id: str,
    settings: Settings,
    folder: Path,
    tags: Mapping[str, str] | None = None,
    begun: float | None = None,
) -> str:
    """Creates a run for the workspace `folder` with the tags of its origin. Returns the run's id.

    Its name and the tag `settings.changed` say what differs from the repository's params.yaml. `begun` is when its
    first step started, in seconds since 1970; None: see `run_start.started`.
    """
    changes = changed_settings.changed(settings, store_folder(folder))
    named = changed_settings.name_of(settings, changes, run_name(settings))
    all_tags = {**origin(folder), **changed_settings.tag_of(changes), **mending.link(), **(tags or {})}
    all_tags.setdefault("mlflow.runName", named)
    run = client.create_run(experiment_id, run_start.started(begun), all_tags, all_tags["mlflow.runName"])
    return str(run.info.run_id)


def log_settings(client: MlflowClient, run_id: str, settings: Settings) -> None:
    """Logs all settings as parameters.

    `federate.runtime` keeps the values of the run's first attempt: MLflow lets no parameter change, and another attempt
    can be on another cluster.
    """
    kept = [name for name in client.get_run(run_id).data.params if name.startswith("federate.runtime.")]
    params = [Param(name, value) for name, value in spelled_settings(settings).items() if name not in kept]
    for part in _chunks(params, PARAMS_PER_CALL):
        client.log_batch(run_id, params=part)


def log_rounds(client: MlflowClient, run_id: str, rows: Iterable[Mapping[str, str]]) -> int:
    """Logs rows of rounds.csv: each number becomes a point of the metric of its column, at the step of its round.

    Empty cells (in a round that was not evaluated) and text cells (`phase`) give no point.

    Returns:
        The last round of the rows; 0 if there are no rows.
    """
    points, last, now = [], 0, _now()
    for row in rows:
        last = int(row["round"])
        points += [Metric(column, number, now, last) for column, number in numbers(row).items()]
    for part in _chunks(points, METRICS_PER_CALL):
        client.log_batch(run_id, metrics=part)
    return last


def last_round(client: MlflowClient, run_id: str) -> int:
    """Returns the last round that was logged to a run; 0 if none was logged. A resumed run continues after it."""
    return max(logged_rounds(client, run_id), default=0)


def logged_rounds(client: MlflowClient, run_id: str) -> set[int]:
    """Returns the rounds that were logged to a run. They have gaps if a step was killed, or restored from the cache."""
    # This column is filled and finite in every round.
    return {point.step for point in client.get_metric_history(run_id, "num_clients")}


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Returns column → number, for the cells of a row of rounds.csv that hold a number (NaN too), except `round`."""
    parsed = {column: _number(cell) for column, cell in row.items() if column != "round"}
    return {column: number for column, number in parsed.items() if number is not None}


def log_scores(
    client: MlflowClient,
    run_id: str,
    scores: Mapping[str, float],
    curves: Mapping[str, int],
    model_id: str | None = None,
    data: Dataset | None = None,
    earlier: int = 0,
) -> None:
    """Logs final scores to the run, and to the model that they describe.

    A score is logged at step 0, because MLflow draws numbers of step 0 as bars, for all runs side by side. If a column
    of rounds.csv has the same name, the score is logged at the last round of that curve instead.

    Args:
        client: the store's client.
        run_id: the run.
        scores: name → score; a value that is not a finite number is left out.
        curves: column of rounds.csv → the last round in which it has a number.
        model_id: the logged model that the scores describe, if there is one.
        data: the data set that the scores were computed on, if it is to be named.
        earlier: milliseconds by which the scores are dated back. MLflow logs a model's score to its run too, where the
            score with the latest time counts.
    """
    now = _now() - earlier
    about = {"model_id": model_id, "run_id": run_id}
    if data is not None:
        about |= {"dataset_name": data.name, "dataset_digest": data.digest}
    points = [
        Metric(key, float(value), now, curves.get(key, 0), **about)
        for key, value in scores.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    for part in _chunks(points, METRICS_PER_CALL):
        client.log_batch(run_id, metrics=part)


def log_data(client: MlflowClient, run_id: str, data: Mapping[str, Dataset]) -> None:
    """Logs the data sets of a run; the keys of `data` are their uses in the run (MLflow's context: `training`, …)."""
    inputs = [
        DatasetInput(each._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])
        for context, each in data.items()
    ]
    client.log_inputs(run_id, inputs)


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of the run."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def origin(folder: Path) -> dict[str, str]:
    """Returns tags that say who ran which code: the user and, if `folder` is in git, commit, branch and `git.dirty`.

    `git.dirty` ignores params.yaml and dvc.lock: a run changes them, and they are artifacts of the run.
    """
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "python -m flows.tracking"}
    with contextlib.suppress(KeyError, OSError):  # a container's user can have no name
        tags["mlflow.user"] = getpass.getuser()
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit:
        changed = _git(
            folder, "status", "--porcelain", "--", ":/", ":(top,exclude)params.yaml", ":(top,exclude)dvc.lock"
        )
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.branch"] = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
        tags["git.dirty"] = "true" if changed else "false"
    return tags


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _now() -> int:
    return int(time.time() * 1000)
