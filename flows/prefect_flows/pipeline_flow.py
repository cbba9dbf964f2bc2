"""The flow `pipeline`: all steps as one Prefect flow run, one task per step.

A step takes its outputs from DVC's cache if a flow run or `dvc repro` has run it with the same code, data and settings;
otherwise it runs. While it runs, MLflow gets the numbers of each round.
"""

import logging
from pathlib import Path
from typing import Any

from prefect import Flow, flow, runtime
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed

from flows.mlflow_store.run_names import run_name
from flows.prefect_flows.last_good_task import AGAINST, against_last_good
from flows.recovery import killed_runs, takeover
from flows.running import ui_artifacts
from flows.running.failed_state import error_of, failed
from flows.running.last_good import mark
from flows.running.session import Session
from flows.running.verdict import Verdict, announce, read_verdict
from flows.steps import TASKS
from flows.workspace import overrides, raw_data
from flows.workspace.repository import RUNS, find_repository
from flows.workspace.run_folder import Workspace
from tasks import command, end_of_run
from tasks.errors import SettingsError, UndriftError
from tasks.settings import Settings, parse

_log = logging.getLogger(__name__)

_DEFAULTS = Settings()


def pipeline_flow(params: str = "") -> Flow[..., State[Any]]:
    """Returns the flow.

    Args:
        params: the text of the params.yaml for this process's flow runs. It must hold the same settings as the flow's
            parameter `settings`; unlike that parameter's JSON, it keeps the spelling (1 or 1.0). Empty: the text of the
            repository's file, changed to these settings.
    """

    @flow(
        name="pipeline",
        flow_run_name=_flow_run_name,
        persist_result=False,
        validate_parameters=False,  # the flow checks them itself, and its error is one line
        on_cancellation=[end_in_mlflow],
        on_crashed=[end_in_mlflow],
    )
    def pipeline(
        settings: Settings = _DEFAULTS, force: bool = False, push: bool = False, against_last_good: bool = True
    ) -> State[Any]:
        """From raw data to a pruned, tracked, versioned federated model.

        Args:
            settings: all settings of params.yaml.
            force: run every step: use no results from DVC's cache or from a killed run.
            push: at the end, send the run's data and models to DVC's default remote.
            against_last_good: if the loss is higher than in the last good run of this deployment, find out whether
                this is more than noise, and why. That runs rounds again, within diagnose.budget.
        """
        command.quiet()
        try:
            repository = find_repository(Path.cwd())
            with killed_runs.alive(repository, str(runtime.flow_run.id)):
                session = _open(repository, params, parsed(settings), force)
                killed_runs.end_killed_runs(repository)
                with session.ending():
                    return _run(session, force, push, against_last_good)
        except Exception as exc:
            return failed(exc)

    return pipeline


def parsed(settings: Any) -> Settings:
    """Returns the Settings of a form's JSON; the command passes Settings, which are returned as they are."""
    return settings if isinstance(settings, Settings) else parse(settings)


def _flow_run_name() -> str:
    """Returns `<model> <partition> <aggregator> <client> · <Prefect's name>`; the suffix separates equal settings."""
    name = str(runtime.flow_run.name)
    try:
        described = run_name(parsed(runtime.flow_run.parameters["settings"]))
    except SettingsError:
        described = "wrong settings"
    return name if name.startswith(described) else f"{described} · {name}"


