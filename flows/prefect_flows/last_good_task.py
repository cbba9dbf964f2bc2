"""The task that compares a finished run with the last good run of its deployment.

It costs nothing if the loss is not higher. If it is, the noise of seeds of the last good run is measured, once; and if
the loss is higher beyond that, replays look for the difference that raises it, within `diagnose.budget`.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, verdict_tags
from flows.mlflow_store.run_logs import WRITTEN, RunLogs
from flows.mlflow_store.store_errors import store_errors
from flows.running.last_good import GoodRun, last_good
from flows.running.model_loss import loss_of_model
from flows.running.session import Session
from flows.running.two_runs import two_runs
from tasks import command
from tasks.errors import UndriftError
from tasks.files import read_json, remove, replacing
from tasks.settings import load
from tasks.signals import masked

AGAINST = "reports/against"
"""The folder with the diagnosis of a run beside the last good run of its deployment."""
TAG = f"{verdict_tags.PREFIX}against"
"""The tag with the id of the MLflow run with which a run was compared."""

_log = logging.getLogger(__name__)


@task(
    name="against-last-good",
    task_run_name="against-last-good",
    description="compare the run with the last good run of its deployment",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def against_last_good(session: Session, deployment: str) -> State[Any]:
    """Writes reports/against/ if the run of `session` is worse than the last good run of `deployment`, an id.

    After that, it is decided whether its model becomes champion. The run has finished: an error here is one warning in
    its log, and the run is not called worse.
    """
    try:
        remove(session.workspace.folder / AGAINST)  # an earlier attempt can have been worse
        state: State[Any] = Completed(message=_compared(session, deployment))
    except Exception as exc:
        why = _warned("not compared with the last good run of the deployment", exc)
        state = Completed(name="NotCompared", message=why)
    try:
        session.promote()
    except Exception as exc:
        _warned("it was not decided whether the model becomes champion", exc)
    return state


def _warned(what: str, exc: Exception) -> str:
    """Logs a warning, and returns the reason in it. If a signal led to `exc`, raises what its handler raised."""
    if masked(exc):
        command.as_error(exc)
    kind = "" if isinstance(exc, UndriftError) else f"{type(exc).__name__}: "
    why = f"{kind}{safe_line(exc)}"
    _log.warning("%s: %s", what, why)
    _log.debug("the error", exc_info=exc)
    return why


def _compared(session: Session, deployment: str) -> str:
    folder = session.workspace.folder
    opened = connection.connect(folder)
    with store_errors(opened.uri):
        good = last_good(session.workspace.repository, folder, deployment, opened.client)
        if not session.is_live and (said := _restored(opened, session, good)):
            return said
    if good is None:
        return "no earlier run of this deployment finished with nothing wrong on this machine"
    return _beside(opened, session, good)


def _restored(opened: connection.Store, session: Session, good: GoodRun | None) -> str:
    """Returns what is known of the MLflow run from which DVC's cache had all results; "" if that was not compared.

    It can be of another deployment or of `dvc repro`, or have been compared with an earlier good run.
    """
    run_id = session.mlflow()["run_id"]
    if good is not None and good.run_id == run_id:
        return f"all results are those of the last good run ({good.name})"
    tags = opened.client.get_run(run_id).data.tags
    if tags.get(f"{verdict_tags.PREFIX}question") != "against" or TAG not in tags:
        return ""
    if good is not None and tags[TAG] != good.run_id:
        return ""
    with tempfile.TemporaryDirectory() as holder, replacing(session.workspace.folder / AGAINST) as fresh:
        # Stores differ in the folder below `holder` that they make.
        shutil.copytree(opened.client.download_artifacts(run_id, AGAINST, holder), fresh)
    return f"all results are those of MLflow run {run_id}, which was worse"


def _beside(opened: connection.Store, session: Session, good: GoodRun) -> str:
    from flows.mlflow_store import registry
    from tasks.diagnose.compared.explain import diagnose_if_worse, is_no_higher  # TensorFlow takes seconds to import

    folder, run_id = session.workspace.folder, session.mlflow()["run_id"]
    name = f"the last good run ({good.name})"
    logs = RunLogs(folder / "reports", session.settings, folder)
    before = RunLogs(good.folder / "reports", load(good.folder / "params.yaml"), good.folder)
    this, that, code = two_runs(session.workspace.repository, "this run", logs, name, before)
    if this.hold_out_digest != that.hold_out_digest and _is_below(folder, loss_of_model(that, this)):
        return f"the loss is not higher than that of the model of {name} on the hold-out data of this run"
    answer = None if is_no_higher(this, that) else diagnose_if_worse(folder / "reports", this, that, code)
    if answer is None or answer.against is None or not answer.against.worse:
        return f"not worse than {name}"
    with store_errors(opened.uri):
        for written in WRITTEN:
            opened.client.log_artifact(run_id, str(Path(folder, AGAINST, written)), AGAINST)
        verdict_tags.mark(opened.client, run_id, folder / AGAINST)
        opened.client.set_tag(run_id, TAG, good.run_id)
        registry.found_worse(opened.client, run_id)
    return f"worse than {name}"


def _is_below(folder: Path, loss: float | None) -> bool:
    """Returns whether the model of the run in `folder` has at most this loss on the run's hold-out data."""
    own = read_json(folder / "reports/metrics.json").get("loss")
    return own is not None and loss is not None and float(own) <= loss
