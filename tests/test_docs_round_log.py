"""docs/round-log.md against the columns of the round log, and its example against the diagnosis."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.mlflow_store.run_logs import open_run_logs
from tasks.diagnose import diagnose_logs
from tasks.diagnose.report.wording import headline
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS
from tests.documents import ROOT, blocks, chapters, tables

TEXT = (ROOT / "docs/round-log.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "columns"), [("rounds.csv", ROUND_COLUMNS), ("clients.csv", CLIENT_COLUMNS)])
def test_every_column_has_a_row_in_the_order_of_the_file(file: str, columns: tuple[str, ...]) -> None:
    (table,) = tables(chapters(TEXT)[file])
    assert table[0] == ["column", "unit", "value"]
    assert [row[0] for row in table[1:]] == [f"`{column}`" for column in columns]


def test_the_example_writes_a_log_whose_diagnosis_names_the_client(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(TEXT) if block.language == "python"]
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    with open_run_logs(str(tmp_path / "other-run")) as logs:
        diagnosis = diagnose_logs(logs.reports, logs.settings, logs.workspace)
    assert diagnosis.rise.round == 20
    assert diagnosis.named == ("site-3",)
    assert diagnosis.causes == ()
    assert headline(diagnosis) in TEXT, f"docs/round-log.md, the last block: {headline(diagnosis)}"
