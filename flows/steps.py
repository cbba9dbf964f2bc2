"""One Prefect task per step: it restores the step's outputs from DVC's cache, or runs the step and caches them."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, cast
from uuid import UUID

from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.running import ui_artifacts
from flows.running.failed_state import failed
from flows.running.session import Session
from flows.running.step_run import RETRY_AFTER, compute, restore_or_run, worth_retrying
from tasks import command
from tasks.__main__ import PURPOSE
from tasks.settings import STEPS

_SHOW_EVERY = 2.0
"""Seconds between two updates of a step's progress in the UI."""


def _task(name: str, description: str, run: Callable[[Session, bool], State[Any]]) -> Task[[Session, bool], State[Any]]:
    step: Task[[Session, bool], State[Any]] = task(
        name=name,
        task_run_name=name,
        description=description,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_AFTER),
        retry_delay_seconds=RETRY_AFTER,
        retry_condition_fn=worth_retrying,
    )(run)
    return step


def _state_of(step: str, session: Session, force: bool, run: Callable[[], None]) -> State[Any]:
    """Returns the state of the step's task: `Cached`, `Completed`, or `Failed` with the user's error as message."""
    begin = time.monotonic()
    try:
        if restore_or_run(step, session, force, run):
            return Completed(name="Cached", message=f"{step}: the same code, data and settings were run before")
    except Exception as exc:
        error = command.as_error(exc)
        # The user knows `data/raw.npz` as params.yaml spells it, not as a path in the workspace.
        return failed(type(error)(str(error).replace(f"{session.workspace.folder}{os.sep}", "")))
    return Completed(message=f"{step}: {time.monotonic() - begin:.1f} s")


class _RoundProgress:
    """Logs each round to MLflow, and updates the progress in the UI at most every _SHOW_EVERY seconds."""

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
            artifact = create_progress_artifact(percent, key=f"{self._step}-rounds", description=described)
            self._artifact = cast(UUID, artifact)
        else:
            update_progress_artifact(self._artifact, percent, description=described)


def _step(step: str) -> Callable[[Session, bool], State[Any]]:
    def run(session: Session, force: bool) -> State[Any]:
        def on_round() -> _RoundProgress:
            live = session.live()
            ui_artifacts.link(session)
            return _RoundProgress(step, live.round)

        return _state_of(step, session, force, lambda: compute(step, session, on_round))

    return run


def _track(session: Session, force: bool) -> State[Any]:
    # A run that has begun its own MLflow run must finish it. If all steps were restored, MLflow has their run already.
    return _state_of("track", session, force or session.is_live or session.is_child, session.finish)


TASKS = {step: _task(step, PURPOSE[step], _step(step)) for step in STEPS} | {
    "track": _task("track", "log the finished run to MLflow", _track)
}
"""Stage of dvc.yaml → its Prefect task, in the order of the pipeline."""
