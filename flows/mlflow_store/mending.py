"""The link from a run to the run that it mends: `python -m flows.diagnose RUN --apply` sets it for its next run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.mlflow_store import tracked_results
from flows.mlflow_store.verdict_tags import PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VARIABLE = "UNDRIFT_MENDS"
"""The environment variable with the id of the MLflow run that the next run mends."""
MENDS, MENDED_BY, LOSS = f"{PREFIX}mends", f"{PREFIX}mended_by", f"{PREFIX}mended_loss"


def next_run_mends(run: str) -> None:
    """Lets the next run of this process, or of its children, link to `run`: an MLflow run id, or a run's folder.

    Nothing is linked if the folder's run is not in MLflow.
    """
    os.environ.pop(VARIABLE, None)
    os.environ.update(environment(run))


def environment(run: str) -> dict[str, str]:
    """Returns the environment variable of a process whose next run links to `run`; {} if that is not in MLflow."""
    run_id = tracked_results.run_in(Path(run)) if Path(run).is_dir() else run
    return {VARIABLE: run_id} if run_id else {}


def link() -> dict[str, str]:
    """Returns the tag of a new run that mends another one; {} if it mends none."""
    mended = os.environ.get(VARIABLE, "")
    return {MENDS: mended} if mended else {}


def compared(client: "MlflowClient", run: "Run", loss: float | None) -> str:
    """Returns `Mends run … : hold-out loss 0.63 → 0.41`, and tags both runs with it; "" if `run` mends none.

    `loss` is the hold-out loss of `run` at the end, nats per example; None if it is not finite.
    """
    from mlflow.exceptions import MlflowException

    mended_id = run.data.tags.get(MENDS)
    if not mended_id:
        return ""
    try:
        mended = client.get_run(mended_id)
    except MlflowException:  # deleted, or of another store
        return f"Mends run {mended_id}."
    before = mended.data.metrics.get("loss", mended.data.metrics.get("val_loss"))
    losses = " → ".join("not finite" if value is None else f"{value:.4g}" for value in (before, loss))
    client.set_tag(run.info.run_id, LOSS, losses)
    client.set_tag(mended_id, MENDED_BY, run.info.run_id)
    client.set_tag(mended_id, LOSS, losses)
    return f"Mends run {mended.info.run_name} ({mended_id}): hold-out loss {losses}."
