"""The MLflow run that a workspace began, and what has become of it: the file `.mlflow-run` of the workspace.

Its first line is the run's id, and the run's status once it has ended there. Its second line, once the clients' data
are known, is their hash: rounds over other data belong into another run.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.known_secrets import safe_line
from flows.mlflow_store import connection
from tasks.files import replacing

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_ID = ".mlflow-run"
_LINKS = ("prefect.flow_run_id", "prefect.flow_run_name", "prefect.url", "mlflow.parentRunId")
"""Tags that lead to the flow run which goes on with a run."""


@dataclass(frozen=True)
class _Begun:
    run_id: str = ""
    status: str = ""
    data: str = ""


def begin(client: "MlflowClient", folder: Path, start: Callable[[], str], tags: Mapping[str, str] | None = None) -> str:
    """Returns the id of the run that an attempt at `folder` began, resumed, or of the one that `start` makes.

    `tags` are those of this attempt: of a run that is resumed, they replace those that lead to the earlier flow run.
    """
    before = _read(folder)
    run_id = _resume(client, before.run_id, tags or {})
    if run_id:
        _write(folder, _Begun(run_id, data=before.data))
        return run_id
    run_id = start()
    _write(folder, _Begun(run_id))
    return run_id


def read_run_id(folder: Path) -> str:
    """Returns the id of the MLflow run that an attempt at this workspace created; empty if none did."""
    return _read(folder).run_id


def has_finished(folder: Path) -> bool:
    """Returns whether the run of `folder` is whole in MLflow."""
    return _read(folder).status == "FINISHED"


def is_unfinished(folder: Path) -> bool:
    """Returns whether the run of `folder` was begun in MLflow, and not ended."""
    found = _read(folder)
    return bool(found.run_id) and not found.status


def can_go_on(folder: Path) -> bool:
    """Returns whether the run of `folder` was begun in MLflow, and is not whole there, however it ended."""
    return bool(read_run_id(folder)) and not has_finished(folder)


def is_of_other_data(folder: Path, data: str) -> bool:
    """Returns whether the run of `folder` has rounds over clients' data with another hash than `data`."""
    known = _read(folder).data
    return bool(known) and known != data


def note_data(folder: Path, data: str) -> None:
    """Records the hash of the clients' data that the run of `folder` is about."""
    found = _read(folder)
    if found.data != data:
        _write(folder, _Begun(found.run_id, found.status, data))


def remove_record(folder: Path) -> None:
    """Removes the record: the run goes on no more."""
    (folder / RUN_ID).unlink(missing_ok=True)


def end_abandoned(folder: Path, status: str, with_reports: bool = True) -> None:
    """Ends the run of the workspace `folder` in MLflow if there is one that its process left running."""
    if is_unfinished(folder):
        terminate(connection.connect(folder).client, folder, read_run_id(folder), status, with_reports)


def terminate(client: "MlflowClient", folder: Path, run_id: str, status: str, with_reports: bool = True) -> None:
    """Ends the run of `folder` in MLflow, if the store answers; `with_reports`, the folder's reports are the run's."""
    try:
        # What is needed for a diagnosis; a finished run's are logged with all the rest.
        if status != "FINISHED" and with_reports:
            for path in ("reports/rounds.csv", "reports/clients.csv"):
                if (folder / path).is_file():
                    client.log_artifact(run_id, str(folder / path), "reports")
        client.set_terminated(run_id, status)
    except Exception as lost:  # the store is gone: what ended the run says more
        log.warning("MLflow run %s could not be marked %s: %s", run_id, status, safe_line(lost))
    else:
        _write(folder, _Begun(run_id, status, _read(folder).data))


def _resume(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> str:
    """Returns `run_id` if that run can go on; empty if there is none, or if it was deleted meanwhile."""
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
        elif tags and name in run.data.tags:  # as the page of a server that this flow run has not
            client.delete_tag(run_id, name)
    return run_id


def _read(folder: Path) -> _Begun:
    path = folder / RUN_ID
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    run_id, status = [*(lines or [""])[0].split(), "", ""][:2]
    return _Begun(run_id, status, lines[1] if len(lines) > 1 else "")


def _write(folder: Path, now: _Begun) -> None:
    with replacing(folder / RUN_ID) as fresh:
        fresh.write_text(f"{now.run_id} {now.status}".strip() + f"\n{now.data}", encoding="utf-8")
