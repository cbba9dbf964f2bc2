"""A flow run's artifacts in the Prefect UI (rounds, report, link to MLflow), and the MLflow tags that link back."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from prefect import runtime
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.utilities.urls import url_for

from flows.addresses import without_password
from flows.running import report_artifact
from flows.running.session import Session
from tasks.files import read_json, read_rows

_SHOWN_ROUNDS = 200
"""Most rows of the table of rounds; the last ones are shown."""
_COLUMNS = ("round", "phase", "val_loss", "val_accuracy", "train_loss", "drift", "update_cosine_min", "num_failed")


def mlflow_tags() -> dict[str, str]:
    """Returns the tags that link the MLflow run to this flow run."""
    run = runtime.flow_run
    tags = {"prefect.flow_run_id": str(run.id), "prefect.flow_run_name": str(run.name)}
    if runtime.deployment.id:
        tags["prefect.deployment"] = str(runtime.deployment.name)
    page = url_for("flow-run", obj_id=str(run.id))
    return {**tags, "prefect.url": without_password(page)} if page else tags  # a temporary server has no pages


def publish(step: str, session: Session) -> None:
    """Creates the artifact that belongs to the end of `step`, if there is one."""
    if step in _AFTER:
        _AFTER[step](session)


def rounds(session: Session) -> None:
    """Creates the table of the rounds so far, also for a run that was stopped; none if there is no round log."""
    if not (session.workspace.folder / "reports/rounds.csv").is_file():
        return
    rows = read_rows(session.workspace.folder / "reports/rounds.csv")[-_SHOWN_ROUNDS:]
    table = [{column: _short(row.get(column, "")) for column in _COLUMNS} for row in rows]
    create_table_artifact(table, key="rounds", description="the round log, reports/rounds.csv")


def diagnosis(
    session: Session, folder: str = "reports", key: str = "report", description: str = "why the run ended"
) -> None:
    """Creates the artifact with the diagnosis in `folder`; with the defaults, of a run that ended without scores."""
    text = report_artifact.report(session.workspace.folder / folder)
    create_markdown_artifact(text, key=key, description=description)


def _report(session: Session) -> None:
    reports = session.workspace.folder / "reports"
    scores = read_json(reports / "metrics.json")
    text = f"{report_artifact.report(reports)}\n\n{_scores(scores)}"
    create_markdown_artifact(text, key="report", description="diagnosis and scores")


def _scores(scores: dict[str, Any]) -> str:
    rows = [f"| {key} | {value:.6g} |" for key, value in scores.items() if isinstance(value, int | float)]
    return "\n".join(["## Scores", "", "| | |", "|---|---|", *rows])


def link(session: Session) -> None:
    """Creates the link to the MLflow run, if there is a run without a link."""
    run = session.mlflow()
    if run and run["run_id"] != session.linked:
        session.linked = run["run_id"]
        link_to(run)


def link_to(run: Mapping[str, str]) -> None:
    """Creates the link to the MLflow run `run`, which has the keys of reports/mlflow.json."""
    # DVC's cache can restore a report that an earlier version of this code wrote with a password.
    address = without_password(os.environ.get("MLFLOW_UI_URL") or run["tracking_uri"])
    page = f"#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
    if address.startswith(("http:", "https:")):
        create_link_artifact(
            f"{address.rstrip('/')}/{page}",
            key="mlflow",
            link_text=f"MLflow run {run['run_id']}",
            description="this run in MLflow: curves, models, data, reports",
        )
    else:
        create_markdown_artifact(
            f"MLflow run `{run['run_id']}` is in `{address}`. To see it, run "
            f"`mlflow server --backend-store-uri {address}` in the repository and open [127.0.0.1:5000](http://127.0.0.1:5000/{page}).",
            key="mlflow",
            description="where this run is in MLflow",
        )


def _short(cell: str) -> str:
    try:
        return cell if float(cell).is_integer() else f"{float(cell):.4g}"
    except ValueError:
        return cell


_AFTER: dict[str, Callable[[Session], None]] = {"prune": rounds, "diagnose": _report, "track": link}
