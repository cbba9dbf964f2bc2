"""One cell of a comparison as a Prefect task: all stages of the pipeline, in a workspace for this cell.

A cell runs in a process of a pool, on a Dask worker, or in the flow's process; its Plan holds all that it needs. Pool
processes and Dask workers import this module by its name, so it does not contain the flow.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.states import Completed

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, run_record
from flows.running.failed_state import failed
from flows.running.session import Session
from flows.running.step_run import RETRY_AFTER, OnRound, compute, restore_or_run, worth_retrying
from flows.workspace.file_lock import file_lock
from flows.workspace.repository import CELL_LOCKS, RUNS, STOP
from flows.workspace.run_folder import Workspace
from tasks import command
from tasks.errors import RunError, TrackingLost
from tasks.settings import STEPS, parse, value_at

# A Dask worker can have several threads, but TensorFlow, the current folder and DVC's lock exist once per process.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """What a cell needs to know.

    Attributes:
        repository: the folder of dvc.yaml, at the same path on every machine.
        comparison: the name of the comparison's folder below .runs, which is the flow run's id.
        name: the name of the cell's folder in the comparison's folder.
        label: the cell's values of the grid's settings, such as `server_optimizer=adam, seed=1`.
        params: the text of the cell's params.yaml.
        tags: the tags of the cell's MLflow run.
        parent: the id of the comparison's MLflow run.
    """

    repository: Path
    comparison: str
    name: str
    label: str
    params: str
    tags: Mapping[str, str]
    parent: str

    @property
    def folder(self) -> Path:
        """The cell's workspace."""
        return self.repository / RUNS / self.comparison / self.name


class Stopped(RunError):
    """The comparison was stopped, so its cell stops too."""


@task(
    name="cell",
    task_run_name="{plan.label}",
    description="all steps of one combination of settings",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_AFTER),
    retry_delay_seconds=RETRY_AFTER,
    retry_condition_fn=worth_retrying,
)
def run_cell(plan: Plan) -> State[Any]:
    """Runs a cell: each step is restored from DVC's cache or computed. The cell's MLflow run ends with the cell."""
    # Other processes get the code of this function, but import every other function by its name.
    return _attempt(plan)


def _attempt(plan: Plan) -> State[Any]:
    """Returns the cell's state. While retries are left, raises a TrackingLost, so that Prefect tries again."""
    command.quiet()
    begin = time.monotonic()
    try:
        with _ONE_AT_A_TIME, _only_warnings():
            restored = _run(plan)
    except Exception as exc:
        error = command.as_error(exc)
        if isinstance(error, TrackingLost) and runtime.task_run.run_count <= len(RETRY_AFTER):
            raise
        return failed(error)
    except SystemExit as exc:
        # A step or a user's model called sys.exit. In a pool, Prefect would wait for the cell's result for ever.
        if multiprocessing.parent_process() is None:
            raise
        return failed(RunError(f"a step, or the code of your model, called sys.exit({exc.code!r})"))
    if restored:
        return Completed(name="Cached", message="the same code, data and settings were run before")
    return Completed(message=f"{time.monotonic() - begin:.1f} s")


def begin_process() -> None:
    """Prepares a process of a pool: it ends when its parent ends, even by `kill -9`, and ignores Ctrl-C."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _run(plan: Plan) -> bool:
    """Runs the stages. Returns whether all were restored from the cache."""
    if not (plan.repository / "dvc.yaml").is_file():
        raise RunError(f"{plan.repository} is missing: a Dask worker must have the repository's folder at this path")
    if not plan.folder.parent.is_dir():
        raise RunError(f"the comparison {plan.comparison} was killed, and another run continues with its folder")
    with file_lock(plan.folder.parent / CELL_LOCKS / plan.name):
        return _stages(plan)


def _stages(plan: Plan) -> bool:
    settings = parse(yaml.safe_load(plan.params))
    workspace = Workspace.open(plan.repository, f"{plan.comparison}/{plan.name}", plan.params, settings.data.path)
    session = Session(workspace, settings, plan.tags, plan.parent)
    _find_parent(plan)
    with session.ending(Stopped):
        if not run_record.has_finished(workspace.folder):
            session.begin()
        restored = [_stage(plan, session, step) for step in STEPS]
        # After a retry of the comparison, this cell's MLflow run can be complete already.
        if not (all(restored) and run_record.has_finished(workspace.folder)):
            restore_or_run("track", session, True, session.finish)
    return all(restored)


def _stage(plan: Plan, session: Session, step: str) -> bool:
    def on_round() -> OnRound:
        run = session.live()

        def log_round(row: Mapping[str, Any], _done: int, _total: int) -> None:
            run.round(row)
            if (plan.folder.parent / STOP).exists():
                raise Stopped("the comparison was stopped")

        return log_round

    with _alone(plan, step):
        return restore_or_run(step, session, False, lambda: compute(step, session, on_round))


@contextmanager
def _alone(plan: Plan, step: str) -> Iterator[None]:
    """Lets one cell at a time run `step` with equal settings. The others wait, then find its results in the cache."""
    stages = yaml.safe_load((plan.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = yaml.safe_load(plan.params)
    names = {name for before in STEPS[: STEPS.index(step) + 1] for name in stages[before].get("params", [])}
    values = {name: value_at(params, name) for name in sorted(names)}
    key = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
    with file_lock(plan.folder.parent / CELL_LOCKS / f"{step}-{key}"):
        yield


def _find_parent(plan: Plan) -> None:
    from mlflow.exceptions import MlflowException

    opened = connection.connect(plan.folder)
    try:
        opened.client.get_run(plan.parent)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise TrackingLost(f"MLflow at {opened.uri}: {safe_line(exc)}") from exc
        raise RunError(
            f"MLflow at {opened.uri} does not know the comparison's run {plan.parent}: give every Dask worker the "
            "MLFLOW_TRACKING_URI of the comparison"
        ) from exc


@contextmanager
def _only_warnings() -> Iterator[None]:
    """Keeps INFO lines off the console, where the lines of several cells would mix. Prefect's server gets all lines."""
    consoles = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    with ExitStack() as stack:
        for handler in consoles:
            stack.callback(handler.setLevel, handler.level)
            handler.setLevel(logging.WARNING)
        yield
