"""One step in a workspace: its outputs are restored from DVC's cache, or computed and put there."""

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
"""Called after each round with its row of rounds.csv, the number of finished rounds, and the number of all rounds.

The same type as `tasks.federate.loop.Watch`, which is not imported here because it imports TensorFlow.
"""

RETRY_AFTER = [5.0, 30.0]
"""Seconds before the first and the second retry of a step that lost its MLflow server."""
_WITH_ROUNDS = ("federate", "prune")


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Returns whether another try can help: the step failed because its MLflow server was lost."""
    return isinstance(state.result(raise_on_failure=False), TrackingLost)


def restore_or_run(step: str, session: Session, force: bool, run: Callable[[], None]) -> bool:
    """Restores the step's outputs from DVC's cache, or runs it and caches them. Returns whether they were restored."""
    with lock.held(session.workspace.folder, step):
        if not force and session.restore(step):
            return True
        session.workspace.clear(step)
        run()
        session.workspace.commit(step)
        return False


def compute(step: str, session: Session, on_round: Callable[[], OnRound]) -> None:
    """Runs a step of `tasks` in the session's workspace, and records its seconds.

    `on_round` returns the function that is called after each round; it is used only for a step that has rounds.
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