def end_in_mlflow(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends the MLflow run of a flow run that was stopped before it could end its MLflow run.

    The status is FAILED if the flow run crashed, and KILLED if it was cancelled.
    """
    status = "FAILED" if state.is_crashed() else "KILLED"
    killed_runs.end_killed_run(find_repository(Path.cwd()), str(flow_run.id), status)


def _open(repository: Path, params: str, settings: Settings, force: bool) -> Session:
    """Returns the session with its workspace opened.

    The workspace is the first of these that exists: (1) the workspace of an earlier attempt at this flow run,
    (2) unless `force`, the workspace of an unfinished run with the same settings, code and `data.path`, (3) a new one.
    """
    run_id = str(runtime.flow_run.id)
    text = params or overrides.params_text(repository / "params.yaml", settings)
    text, settings = raw_data.placed(repository, text, settings)
    data = str((repository / settings.data.path).resolve())
    identity = takeover.identity(repository, [text], "pipeline", data)
    if not force and not (repository / RUNS / run_id).is_dir():
        takeover.take_over(repository, run_id, identity)
    workspace = Workspace.open(repository, run_id, text, settings.data.path)
    takeover.mark(workspace.folder, identity)
    tags = {**ui_artifacts.mlflow_tags(), "mlflow.source.name": "python -m flows.pipeline"}
    return Session(workspace, settings, tags)


def _run(session: Session, force: bool, push: bool, compares: bool) -> State[Any]:
    if push:
        session.workspace.check_remote()
    deployment = runtime.deployment.id
    session.is_compared = bool(deployment and compares)
    state = None
    for step, task in TASKS.items():
        state = task(session, force, return_state=True, wait_for=[state] if state else None)  # draws an arrow
        if not state.is_completed():
            ui_artifacts.rounds(session)
            raise _error(step, error_of(state), session)
        ui_artifacts.publish(step, session)
    if push:
        _log.info("%d files pushed to DVC's remote", session.workspace.push())
    verdict, report = read_verdict(session.workspace.folder / "reports"), _report(session)
    if session.is_compared and verdict is None:
        verdict = _against_last_good(session, str(deployment), state)
        report = _report(session, AGAINST) if verdict else report
    if deployment:
        mark(session.workspace.folder, verdict is None, str(deployment), str(runtime.flow_run.name))
    announce(verdict, report)
    return _completed(verdict, f"report {report}, MLflow run {session.mlflow()['run_id']}")


def _against_last_good(session: Session, deployment: str, after: State[Any] | None) -> Verdict | None:
    """Returns the verdict of a run that is worse than the last good run of `deployment`; None if it is not.

    A run that has a verdict of its own is not compared: what is wrong with it is known already, and replays cost.
    """
    try:
        against_last_good(session, deployment, return_state=True, wait_for=[after] if after else None)
    finally:
        session.end("FINISHED")  # it has finished, even if the comparison is cancelled
    verdict = read_verdict(session.workspace.folder / AGAINST)
    if verdict is not None:
        ui_artifacts.diagnosis(session, AGAINST, "against", "why the loss is higher than in the last good run")
    return verdict


def _completed(verdict: Verdict | None, where: str) -> State[Any]:
    """Returns the state of a run that ran to its end; its name and message say what is wrong with it."""
    if verdict is None:
        return Completed(message=where)
    return Completed(name=verdict.tag, message=f"{verdict.says} {where[0].upper()}{where[1:]}")


def _report(session: Session, folder: str = "reports") -> Path:
    return Path(RUNS, session.workspace.folder.name, folder, "diagnosis.html")


def _error(step: str, error: UndriftError, session: Session) -> UndriftError:
    """Returns the error of a step with the step's name in front and, if the error ended the run, the reason behind.

    The diagnosis of such a run is written, logged and published.
    """
    answer = end_of_run.diagnosed(step, error, session.workspace.folder)
    if answer is None:
        return type(error)(f"{step}: {error}")
    for line in end_of_run.lines(answer, Path(RUNS, session.workspace.folder.name)):
        _log.error("%s", line)
    ui_artifacts.diagnosis(session)
    announce(read_verdict(session.workspace.folder / "reports"), _report(session))
    explained = type(error)(f"{step}: {error}. The cause: {end_of_run.summary(answer)}")
    explained.add_note(f"Report {_report(session)}")
    return explained


pipeline = pipeline_flow()
"""The flow of the deployment `pipeline`."""
