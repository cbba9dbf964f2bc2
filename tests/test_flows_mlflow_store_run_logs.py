"""The logs of a run that a user names."""

import logging
from pathlib import Path

import pytest
from diagnosis_logs import client_rows, losses_of, round_rows, write

from flows.mlflow_store.run_logs import open_run_logs


def test_the_log_has_the_path_of_the_report_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, round_rows(losses_of(0)), client_rows(0))
    with caplog.at_level(logging.INFO, logger="flows"), open_run_logs(str(folder)):
        pass
    assert caplog.messages == [f"report: {folder / 'reports/diagnosis.html'}"]
