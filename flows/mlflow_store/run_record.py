"""The record of the MLflow run that a workspace began: the file `.mlflow-run` in the workspace.

Its first line is the run's id. When the run has ended in MLflow, the run's status follows in the same line. The second
line is the hash of the clients' data, if these exist: rounds on other data belong to another run.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, verdict_tags
from tasks.files import replacing

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

RUN_ID = ".mlflow-run"
_LINKS = ("prefect.flow_run_id", "prefect.flow_run_name", "prefect.url", "mlflow.parentRunId")
"""The tags that link an MLflow run to its flow run. A flow run that resumes the MLflow run replaces them."""
_REPORTS = tuple(
    f"reports/{name}" for name in ("rounds.csv", "clients.csv", "diagnosis.json", "diagnosis.md", "diagnosis.html")
)
"""The files that a run gets that did not finish, if they are there."""


@dataclass(frozen=True)
class _Record:
    run_id: str = ""
    status: str = ""
    data: str = ""


def begin(client: "MlflowClient", folder: Path, start: Callable[[], str], tags: Mapping[str, str] | None = None) -> str:
    """Resumes the MLflow run that an earlier attempt in `folder` began, or creates one by `start`. Returns its id.

    `tags` are the tags of this attempt. In a resumed run, they replace the links to the earlier flow run.
    """
    before = _read(folder)
    run_id = _resume(client, before.run_id, tags or {})
    if run_id:
        _write(folder, _Record(run_id, data=before.data))
        return run_id
    run_id = start()
    _write(folder, _Record(run_id))
    return run_id


def read_run_id(folder: Path) -> str:
    """Returns the id of the MLflow run that was begun in this workspace; empty if there is none."""
    return _read(folder).run_id


def has_finished(folder: Path) -> bool:
    """Returns whether the run of `folder` is complete in MLflow."""
    return _read(folder).status == "FINISHED"


def is_unfinished(folder: Path) -> bool:
    """Returns whether the run of `folder` has begun in MLflow and has not ended."""
    record = _read(folder)
    return bool(record.run_id) and not record.status


def can_go_on(folder: Path) -> bool:
    """Returns whether the run of `folder` has begun in MLflow and is not FINISHED there; it can be FAILED or KILLED."""
    return bool(read_run_id(folder)) and not has_finished(folder)


def is_of_other_data(folder: Path, data: str) -> bool:
    """Returns whether the run of `folder` has rounds on clients' data with another hash than `data`."""
    recorded = _read(folder).data
    return bool(recorded) and recorded != data


def note_data(folder: Path, data: str) -> None:
    """Records the hash of the clients' data that the run of `folder` trains on."""
    record = _read(folder)
    if record.data != data:
        _write(folder, _Record(record.run_id, record.status, data))


def remove_record(folder: Path) -> None:
    """Removes the record, so that no later attempt resumes the run."""
    (folder / RUN_ID).unlink(missing_ok=True)


def end_abandoned(folder: Path, status: str, with_reports: bool = True) -> None:
    """Ends the MLflow run of the workspace `folder` if its process left it running."""
    if is_unfinished(folder):
        terminate(connection.connect(folder).client, folder, read_run_id(folder), status, with_reports)


def terminate(client: "MlflowClient", folder: Path, run_id: str, status: str, with_reports: bool = True) -> None:
    """Ends the run of `folder` in MLflow. If the store does not answer, logs a warning.

    With `with_reports`, a run that did not finish gets the folder's round logs, which a diagnosis needs, and the
    diagnosis with its verdict, if there is one.
    """
    try:
        # A finished run has its round logs already, among its other files.
        if status != "FINISHED" and with_reports:
            for path in _REPORTS:
                if (folder / path).is_file():
                    client.log_artifact(run_id, str(folder / path), "reports")
            verdict_tags.mark(client, run_id, folder / "reports")
        client.set_terminated(run_id, status)
    except Exception as lost:  # the store is gone, but the error that ended the run is more important
        _log.warning("MLflow run %s could not be marked %s: %s", run_id, status, safe_line(lost))
    else:
        _write(folder, _Record(run_id, status, _read(folder).data))


def _resume(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> str:
    """Resumes the run and returns `run_id`; empty if there is no run, or if it was deleted meanwhile."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return ""
    try:
        run = client.get_run(run_id)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""
    if run.info.lifecycle_stage != "active":
        return ""
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "resumed", "true")
    for name in _LINKS:
        if name in tags:
            client.set_tag(run_id, name, tags[name])
        elif tags and name in run.data.tags:  # such as the link to a UI, if this flow run's server has none
            client.delete_tag(run_id, name)
    return run_id


def _read(folder: Path) -> _Record:
    path = folder / RUN_ID
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    run_id, status = [*(lines or [""])[0].split(), "", ""][:2]
    return _Record(run_id, status, lines[1] if len(lines) > 1 else "")


def _write(folder: Path, record: _Record) -> None:
    with replacing(folder / RUN_ID) as fresh:
        fresh.write_text(f"{record.run_id} {record.status}".strip() + f"\n{record.data}", encoding="utf-8")
