"""The flow `pipeline`: all steps, as one Prefect flow run.

One task a step. Each takes its outputs from DVC's cache if a flow run or `dvc repro` has run the same code, data and
settings; otherwise it runs. MLflow gets a point per round while it runs.
"""

import logging
from pathlib import Path
from typing import Any

from prefect import Flow, flow, runtime
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed

from flows.mlflow_store.run_names import run_name
from flows.recovery import killed_runs, takeover
from flows.running import ui_artifacts
from flows.running.failed_state import error_of, failed
from flows.running.session import Session
from flows.steps import TASKS
from flows.workspace import overrides, raw_data
from flows.workspace.repository import RUNS, find_repository
from flows.workspace.run_folder import Workspace
from tasks import command
from tasks.errors import SettingsError, UndriftError
from tasks.settings import Settings, parse

_log = logging.getLogger(__name__)

_DEFAULTS = Settings()


def pipeline_flow(params: str = "") -> Flow[..., State[Any]]:
    """Returns the flow.

    Args:
        params: the text of the params.yaml for this process's flow runs. It must hold the settings that the flow gets,
            and keeps the spelling (1 or 1.0) that a form's JSON would lose. Empty: the repository's file with the
            settings laid over it.
    """

    @flow(
        name="pipeline",
        flow_run_name=_flow_run_name,
        persist_result=False,
        validate_parameters=False,  # the flow checks them itself, and says in one line what is wrong
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
                session = _open(repository, params, parsed(settings), force)
                killed_runs.end_killed_runs(repository)
                with session.ending():
                    return _run(session, force, push)
        except Exception as exc:
            return failed(exc)

    return pipeline


def parsed(settings: Any) -> Settings:
    """Returns settings from a form's JSON; the command line's are settings already."""
    return settings if isinstance(settings, Settings) else parse(settings)


def _flow_run_name() -> str:
    """Returns `<model> <partition> <aggregator> <client> · <Prefect's name>`; Prefect's name separates equal runs."""
    name = str(runtime.flow_run.name)
    try:
        described = run_name(parsed(runtime.flow_run.parameters["settings"]))
    except SettingsError:
        described = "wrong settings"
    return name if name.startswith(described) else f"{described} · {name}"


def end_in_mlflow(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends the MLflow run of a flow run that was cancelled or killed before it could do so itself."""
    status = "FAILED" if state.is_crashed() else "KILLED"
    killed_runs.end_killed_run(find_repository(Path.cwd()), str(flow_run.id), status)


def _open(repository: Path, params: str, settings: Settings, force: bool) -> Session:
    """Opens the workspace: that of an earlier attempt at this flow run, of a killed equal run, or a new one."""
    run_id = str(runtime.flow_run.id)
    text = params or overrides.params_text(repository / "params.yaml", settings)
    text, settings = raw_data.placed(repository, text, settings)
    data = str((repository / settings.data.path).resolve())
    identity = takeover.identity(repository, "pipeline", text, data)
    if not force and not (repository / RUNS / run_id).is_dir():
        takeover.take_over(repository, run_id, identity)
    workspace = Workspace.open(repository, run_id, text, settings.data.path)
    takeover.mark(workspace.folder, identity)
    tags = {**ui_artifacts.mlflow_tags(), "mlflow.source.name": "python -m flows.pipeline"}
    return Session(workspace, settings, tags)


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
        _log.info("%d files pushed to DVC's remote", session.workspace.push())
    report = Path(RUNS, session.workspace.folder.name, "reports/diagnosis.html")
    return Completed(message=f"report {report}, MLflow run {session.mlflow()['run_id']}")


def _error(step: str, state: State[Any]) -> UndriftError:
    """Returns the error of a step's failed state, with the step's name."""
    error = error_of(state)
    return type(error)(f"{step}: {error}")


pipeline = pipeline_flow()
"""The flow that a deployment runs."""
