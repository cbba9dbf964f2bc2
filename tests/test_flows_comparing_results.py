"""Files that an earlier process wrote are read again; a damaged file is an error of one line."""

from pathlib import Path

import pytest

from flows.comparing import grid, results
from flows.mlflow_store import tracked_results
from tasks import files
from tasks.errors import DataError

ROOT = Path(__file__).parents[1]
ROWS = "round,phase,val_loss,val_accuracy,drift\n1,federate,0.5,0.8,0.1\n2,prune,0.4,0.9,0.1\n"
COUNTS = {"test": {"num_examples": 10}, "clients": {"a": {"num_examples": 5}}}


@pytest.fixture
def cell() -> grid.Cell:
    return grid.cells((ROOT / "params.yaml").read_text(), ["seed=0"], True)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/rounds.csv").write_text(ROWS)
    files.write_json(tmp_path / "reports/metrics.json", {"accuracy": 0.9})
    files.write_json(tmp_path / "data/partition/partition.json", COUNTS)
    return tmp_path


def test_a_whole_cell_is_read(folder: Path, cell: grid.Cell) -> None:
    found = results.read_result(cell, folder, "id")
    assert (found.curve, found.prune_from, found.resolution["accuracy"]) == ({1: 0.5, 2: 0.4}, 2, 1 / 10)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        *(("reports/rounds.csv", text) for text in (b"", b"\xff\xfe", b"round\n1\n", b"round,phase\nx,prune\n")),
        *(("reports/metrics.json", text) for text in (b"", b"[]", b"3", b"{", b"\x00")),
        *(("data/partition/partition.json", text) for text in (b"{}", b"[]", b'{"test": 3}')),
        ("data/partition/partition.json", b'{"test": {"num_examples": 0}}'),
        ("data/partition/partition.json", b'{"test": {"num_examples": 9}, "clients": {}}'),
        ("data/partition/partition.json", b'{"test": {"num_examples": 9}, "clients": {"a": {"num_examples": 0}}}'),
    ],
)
def test_a_damaged_file_of_a_cell_is_one_line(path: str, content: bytes, folder: Path, cell: grid.Cell) -> None:
    (folder / path).write_bytes(content)
    with pytest.raises(DataError) as raised:
        results.read_result(cell, folder, "id")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'"x"', b"{}", b'{"run_id": 3}', b"\xff", b"{"])
def test_a_damaged_report_of_a_tracked_run_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mlflow\.json must") as raised:
        tracked_results.read_report(path)
    assert "\n" not in str(raised.value)
