"""The state that the tasks of one flow run share: its workspace, its settings, and its MLflow run if one has begun."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.mlflow_store import finished_run, run_record, tracked_results, verdict_tags
from flows.mlflow_store.live_run import LiveRun
from flows.workspace.run_folder import Workspace
from tasks.settings import Settings
from tasks.signals import masked

_log = logging.getLogger(__name__)


class Session:
    """One flow run. Its MLflow run begins with the first step that trains; none begins if the cache has all results."""

    def __init__(self, workspace: Workspace, settings: Settings, tags: Mapping[str, str], parent: str = "") -> None:
        """`parent` is the comparison's MLflow run if this run is a cell; a cell always gets an MLflow run."""
        self.workspace, self.settings = workspace, settings
        self.is_child = bool(parent)
        self.linked, self._begun = "", time.time()
        self.is_compared = False
        """Whether the run is compared with the last good run before its model can become champion."""
        self._tags = {**tags, **({"mlflow.parentRunId": parent} if parent else {})}
        self._live: LiveRun | None = None

    @property
    def is_live(self) -> bool:
        """Whether this flow run, or an earlier attempt at it, has begun a run in MLflow."""
        return self._live is not None or bool(run_record.read_run_id(self.workspace.folder))

    def begin(self) -> LiveRun:
        """Returns the MLflow run. The first call creates or resumes it."""
        if self._live is None:
            self._live = LiveRun(self.workspace.folder, self.settings, self._tags, self._begun)
        return self._live

    def live(self) -> LiveRun:
        """Returns the MLflow run for rounds on the clients' present data, which must be in the workspace.

        If the data have changed since an earlier attempt, that attempt's rounds must not be mixed with new ones: its
        MLflow run is ended, and a new one begins.
        """
        folder, data = self.workspace.folder, self.workspace.hashes().get("data/clients", "")
        if run_record.is_of_other_data(folder, data):
            _log.warning(
                "the data have changed since MLflow run %s began: a new run begins", run_record.read_run_id(folder)
            )
            self.begin().end("KILLED", with_reports=False)  # the workspace's reports can be of the new data
            self._live = None
            run_record.remove_record(folder)
        live = self.begin()
        run_record.note_data(folder, data)
        return live

    def restore(self, step: str) -> bool:
        """Returns whether the step need not run: DVC's cache has its outputs or, for `track`, MLflow has the run.

        A flow run that has begun an MLflow run of its own completes that one, also if another run has the same results.
        """
        if step != "track":
            return self.workspace.restore(step)
        if self.is_live:
            return False
        if not finished_run.find_logged(self.settings, self.workspace.folder):
            _log.info("MLflow has no run with these settings and results: they are logged")
            return False
        self.workspace.commit(step)
        return True

    def finish(self) -> None:
        """Logs the finished run, and writes reports/mlflow.json."""
        live = self.live()
        live.flush()
        folder = self.workspace.folder
        # A run with a verdict of its own is not compared: its versions are refused now.
        waits = self.is_compared and verdict_tags.is_clean(folder / "reports")
        finished_run.log_finished(self.settings, folder, live.run_id, promotes=not waits)

    def promote(self) -> None:
        """Decides whether the run's versions become champions, if it was logged in this session."""
        if self._live is not None:
            finished_run.promote(self.settings, self.workspace.folder, self._live.run_id)

    @contextmanager
    def ending(self, stopped: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Ends the MLflow run when the block ends.

        Its status is KILLED after a signal or an exception of the type `stopped`, FAILED after any other error, and
        otherwise FINISHED. A retry continues an MLflow run that was KILLED.
        """
        status = "KILLED"
        try:
            yield
            status = "FINISHED"
        except stopped:
            raise
        except Exception as exc:
            status = "KILLED" if masked(exc) else "FAILED"
            raise
        finally:
            self.end(status)

    def end(self, status: str) -> None:
        """Ends the MLflow run, if there is one."""
        if self._live is not None:
            self._live.end(status)

    def mlflow(self) -> dict[str, Any]:
        """Returns reports/mlflow.json for this flow run's MLflow run or, without one, the file; {} if there is none."""
        if self._live is not None:
            store = self._live.store
            return {"run_id": self._live.run_id, "tracking_uri": store.uri, "experiment_id": store.experiment_id}
        path = Path(self.workspace.folder, "reports/mlflow.json")
        return tracked_results.read_report(path) if path.is_file() else {}
