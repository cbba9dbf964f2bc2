"""One Prefect task per step: restore its outputs from DVC's cache, or run it and put them there."""

import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, cast
from uuid import UUID

from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from flows.running import ui_artifacts
from flows.running.failed_state import failed
from flows.running.session import Session
from tasks import command, lock, timings
from tasks.__main__ import PURPOSE
from tasks.errors import TrackingLost
from tasks.settings import STEPS

log = logging.getLogger(__name__)

OnRound = Callable[[Mapping[str, Any], int, int], None]
"""As `tasks.federate.rounds.Watch`, which takes TensorFlow's import."""

WITH_ROUNDS = ("federate", "prune")
_SHOW_EVERY = 2.0
RETRY_AFTER = [5.0, 30.0]
"""Seconds before each new try of a step whose MLflow server was lost."""


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step may succeed the next time: what it needs was away. Wrong settings stay wrong."""
    return isinstance(state.result(raise_on_failure=False), TrackingLost)


def _task(name: str, description: str, run: Callable[[Session, bool], State[Any]]) -> Task[[Session, bool], State[Any]]:
    made: Task[[Session, bool], State[Any]] = task(
        name=name,
        task_run_name=name,
        description=description,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_AFTER),
        retry_delay_seconds=RETRY_AFTER,
        retry_condition_fn=worth_retrying,
    )(run)
    return made


def restore_or_run(step: str, session: Session, force: bool, run: Callable[[], None]) -> bool:
    """Takes the step's outputs from DVC's cache, or runs it and puts them there; returns whether they were there."""
    with lock.held(session.workspace.folder, step):
        if not force and session.workspace.restore(step):
            return True
        session.workspace.clear(step)
        run()
        session.workspace.commit(step)
        return False


def _restored_or(step: str, session: Session, force: bool, run: Callable[[], None]) -> State[Any]:
    """Returns the state of the step's task: `Cached`, `Completed`, or `Failed` with the user's error as its message."""
    begun = time.monotonic()
    try:
        if restore_or_run(step, session, force, run):
            return Completed(name="Cached", message=f"{step}: the same code, data and settings were run before")
    except Exception as exc:
        error = command.as_error(exc)
        # `data/raw.npz` as params.yaml has it, not where it lies in the workspace.
        return failed(type(error)(str(error).replace(f"{session.workspace.folder}{os.sep}", "")))
    return Completed(message=f"{step}: {time.monotonic() - begun:.1f} s")


def compute(step: str, session: Session, watch: Callable[[], OnRound]) -> None:
    """Runs a step of `tasks` in the workspace, and records its seconds.

    Args:
        step: which.
        session: the run.
        watch: returns what is told each round; called for a step that has rounds only.
    """
    begun = time.monotonic()
    with command.loading():
        function = getattr(importlib.import_module(f"tasks.{step}"), step)
    settings, folder = session.settings, session.workspace.folder
    if step in WITH_ROUNDS:
        function(settings, folder, watch())
    else:
        function(settings, folder)
    timings.record(folder, step, time.monotonic() - begun)


class _Watch:
    """Passes each round on to MLflow, and every two seconds to a progress artifact."""

    def __init__(self, step: str, log_round: Callable[[Mapping[str, Any]], None]) -> None:
        self._step, self._log_round, self._shown = step, log_round, time.monotonic()
        self._artifact: UUID | None = None

    def __call__(self, row: Mapping[str, Any], done: int, total: int) -> None:
        self._log_round(row)
        if self._artifact and time.monotonic() - self._shown < _SHOW_EVERY and done < total:
            return
        self._shown = time.monotonic()
        percent, described = 100 * done / total, f"{self._step}: {done} of {total} rounds, the last is {row['round']}"
        if self._artifact is None:
            made = create_progress_artifact(percent, key=f"{self._step}-rounds", description=described)
            self._artifact = cast(UUID, made)
        else:
            update_progress_artifact(self._artifact, percent, description=described)


def _step(step: str) -> Callable[[Session, bool], State[Any]]:
    def run(session: Session, force: bool) -> State[Any]:
        def watch() -> _Watch:
            live = session.live()
            ui_artifacts.link(session)
            return _Watch(step, live.round)

        return _restored_or(step, session, force, lambda: compute(step, session, watch))

    return run


def _track(session: Session, force: bool) -> State[Any]:
    # A run that began to log ends in its own MLflow run; one whose steps were all restored is in MLflow already.
    return _restored_or("track", session, force or session.is_live or session.is_child, session.finish)


TASKS = {step: _task(step, PURPOSE[step], _step(step)) for step in STEPS} | {
    "track": _task("track", "log the finished run to MLflow", _track)
}
"""The Prefect task of each stage of dvc.yaml, in their order."""
