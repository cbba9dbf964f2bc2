"""rounds.csv and clients.csv: of other frameworks, and damaged files."""

from pathlib import Path

import pytest
from diagnosis_logs import client_rows, losses_of, round_rows, write

from tasks.diagnose import diagnose
from tasks.errors import DataError
from tasks.round_log.read import read_rounds
from tasks.settings import parse

SETTINGS = parse({})


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("rounds", "round,train\n1,2\n", "needs one of the columns val_loss, train_loss"),
        ("rounds", "val_loss\n1\n", "has no column round"),
        ("rounds", "round,val_loss\n", "holds no row"),
        ("rounds", "", "is empty"),
        ("rounds", "round,val_loss,round\n1,2,1\n", "must have each column once"),
        ("rounds", "round,val_loss\n1,high\n", "row 1, column val_loss must be a number or empty, got 'high'"),
        ("rounds", "round,val_loss\n-1,2\n", "column round must be a whole number >= 0, got '-1'"),
        ("rounds", "round,val_loss\n1.5,2\n", "column round must be a whole number"),
        ("rounds", "round,val_loss\n1,2\n1,3\n", "round 1 has two rows"),
        ("rounds", "round,val_loss\n1\n", "must have as many cells"),
        ("rounds", "round,val_loss\n1,2,3\n", "must have as many cells"),
        ("clients", "round,client\n1,00\n", "needs one of the columns"),
        ("clients", "round,client,loss_after\n1,00,1\n", "needs one of the columns"),
        ("clients", "round,update_norm\n1,2\n", "has no column client"),
        ("clients", "round,client,update_norm\n1,,2\n", "must be a client id"),
        ("clients", "round,client,update_norm\n1,a,long\n", "column update_norm must be a number"),
        ("clients", "round,client,update_norm\n1,a,1\n1,a,2\n", "client a has two rows in round 1"),
        ("clients", "round,client,update_norm,finite\n1,a,1,maybe\n", "column finite must be True or False"),
    ],
)
def test_bad_log_is_one_clear_error_and_writes_nothing(tmp_path: Path, file: str, text: str, says: str) -> None:
    write(tmp_path, round_rows(losses_of(21)), client_rows(21))
    (tmp_path / f"reports/{file}.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        diagnose(SETTINGS, tmp_path)
    assert says in str(caught.value)
    assert f"{file}.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["clients.csv", "rounds.csv"]


@pytest.mark.parametrize("file", ["rounds", "clients"])
def test_missing_or_binary_log_is_a_data_error(tmp_path: Path, file: str) -> None:
    write(tmp_path, round_rows(losses_of(22)), client_rows(22))
    path = tmp_path / f"reports/{file}.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="UTF-8"):
        diagnose(SETTINGS, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        diagnose(SETTINGS, tmp_path)


def test_empty_cell_is_not_measured_and_nan_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text("round,val_loss\n1,\n2,nan\n3,-inf\n4,0.5\n5,1e200\n")
    column = read_rounds(path).losses["val_loss"]
    assert column.given.tolist() == [False, True, True, True, True]
    assert column.not_finite.tolist() == [False, True, True, False, True]
