"""What `flows.diagnose --apply` runs again with, and when there is nothing to run with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.prefect_flows import diagnosis_flow
from tasks.errors import RunError
from tasks.settings import Settings
from tests.diagnosis_values import SCAFFOLD, diagnosis, with_cause


def test_advice_cannot_be_applied_and_says_what_to_correct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def open_run_logs(run: str) -> Iterator[SimpleNamespace]:
        del run
        yield SimpleNamespace(reports=tmp_path, settings=Settings(), workspace=tmp_path)

    advice = replace(SCAFFOLD, settings={}, says="correct the labels of client 03 (they were changed: y to 9 - y)")
    answer = with_cause(diagnosis(), remedy=advice)
    monkeypatch.setattr(diagnosis_flow, "open_run_logs", open_run_logs)
    monkeypatch.setattr(diagnosis_flow, "diagnose_logs", lambda *_: answer)
    with pytest.raises(RunError) as error:
        diagnosis_flow.params_with_remedy("run")
    assert str(error.value) == (
        "there is no setting to apply; the remedy is to correct the labels of client 03 (they were changed: y to "
        "9 - y), and to run again"
    )
