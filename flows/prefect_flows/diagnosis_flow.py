"""The flow `diagnose`: explains why the loss of a run rose."""

import logging
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.mlflow_store.run_logs import RunLogs, open_run_logs
from flows.running.failed_state import failed
from flows.workspace import overrides
from tasks import command
from tasks.diagnose import diagnose_logs
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.report.patch import flags
from tasks.diagnose.report.wording import headline
from tasks.errors import RunError
from tasks.settings import with_settings

_log = logging.getLogger(__name__)


@flow(name="diagnose", flow_run_name="diagnose {run}", persist_result=False)
def diagnose(run: str) -> State[Any]:
    """Explains why the loss of a run rose.

    Args:
        run: an MLflow run id, or a folder on the worker's machine that holds reports/rounds.csv and clients.csv.
    """
    command.quiet()
    try:
        answer, markdown = diagnosed(run)
    except Exception as exc:
        return failed(exc)
    create_markdown_artifact(markdown, key="diagnosis", description=f"of {run}")
    return Completed(message=answer)


def diagnosed(run: str) -> tuple[str, str]:
    """Diagnoses `run`, an MLflow run id or a folder. Returns the answer in one sentence, and diagnosis.md."""
    with open_run_logs(run) as logs:
        return headline(_diagnose(logs)), (logs.reports / "diagnosis.md").read_text(encoding="utf-8")


def params_with_remedy(run: str) -> str:
    """Diagnoses `run`. Returns the text of its params.yaml, changed by the remedy of the first cause that has one.

    Raises:
        RunError: no cause has a proven remedy, the remedy is no setting, or the run's workspace is gone.
    """
    with open_run_logs(run) as logs:
        answer = _diagnose(logs)
        remedy = answer.remedy
        if remedy is None or logs.workspace is None:
            raise RunError(f"there is no proven remedy to apply: {headline(answer)}")
        if not remedy.settings:
            raise RunError(f"there is no setting to apply; the remedy is to {remedy.says}, and to run again")
        params = overrides.params_text(logs.workspace / "params.yaml", with_settings(logs.settings, remedy.settings))
    _log.info("running again with %s", flags(remedy.settings))
    return params


def _diagnose(logs: RunLogs) -> Diagnosis:
    return diagnose_logs(logs.reports, logs.settings, logs.workspace)
