"""The MLflow run of a flow run while it goes: a point per round, from a thread of its own.

A round must not wait for a database or a server, so the rounds' rows go into a queue, and what is there is logged once
a second. A store that does not answer costs one warning; the rows wait, and the step `track` logs what is missing.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import store, tracking
from tasks.files import replacing
from tasks.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_ID = ".mlflow-run"
"""Holds the run's id, and its status once it has ended there."""
_EVERY = 1.0
_AFTER_FAILURE = 15.0
_PATIENCE = {"FINISHED": 60.0, "FAILED": 60.0, "KILLED": 5.0}
"""Seconds for a store that does not answer at the end; who cancels a run waits for it."""


class LiveRun:
    """Creates the run of the workspace `folder`, or goes on in the one that an earlier attempt created.

    Raises:
        TrackingLost: the store does not answer at the start.
    """

    def __init__(self, folder: Path, settings: Settings, tags: Mapping[str, str]) -> None:
        self._folder, self.store = folder, store.connect(folder)
        from flows import runs  # after it: MLflow is imported quietly

        self._client = self.store.client
        with tracking.errors(self.store.uri):
            experiment = self.store.experiment_id
            self.run_id = begin(
                self._client, folder, lambda: runs.start(self._client, experiment, settings, folder, tags)
            )
            self._last = runs.last_round(self._client, self.run_id)
        self._rows: list[dict[str, str]] = []
        self._flushing = threading.Lock()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._status, self._ended = "", False
        self._thread = threading.Thread(target=self._loop, name="mlflow", daemon=True)
        self._thread.start()

    def round(self, row: Mapping[str, Any]) -> None:
        """Takes a row of rounds.csv; returns at once."""
        with self._lock:
            self._rows.append({key: "" if value is None else str(value) for key, value in row.items()})
        self._wake.set()

    def flush(self) -> None:
        """Logs what waits now, if the store answers."""
        self._flush()

    def end(self, status: str) -> None:
        """Logs what waits and ends the run in MLflow, FINISHED, FAILED or KILLED, if the store answers in time."""
        self._status, self._ended = status, True
        self._wake.set()
        self._thread.join(timeout=_PATIENCE[status])

    def _loop(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            wait = _EVERY if self._flush() else _AFTER_FAILURE
            end = time.monotonic() + wait
            while not self._ended and time.monotonic() < end:
                time.sleep(0.05)
        self._flush()
        terminate(self._client, self._folder, self.run_id, self._status)

    def _flush(self) -> bool:
        from flows import runs

        with self._flushing:
            with self._lock:
                rows = [row for row in self._rows if int(row["round"]) > self._last]
            try:
                self._last = max(self._last, runs.log_rounds(self._client, self.run_id, rows))
            except Exception as lost:
                log.warning("MLflow: %s; the rounds will be logged when it answers", store.one_line(lost))
                self._wake.set()
                return False
            with self._lock:
                self._rows = [row for row in self._rows if int(row["round"]) > self._last]
            return True


def begin(client: "MlflowClient", folder: Path, start: Callable[[], str]) -> str:
    """Returns the id of the run that an attempt at `folder` began, resumed, or of the one that `start` makes."""
    run_id = _resume(client, read_run_id(folder)) or start()
    _write(folder, run_id)
    return run_id


def read_run_id(folder: Path) -> str:
    """Returns the id of the MLflow run that an attempt at this workspace created; empty if none did."""
    return next(iter(_read(folder)), "")


def has_finished(folder: Path) -> bool:
    """Returns whether the run of `folder` is whole in MLflow."""
    return _read(folder)[1:] == ["FINISHED"]


def is_unfinished(folder: Path) -> bool:
    """Returns whether the run of `folder` was begun in MLflow, and not ended."""
    return len(_read(folder)) == 1


def end_abandoned(folder: Path, status: str) -> None:
    """Ends the run of the workspace `folder` in MLflow if there is one that its process left running."""
    if is_unfinished(folder):
        terminate(store.connect(folder).client, folder, read_run_id(folder), status)


def _resume(client: "MlflowClient", run_id: str) -> str:
    """Returns `run_id` if that run can go on; empty if there is none, or if it was deleted meanwhile."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return ""
    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":
            return ""
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "resumed", "true")
    return run_id


def terminate(client: "MlflowClient", folder: Path, run_id: str, status: str) -> None:
    """Ends the run of `folder` in MLflow, if the store answers."""
    try:
        if status != "FINISHED":  # what is needed for a diagnosis; a finished run's are logged with all the rest
            for path in ("reports/rounds.csv", "reports/clients.csv"):
                if (folder / path).is_file():
                    client.log_artifact(run_id, str(folder / path), "reports")
        client.set_terminated(run_id, status)
    except Exception as lost:  # the store is gone: what ended the run says more
        log.warning("MLflow run %s could not be marked %s: %s", run_id, status, store.one_line(lost))
    else:
        _write(folder, run_id, status)


def _read(folder: Path) -> list[str]:
    path = folder / RUN_ID
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _write(folder: Path, *words: str) -> None:
    with replacing(folder / RUN_ID) as fresh:
        fresh.write_text(" ".join(words), encoding="utf-8")
