"""`python -m flows.pipeline`: the whole pipeline as one Prefect flow run.

One task a step; each takes its outputs from DVC's cache if the same code, data and settings were run before, by a flow
run or by `dvc repro`, and runs otherwise. MLflow gets a point per round while it runs.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before Prefect's import, which takes seconds
    from flows import commands

    sys.exit(commands.pipeline())

from prefect import Flow, flow, runtime
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed

from flows.commands import error_of
from flows.mlflow_store.run_names import run_name
from flows.recovery import killed_runs, takeover
from flows.running import ui_artifacts
from flows.running.failed_state import failed
from flows.running.session import Session
from flows.steps import TASKS
from flows.workspace import overrides, raw_data
from flows.workspace.run_folder import RUNS, Workspace, find_repository
from tasks import command
from tasks.errors import SettingsError, UndriftError
from tasks.settings import Settings, parse
from tasks.signals import masked

log = logging.getLogger("flows.pipeline")

PARAMS: ContextVar[str] = ContextVar("params", default="")
"""The text of params.yaml that the command line made, whose spelling (1 or 1.0) a form's JSON would lose."""

_DEFAULTS = Settings()


def _parsed(settings: Any) -> Settings:
    """Returns what the command line gives as it is, and what a form gives as JSON as settings."""
    return settings if isinstance(settings, Settings) else parse(settings)


def _flow_run_name() -> str:
    """Returns what is run, and the name that the form or Prefect gave it, by which equal ones are told apart."""
    given = str(runtime.flow_run.name)
    try:
        what = run_name(_parsed(runtime.flow_run.parameters["settings"]))
    except SettingsError:
        what = "wrong settings"
    return given if given.startswith(what) else f"{what} · {given}"


def end_in_mlflow(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends the MLflow run of a flow run that was cancelled or killed before it could do so itself."""
    status = "FAILED" if state.is_crashed() else "KILLED"
    killed_runs.end_killed_run(find_repository(Path.cwd()), str(flow_run.id), status)


@flow(
    name="pipeline",
    flow_run_name=_flow_run_name,
    persist_result=False,
    validate_parameters=False,  # done by the flow itself, which says in one line what is wrong
    on_cancellation=[end_in_mlflow],
    on_crashed=[end_in_mlflow],
)
def pipeline(settings: Settings = _DEFAULTS, force: bool = False, push: bool = False) -> State[Any]:
    """From raw data to a pruned, tracked, versioned federated model.

    Args:
        settings: everything in params.yaml.
        force: run every step, also those whose results are in DVC's cache, and go on with no run that was killed.
        push: send the run's data and models to DVC's default remote at the end.
    """
    command.quiet()
    try:
        repository = find_repository(Path.cwd())
        with killed_runs.alive(repository, str(runtime.flow_run.id)):
            session = _open(repository, _parsed(settings), force)
            killed_runs.end_killed_runs(repository)
            with _ending(session):
                return _run(session, force, push)
    except Exception as exc:
        return failed(exc)


def _open(repository: Path, settings: Settings, force: bool) -> Session:
    """Opens the workspace: that of an earlier attempt at this flow run, of a killed run of the same, or a new one."""
    params, run_id = (
        PARAMS.get() or overrides.params_text(repository / "params.yaml", settings),
        str(runtime.flow_run.id),
    )
    params, settings = raw_data.placed(repository, params, settings)
    data = str((repository / settings.data.path).resolve())
    identity = takeover.identity(repository, "pipeline", params, data)
    if not force and not (repository / RUNS / run_id).is_dir():
        takeover.take_over(repository, run_id, identity)
    workspace = Workspace.open(repository, run_id, params, settings.data.path)
    takeover.mark(workspace.folder, identity)
    return Session(
        workspace, settings, {**ui_artifacts.mlflow_tags(), "mlflow.source.name": "python -m flows.pipeline"}
    )


@contextmanager
def _ending(session: Session) -> Iterator[None]:
    """Ends the run in MLflow as the block ends: KILLED if by a signal, and a retry goes on in it."""
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception as exc:
        status = "KILLED" if masked(exc) else "FAILED"
        raise
    finally:
        session.end(status)


def _run(session: Session, force: bool, push: bool) -> State[Any]:
    if push:
        session.workspace.check_remote()
    for step, task in TASKS.items():
        state = task(session, force, return_state=True)
        if not state.is_completed():
            ui_artifacts.rounds(session)
            raise _error(step, state)
        ui_artifacts.publish(step, session)
    if push:
        log.info("%d files pushed to DVC's remote", session.workspace.push())
    return Completed(message=f"MLflow run {session.mlflow()['run_id']}, workspace {session.workspace.folder.name}")


def _error(step: str, state: State[Any]) -> UndriftError:
    """Returns the error of a step's failed state, with the step's name."""
    error = error_of(state)
    return type(error)(f"{step}: {error}")
