"""`data.skip_unreadable`: records that cannot be read are refused, or left out and counted."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.datasets import RawExamples, load_raw
from tasks.errors import DataError
from tasks.partition import partition
from tasks.settings import DataKind, DataSettings, PartitionSettings, Settings
from tests.raw_examples import as_numbers


def read(kind: DataKind, path: Path, skip: bool = True, **fields: Any) -> RawExamples:
    return as_numbers(
        load_raw(DataSettings(kind=kind, path=str(path), skip_unreadable=skip, **fields), 0, Path("/nowhere"))
    )


def features(n: int, *broken: int) -> Any:
    x = np.tile(np.arange(n, dtype=float)[:, None], (1, 2))
    x[list(broken), 1] = np.nan
    return x


def labels(n: int, *broken: int) -> Any:
    y = np.arange(n) % 2 + 0.0
    y[list(broken)] = 0.5
    return y


def npz(folder: Path, train: tuple[Any, Any], test: tuple[Any, Any]) -> Path:
    path = folder / "data.npz"
    np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return path


def clients(folder: Path, **of: tuple[Any, Any]) -> Path:
    home = folder / "clients"
    home.mkdir()
    for client, (x, y) in of.items():
        np.savez(home / f"{client}.npz", x=x, y=y)
    return home


def broken_clients(folder: Path) -> Path:
    """Client a: examples 0 and 1 of 6 cannot be read. b: all 4 can. c: none of 2 can. d: the file is damaged."""
    home = clients(
        folder,
        a=(features(6, 0), np.where(np.arange(6) == 1, 255, np.arange(6) % 2)),
        b=(features(4), labels(4).astype(int)),
        c=(features(2, 0, 1), labels(2).astype(int)),
        test=(features(4, 3), np.array([0, 1, 7, 1])),
    )
    (home / "d.npz").write_bytes(b"PK")
    return home


def test_examples_of_an_npz_that_cannot_be_read_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = npz(tmp_path, (features(8, 2), labels(8, 5)), (features(4, 0), np.array([0, 1, 3, 1])))
    examples = read("npz", path)
    np.testing.assert_array_equal(examples.x[:, 0], [0, 1, 3, 4, 6, 7])
    np.testing.assert_array_equal(examples.y, [0, 1, 1, 0, 0, 1])
    # No training example has the label 3.
    np.testing.assert_array_equal(examples.test_x[:, 0], [1, 3])
    message = caplog.messages[0]
    assert message.startswith(
        "4 of 12 records cannot be read and are left out; trained on 6 of 8 of the training set; tested on 2 of 4 of "
        "the test set; the first: "
    )
    assert "x_train must hold finite float32 numbers, got nan in example 2" in message


@pytest.mark.parametrize(
    ("x", "y", "got"),
    [
        (features(8, 2), labels(8), "x_train must hold finite float32 numbers, got nan in example 2"),
        (features(8), labels(8, 5), "0.5 in example 5"),
        (features(8), np.where(np.arange(8) == 6, 255, np.arange(8) % 2), "got 255 in example 6"),
        (features(8), np.eye(2)[np.arange(8) % 2] * (np.arange(8) != 4)[:, None], "[0.0, 0.0] in example 4"),
        (features(8), np.array(["a", "b", "a", "b", "a", "b", "a", ""]), "'' in example 7"),
    ],
)
def test_the_first_record_is_refused_with_the_way_on(tmp_path: Path, x: Any, y: Any, got: str) -> None:
    path = npz(tmp_path, (x, y), (features(2), y[:2]))
    with pytest.raises(DataError) as caught:
        read("npz", path, skip=False)
    assert got in str(caught.value)
    assert "; data.skip_unreadable: true leaves out what cannot be read)" in str(caught.value)
    # Only this record is left out.
    assert len(read("npz", path).y) == 7


def test_clients_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        data=DataSettings(kind="clients", path=str(broken_clients(tmp_path)), skip_unreadable=True),
        partition=PartitionSettings(kind="natural", min_examples=1),
    )
    partition(settings, tmp_path)
    record = json.loads((tmp_path / "data" / "partition" / "partition.json").read_text())
    assert record["unreadable"] == {
        "num_records": 16,
        "num_left_out": 6,
        "clients": {"a": {"num_records": 6, "num_left_out": 2}, "c": {"num_records": 2, "num_left_out": 2}},
        "clients_left_out": ["c", "d"],
        "test": {"num_records": 4, "num_left_out": 2},
    }
    assert {client: of["num_examples"] for client, of in record["clients"].items()} == {"a": 4, "b": 4}
    assert "trained on 4 of 6 of client a, 0 of 2 of client c; tested on 2 of 4 of the test set" in caplog.text
    assert "no record of the clients c, d can be read, so they are left out" in caplog.text


def test_what_is_whole_is_not_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = clients(tmp_path, a=(features(4), labels(4)), b=(features(6), labels(6)), test=(features(2), labels(2)))
    with caplog.at_level(logging.INFO):
        skipping, plain = read("clients", home), read("clients", home, skip=False)
    np.testing.assert_array_equal(skipping.x, plain.x)
    assert not caplog.messages
    assert plain.skipped is None
    assert skipping.skipped is not None
    assert skipping.skipped.described()["num_left_out"] == 0


def test_more_than_half_is_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read("npz", npz(tmp_path, (features(8, 0, 1, 2, 3, 4, 5), labels(8)), (features(2), labels(2))))
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.messages[0].startswith("MORE THAN HALF IS LOST: 6 of 10 records cannot be read")


def test_nothing_that_can_be_read_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, (features(4, 0, 1, 2, 3), labels(4)), (features(2), labels(2)))
    with pytest.raises(DataError, match=r"must hold examples that can be read, got none; the first: .* example 0"):
        read("npz", path)
    path = npz(tmp_path, (features(4), labels(4)), (features(2, 0, 1), labels(2)))
    with pytest.raises(DataError, match=r"no example of the test set can be read; the first: .* example 0"):
        read("npz", path)
    home = clients(tmp_path)
    (home / "a.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="must hold a file of a client that can be read, got none; the first: client a"):
        read("clients", home)


def test_a_class_that_only_unreadable_examples_have_is_none(tmp_path: Path) -> None:
    y = np.array([0, 1, 2, 0, 1, 1])
    home = clients(tmp_path, a=(features(6, 2), y), b=(features(4), labels(4)), test=(features(2), labels(2)))
    assert read("clients", home).classes == ("0", "1")


def test_a_test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    # If it were left out, training examples would be held out instead, unnoticed.
    home = clients(tmp_path, a=(features(4), labels(4)))
    (home / "test.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"test\.npz must be an \.npz file"):
        read("clients", home)


# Tables of ten rows, of which some are damaged.


def table(folder: Path, **cells: dict[int, str]) -> Path:
    """Row n, from 0: feature n + 0.5, label by parity, client a or b by the parity of n // 2. `cells` replace these."""
    usual = {"age": lambda n: str(n + 0.5), "label": lambda n: "xy"[n % 2], "site": lambda n: "ab"[n // 2 % 2]}
    rows = [",".join(cells.get(name, {}).get(n, of(n)) for name, of in usual.items()) for n in range(10)]
    path = folder / "table.csv"
    path.write_text("\n".join([",".join(usual), *rows, ""]))
    return path


@pytest.mark.parametrize(
    ("cells", "got"),
    [
        ({"label": {4: ""}}, "data.label_column 'label' has no label in row 5"),
        ({"site": {4: ""}}, "data.client_column 'site' has no client in row 5"),
        ({"age": {4: "abc"}}, "column 'age' must hold numbers, got 'abc' in row 5"),
        ({"age": {4: "1e39"}}, "column 'age' must hold finite float32 numbers"),
        ({"age": {4: ""}}, "no value may be missing, got 1 missing"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_or_left_out(tmp_path: Path, cells: Any, got: str) -> None:
    path = table(tmp_path, **cells)
    with pytest.raises(DataError) as caught:
        read("table", path, skip=False, client_column="site")
    assert got in str(caught.value)
    assert "data.skip_unreadable: true" in str(caught.value)
    examples = read("table", path, client_column="site")
    ages = sorted(np.concatenate([examples.x, examples.test_x])[:, 0].tolist())
    assert ages == [n + 0.5 for n in range(10) if n != 4]


def test_rows_are_counted_by_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Client a has the rows 0, 1, 4, 5, 8 and 9, client b the others. Row 3 has no client.
    path = table(tmp_path, label={0: ""}, age={5: "abc", 6: "", 9: "two"}, site={3: ""})
    examples = read("table", path, client_column="site")
    assert examples.skipped is not None
    assert examples.skipped.described() == {
        "num_records": 10,
        "num_left_out": 5,
        "clients": {"a": {"num_records": 6, "num_left_out": 3}, "b": {"num_records": 3, "num_left_out": 1}},
        "clients_left_out": [],
        "test": {"num_records": 0, "num_left_out": 0},
    }
    assert "trained and tested on 0 of 1 of no known client, 3 of 6 of client a, 2 of 3 of client b" in caplog.text


def test_missing_values_that_are_filled_are_no_reason_to_leave_a_row_out(tmp_path: Path) -> None:
    examples = read("table", table(tmp_path, age={4: ""}), missing="mean")
    assert len(examples.y) + len(examples.test_y) == 10


def test_a_table_of_unreadable_rows_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, label=dict.fromkeys(range(10), ""))
    with pytest.raises(DataError, match=r"no row can be read; the first: .* has no label in row 1"):
        read("table", path)


# Images


def images(folder: Path) -> Path:
    """Twelve images of clients a and b in turn; image n has the grey level n. Three of a, one of b cannot be read."""
    rows = ["path,label,client,patient"]
    for n in range(12):
        Image.new("L", (4, 3), n).save(folder / f"{n}.png")
        rows.append(f"{n}.png,{'xy'[n // 2 % 2]},{'ab'[n % 2]},{n}")
    (folder / "0.png").write_bytes(b"no image")
    whole = (folder / "5.png").read_bytes()
    # The header of 33 bytes is complete, but the pixels are cut.
    (folder / "5.png").write_bytes(whole[:45])
    (folder / "8.png").unlink()
    rows[11] = "10.png,,a,10"
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_images_that_cannot_be_read_are_counted_by_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = read("images", images(tmp_path), group_column="patient")
    assert examples.clients is not None
    levels = np.rint(255 * examples.x[:, 0, 0, 0]).astype(int)
    held = np.rint(255 * examples.test_x[:, 0, 0, 0]).astype(int)
    assert sorted([*levels, *held]) == [1, 2, 3, 4, 6, 7, 9, 11]
    np.testing.assert_array_equal(examples.y, levels // 2 % 2)
    assert examples.clients.tolist() == ["ab"[n % 2] for n in levels]
    assert examples.skipped is not None
    assert examples.skipped.described() == {
        "num_records": 12,
        "num_left_out": 4,
        "clients": {"a": {"num_records": 6, "num_left_out": 3}, "b": {"num_records": 6, "num_left_out": 1}},
        "clients_left_out": [],
        "test": {"num_records": 0, "num_left_out": 0},
    }
    assert (
        "4 of 12 records cannot be read and are left out; trained and tested on 3 of 6 of client a, 5 of 6 of client b"
        in caplog.text
    )


def test_the_first_image_that_cannot_be_read_is_refused_with_the_way_on(tmp_path: Path) -> None:
    home = images(tmp_path)
    got = ["row 11 has no label", "8.png must be an image, got nothing there", "0.png must be a whole image", "5.png"]
    usual = "path,label,client,patient\n" + "".join(f"{n}.png,{'xy'[n // 2 % 2]},a,1\n" for n in (1, 2, 3, 4))
    lines = (home / "labels.csv").read_text().splitlines()
    for row, says in zip((11, 9, 1, 6), got, strict=True):
        (home / "labels.csv").write_text(usual + lines[row] + "\n")
        with pytest.raises(DataError) as caught:
            read("images", home, skip=False)
        assert says.replace("row 11", "row 5") in str(caught.value)
        assert "; data.skip_unreadable: true leaves out what cannot be read)" in str(caught.value)


def test_images_in_folders_are_left_out_and_none_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(8):
        (tmp_path / "xy"[n % 2]).mkdir(exist_ok=True)
        Image.new("L", (4, 3), n).save(tmp_path / "xy"[n % 2] / f"{n}.png")
    (tmp_path / "y" / "3.png").write_bytes(b"")
    examples = read("images", tmp_path)
    assert len(examples.y) + len(examples.test_y) == 7
    assert "1 of 8 records cannot be read and are left out; trained and tested on 7 of 8 of the data" in caplog.text
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 8 records can be read; the first: .*0\.png must be a whole image"):
        read("images", tmp_path)
