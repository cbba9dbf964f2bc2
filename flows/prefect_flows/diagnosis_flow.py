"""The flow `diagnose`: explains why the loss of a run is up, and can run the pipeline again with the best remedy."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.mlflow_store import mending
from flows.mlflow_store.run_logs import RunLogs, find_run, open_run_logs
from flows.running import report_artifact
from flows.running.failed_state import failed
from flows.running.two_runs import two_runs
from flows.workspace import overrides
from flows.workspace.repository import find_repository
from tasks import command
from tasks.diagnose import diagnose_logs
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.report.patch import flags
from tasks.diagnose.report.wording import headline
from tasks.errors import RunError
from tasks.settings import with_settings

_log = logging.getLogger(__name__)

_PIPELINE = "pipeline/pipeline"
"""The deployment that runs the pipeline again with a remedy."""


@dataclass(frozen=True)
class Diagnosed:
    """A diagnosis, ready to show and to apply.

    Attributes:
        answer: in one sentence.
        report: the whole diagnosis as Markdown, with its pictures.
        flags: the settings of the remedy, as `-S name=value`.
        params: the text of the run's params.yaml with the remedy of the first cause that has one; "" if there is
            nothing to apply.
        why_not: why there is nothing to apply; "" if there is a remedy to apply.
    """

    answer: str
    report: str
    flags: str = ""
    params: str = ""
    why_not: str = ""


@flow(name="diagnose", flow_run_name="diagnose {run}", persist_result=False)
def diagnose(run: str, apply: bool = False, against: str = "") -> State[Any]:
    """Explains why the loss of a run is up, or why it is higher than that of another run.

    Args:
        run: an MLflow run id, or a folder on the worker's machine that holds reports/rounds.csv and clients.csv.
        apply: afterwards, run the pipeline again with the best remedy, as a flow run of its own.
        against: the run with which it is compared, given as `run`; empty: none.
    """
    command.quiet()
    try:
        found = diagnosed(run, against)
        create_markdown_artifact(found.report, key="diagnosis", description=f"of {run}")
        if not apply:
            return Completed(message=found.answer)
        made = _run_pipeline(params_of(found), run)
        return Completed(message=f"{found.answer} Runs again with {found.flags}: flow run {made.name}")
    except Exception as exc:
        return failed(exc)


def diagnosed(run: str, against: str = "") -> Diagnosed:
    """Diagnoses `run`, an MLflow run id or a folder, beside the run `against` if that is not empty."""
    with open_run_logs(run) as logs:
        answer = _against(run, logs, against) if against else diagnose_logs(logs.reports, logs.settings, logs.workspace)
        said, report = headline(answer), report_artifact.report(logs.reports)
        remedy = answer.remedy
        if why_not := _why_not(logs, answer):
            return Diagnosed(said, report, why_not=why_not)
        assert remedy is not None
        assert logs.workspace is not None
        settings = with_settings(logs.settings, remedy.settings)
        params = overrides.params_text(logs.workspace / "params.yaml", settings)
        return Diagnosed(said, report, flags(remedy.settings), params)


def _against(run: str, logs: RunLogs, other: str) -> Diagnosis:
    """Explains why a run ends with a higher loss than `other`, an MLflow run id or a folder.

    Raises:
        InputError: the two are one run, or their raw data are not on this machine and not in DVC's cache or remote.
    """
    from tasks.diagnose.compared.explain import diagnose_against  # TensorFlow takes seconds to import

    repository = find_repository(Path.cwd())
    this, that, code = two_runs(repository, run, logs, other, find_run(other, repository))
    return diagnose_against(logs.reports, this, that, code)


def params_with_remedy(run: str, against: str = "") -> str:
    """Diagnoses `run`. Returns the text of its params.yaml, changed by the remedy of the first cause that has one.

    Raises:
        RunError: no cause has a proven remedy, the remedy is no setting, or the run's workspace is gone.
    """
    return params_of(diagnosed(run, against))


def params_of(found: Diagnosed) -> str:
    """Returns the text of params.yaml with the remedy. Raises RunError if there is nothing to apply."""
    if found.why_not:
        raise RunError(found.why_not)
    _log.info("running again with %s", found.flags)
    return found.params


def _why_not(logs: RunLogs, answer: Diagnosis) -> str:
    remedy = answer.remedy
    if remedy is None or logs.workspace is None:
        return f"there is no proven remedy to apply: {headline(answer)}"
    if not remedy.settings:
        return f"there is no setting to apply; the remedy is to {remedy.says}, and to run again"
    return ""


def _run_pipeline(params: str, mends: str) -> FlowRun:
    """Starts a flow run of the deployment `pipeline` with the settings of `params`, and returns at once.

    The worker runs it in a process of its own, where it can be cancelled and retried like any other. Its MLflow run
    links to the run `mends`. The worker adds the variable to the deployment's own environment.
    """
    import yaml

    try:
        made: Any = run_deployment(
            _PIPELINE,
            parameters={"settings": yaml.safe_load(params)},
            job_variables={"env": mending.environment(mends)},
            timeout=0,
        )
    except ObjectNotFound as exc:
        raise RunError(f"there is no deployment {_PIPELINE}: register it with python -m flows.deployments") from exc
    run: FlowRun = made
    return run
