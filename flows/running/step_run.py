"""One step in a workspace: its outputs come from DVC's cache, or are computed and put there."""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from flows.running.session import Session
from tasks import command, lock, timings
from tasks.errors import TrackingLost

OnRound = Callable[[Mapping[str, Any], int, int], None]
"""Called after each round with its row of rounds.csv, the rounds done, and the rounds in all.

The same as `tasks.federate.loop.Watch`, whose import takes TensorFlow's.
"""

RETRY_AFTER = [5.0, 30.0]
"""Seconds before each new try of a step whose MLflow server was lost."""
_WITH_ROUNDS = ("federate", "prune")


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Returns whether a failed step may succeed on another try: its MLflow server was lost."""
    return isinstance(state.result(raise_on_failure=False), TrackingLost)


def restore_or_run(step: str, session: Session, force: bool, run: Callable[[], None]) -> bool:
    """Restores the step's outputs from DVC's cache, or runs it and commits them; returns whether they were restored."""
    with lock.held(session.workspace.folder, step):
        if not force and session.workspace.restore(step):
            return True
        session.workspace.clear(step)
        run()
        session.workspace.commit(step)
        return False


def compute(step: str, session: Session, on_round: Callable[[], OnRound]) -> None:
    """Runs a step of `tasks` in the workspace, and records its seconds.

    Args:
        step: its name.
        session: the run.
        on_round: returns the function to call after each round; called itself only for a step that has rounds.
    """
    begin = time.monotonic()
    with command.loading():
        function = getattr(importlib.import_module(f"tasks.{step}"), step)
    settings, folder = session.settings, session.workspace.folder
    if step in _WITH_ROUNDS:
        function(settings, folder, on_round())
    else:
        function(settings, folder)
    timings.record(folder, step, time.monotonic() - begin)
