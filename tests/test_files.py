from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DataError, SettingsError, reading
from tasks.files import (
    check_client_id,
    client_ids,
    read_client,
    read_json,
    read_rows,
    replacing,
    write_client,
    write_json,
    write_rows,
)


def test_replacing_leaves_the_file_alone_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write_half() -> None:
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_replacing_a_folder_takes_the_whole_old_one_away(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("old")
    with replacing(path) as fresh:
        fresh.mkdir()
        (fresh / "new").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_replacing_keeps_the_old_folder_when_nothing_was_written(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert (path / "old").read_text() == "old"


def test_replacing_never_writes_through_a_link(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("cached")
    path = tmp_path / "a.txt"
    path.symlink_to(cached)
    with replacing(path) as fresh:
        fresh.write_text("new")
    assert (cached.read_text(), path.read_text()) == ("cached", "new")


@pytest.mark.parametrize("client", ["", ".", "..", "test", "a/b", "a b", "ü", "x" * 101, "a\n", "x.json"])
def test_client_ids_that_are_no_plain_folder_name_are_refused(client: str) -> None:
    with pytest.raises(DataError, match="client id"):
        check_client_id(client)


def test_rows_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ("a", "b"), [{"a": 0.1, "b": None}, {"a": 1e-7, "b": "x,y"}])
    assert read_rows(tmp_path / "a.csv") == [{"a": "0.1", "b": ""}, {"a": "1e-07", "b": "x,y"}]


def test_json_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_client_reads_back_with_its_types(tmp_path: Path) -> None:
    x, y = np.arange(6, dtype=np.float64).reshape(3, 2), np.array([0, 1, 0])
    write_client(tmp_path / "a", x, y)
    read_x, read_y = read_client(tmp_path / "a")
    assert (read_x.dtype, read_y.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)


def test_a_client_with_fewer_labels_than_examples_is_refused_by_name(tmp_path: Path) -> None:
    write_client(tmp_path / "site-7", np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(DataError, match="client site-7"):
        read_client(tmp_path / "site-7")


def test_clients_are_the_folders_beside_the_test_set_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "partition.json").write_text("{}")
    assert client_ids(tmp_path) == ["a", "b"]
    with pytest.raises(DataError, match="no client"):
        client_ids(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "must be a CSV file in UTF-8, got UnicodeDecodeError"),
        (b"a,b\n1\n", "row 1 has not as many cells"),
        (b"a,b\n1,2\n1,2,3\n", "row 2 has not as many cells"),
        (b"a,a\n1,2\n", "must have each column once"),
        (b"a\n1\n", "has no column b"),
        (b"a,b\n1," + b"9" * 200_000 + b"\n", "must be a CSV file"),
    ],
)
def test_rows_of_a_damaged_csv_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "rounds.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(path, ["a", "b"])
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, b"1" * 5000])
def test_damaged_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be JSON, got"):
        read_json(path)


def test_net_lets_errors_with_a_message_for_the_user_and_signals_through() -> None:
    with (
        pytest.raises(DataError, match=r"^alpha must be a number, got ValueError: 1 2$"),
        reading("alpha must be a number"),
    ):
        raise ValueError("1\n 2")
    for passes in (SettingsError("as it is"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(passes)) as caught, reading("alpha"):
            raise passes
        assert caught.value is passes
