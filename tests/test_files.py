import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DataError, SettingsError, reading, shown
from tasks.files import read_blocks, read_json, read_rows, replacing, write_json, write_rows
from tasks.settings import load


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


def test_replacing_removes_the_empty_folders_that_it_made_when_the_block_raises(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "new" / "deep" / "a.txt", tmp_path / "kept" / "a.txt"):
        with pytest.raises(RuntimeError), replacing(path):
            raise RuntimeError("half way")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["kept"]


def test_replacing_puts_the_old_folder_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("old")

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)

    def write() -> None:
        with replacing(path) as fresh:
            fresh.mkdir()
            (fresh / "new").write_text("new")

    with pytest.raises(PermissionError) as caught:
        write()
    assert caught.value.filename == str(path)
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert (path / "old").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_replacing_never_writes_through_a_link(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("cached")
    path = tmp_path / "a.txt"
    path.symlink_to(cached)
    with replacing(path) as fresh:
        fresh.write_text("new")
    assert (cached.read_text(), path.read_text()) == ("cached", "new")


def test_rows_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ("a", "b"), [{"a": 0.1, "b": None}, {"a": 1e-7, "b": "x,y"}])
    assert read_rows(tmp_path / "a.csv") == [{"a": "0.1", "b": ""}, {"a": "1e-07", "b": "x,y"}]


def test_json_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "must be a CSV file in UTF-8, got UnicodeDecodeError"),
        (b"a,b\n1\n", "row 1 must have as many cells"),
        (b"a,b\n1,2\n1,2,3\n", "row 2 must have as many cells"),
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


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("rounds.csv", "params.yaml"):
        os.mkfifo(tmp_path / name)
    for read in (read_json, read_rows):
        with pytest.raises(DataError, match="it is not a file"):
            read(tmp_path / "rounds.csv")
    with pytest.raises(SettingsError, match="cannot read"):
        load(tmp_path / "params.yaml")


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


def test_an_error_is_one_printable_line_of_600_characters_that_keeps_both_ends() -> None:
    text = str(DataError(f"begin \udcff\x1b\n\n{'x' * 10_000} end"))
    assert text.startswith(r"begin \udcff\x1b xxx")
    assert text.endswith("xxx end")
    assert len(text) <= 600
    assert text.isprintable()
    assert str(DataError("ä 'b' → c")) == "ä 'b' → c"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**6, "1000000"),
        (1 << 5000, "an integer of 5001 bits"),
        ("x" * 1000, f"'{'x' * 37}...{'x' * 38}'"),
        ([[[[1]]]], "[[[...]]]"),
        ({"a": {"b": 1}}, "{'a': {'b': 1}}"),
        (None, "None"),
        ((1, 2), "(1, 2)"),
    ],
)
def test_a_value_is_shown_short(value: Any, text: str) -> None:
    assert shown(value) == text


def test_an_error_that_quotes_a_file_stays_one_line(tmp_path: Path) -> None:
    (tmp_path / "rounds.csv").write_text('"rou\nnd",b\u2028c\r\n1,2\r\n')
    with pytest.raises(DataError, match=r"has no column a, got rou nd, b c$"):
        read_rows(tmp_path / "rounds.csv", ["a"])


def test_a_long_csv_is_read_in_blocks_whose_rows_are_counted_through(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    write_rows(path, ("round", "client"), ({"round": number, "client": "a"} for number in range(1, 45_001)))
    blocks = list(read_blocks(path, ["client"]))
    assert [(block.first, len(block.rows)) for block in blocks] == [(1, 20_000), (20_001, 20_000), (40_001, 5_000)]
    assert [cell for block in blocks for cell in block.column("round")] == [str(n) for n in range(1, 45_001)]
    with path.open("a") as opened:
        opened.write("45001\n")
    with pytest.raises(DataError, match="row 45001 must have as many cells as the header"):
        list(read_blocks(path))


def test_a_csv_without_a_row_is_one_block(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n\n")
    (block,) = read_blocks(tmp_path / "a.csv")
    assert (block.header, block.rows, block.column("b")) == (["a", "b"], [], [])


def test_rows_are_written_as_they_come_and_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_rows(path, ("a",), [{"a": 1}])

    def failing() -> Iterator[dict[str, int]]:
        yield {"a": 2}
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_rows(path, ("a",), failing())
    with pytest.raises(ValueError, match="dict contains fields not in fieldnames"):
        write_rows(path, ("a",), iter([{"b": 1}]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "a\n1\n"
