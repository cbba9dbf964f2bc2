"""Logs the rounds of a running flow run to its MLflow run, in a separate thread.

A round must not wait for a database or a server. So the rows of rounds.csv wait in memory, and the thread logs them at
most once a second. If the store does not answer, the rows wait longer, and each failed attempt logs a warning. The step
`track` logs the rounds that are still missing.
"""

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flows.known_secrets import safe_line
from flows.mlflow_store import connection, run_record
from flows.mlflow_store.store_errors import store_errors
from tasks.settings import Settings

_log = logging.getLogger(__name__)

_EVERY = 1.0
"""Fewest seconds to the next write, after a write that succeeded."""
_AFTER_FAILURE = 15.0
"""Fewest seconds to the next write, after a write that failed."""
_PATIENCE = {"FINISHED": 60.0, "FAILED": 60.0, "KILLED": 5.0}
"""Most seconds to wait at the end for a store that does not answer. After a cancellation, the user waits."""


class LiveRun:
    """The MLflow run of the workspace `folder`: created, or resumed if an earlier attempt created it.

    Raises:
        TrackingLost: the store does not answer at the start.
    """

    def __init__(self, folder: Path, settings: Settings, tags: Mapping[str, str], begun: float | None = None) -> None:
        """`begun` is when the first step started, in seconds since 1970; None: now."""
        self._folder, self.store = folder, connection.connect(folder)
        from flows.mlflow_store import run_content  # after connect, which quiets MLflow before its import

        self._client = self.store.client
        with store_errors(self.store.uri):
            experiment = self.store.experiment_id
            start = partial(run_content.create, self._client, experiment, settings, folder, tags, begun)
            self.run_id = run_record.begin(self._client, folder, start, tags)
            run_content.log_settings(self._client, self.run_id, settings)
            self._last = run_content.last_round(self._client, self.run_id)
        self._rows: list[dict[str, str]] = []
        self._flushing = threading.Lock()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._with_reports, self._status, self._ended = True, "", False
        self._thread = threading.Thread(target=self._loop, name="mlflow", daemon=True)
        self._thread.start()

    def round(self, row: Mapping[str, Any]) -> None:
        """Queues a row of rounds.csv and returns at once."""
        with self._lock:
            self._rows.append({key: "" if value is None else str(value) for key, value in row.items()})
        self._wake.set()

    def flush(self) -> None:
        """Logs the queued rows now, if the store answers."""
        self._flush()

    def end(self, status: str, with_reports: bool = True) -> None:
        """Logs the queued rows and ends the run in MLflow, if the store answers within _PATIENCE.

        Args:
            status: FINISHED, FAILED or KILLED.
            with_reports: whether a run that is not FINISHED gets the workspace's rounds.csv and clients.csv.
        """
        self._with_reports, self._status, self._ended = with_reports, status, True
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
        run_record.terminate(self._client, self._folder, self.run_id, self._status, self._with_reports)

    def _flush(self) -> bool:
        from flows.mlflow_store import run_content

        with self._flushing:
            with self._lock:
                rows = [row for row in self._rows if int(row["round"]) > self._last]
            try:
                self._last = max(self._last, run_content.log_rounds(self._client, self.run_id, rows))
            except Exception as lost:
                _log.warning("MLflow: %s; the rounds are logged when it answers again", safe_line(lost))
                self._wake.set()
                return False
            with self._lock:
                self._rows = [row for row in self._rows if int(row["round"]) > self._last]
            return True
