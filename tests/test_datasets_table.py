"""Tables as users have them: the features of each column, the filled cells, and the log lines."""

import gzip
import json
import logging
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tasks.clients import TEST
from tasks.datasets import RawExamples, load_raw
from tasks.datasets.encoding import encode
from tasks.errors import DataError, SettingsError, UndriftError
from tasks.files import read_json
from tasks.partition import partition
from tasks.settings import DataSettings, parse
from tests.shards import read_client

ROWS = 40


def write(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def column(
    folder: Path, cells: Sequence[str], separator: str = ",", name: str = "t.csv", encoding: str = "utf-8"
) -> Path:
    """A table of ROWS rows with `number` (0, 0.5, 1, …), `a` (the cells, repeated) and the label."""
    rows = [separator.join(("number", "a", "label"))]
    rows += [separator.join((str(n / 2), cells[n % len(cells)], "xy"[n % 2])) for n in range(ROWS)]
    return write(folder, "\n".join(rows) + "\n", name, encoding)


def read(path: Path, **chosen: Any) -> RawExamples:
    return load_raw(DataSettings(kind="table", path=str(path), **chosen), 0, path.parent)


def refusal(path: Path, **chosen: Any) -> str:
    with pytest.raises(UndriftError) as caught:
        read(path, **chosen)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def features_of(path: Path, **chosen: Any) -> dict[str, list[float]]:
    """{feature: its values of all rows in the file's order}."""
    data = read(path, **chosen)
    every = np.concatenate([data.x, data.test_x]).astype(float)
    every = every[np.argsort(every[:, list(data.feature_names).index("number")])]
    return {name: every[:, index].tolist() for index, name in enumerate(data.feature_names)}


def repeated(values: Sequence[float]) -> list[float]:
    return [values[n % len(values)] for n in range(ROWS)]


# Files


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
def test_every_separator_is_understood(tmp_path: Path, separator: str, name: str) -> None:
    found = features_of(column(tmp_path, ["1", "2.5"], separator, name))
    assert found == {"number": [n / 2 for n in range(ROWS)], "a": repeated([1, 2.5])}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, encoding: str) -> None:
    assert list(features_of(column(tmp_path, ["ä", "ö"], ";", encoding=encoding))) == ["number", "a=ä", "a=ö"]


@pytest.mark.parametrize("cells", [["ä", "b"], ["1", "2"]])
def test_another_encoding_is_refused_with_the_way_on(tmp_path: Path, cells: list[str]) -> None:
    path = column(tmp_path, cells, encoding="latin-1")
    path.write_bytes(path.read_bytes().replace(b"number", "größe".encode("latin-1")))
    assert "must be in UTF-8" in refusal(path)
    assert "save it as CSV UTF-8" in refusal(path)


def test_a_packed_table_is_read_and_a_cut_one_refused(tmp_path: Path) -> None:
    packed = gzip.compress(column(tmp_path, ["1", "2"]).read_bytes())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(packed)
    assert features_of(path) == features_of(tmp_path / "t.csv")
    path.write_bytes(packed[:-20])
    assert "t.csv.gz must be a whole CSV file" in refusal(path)


def test_the_content_says_how_a_file_is_packed_not_its_name(tmp_path: Path) -> None:
    path = column(tmp_path, ["1", "2"])
    expected, text = features_of(path), path.read_bytes()
    path.write_bytes(gzip.compress(text))
    assert features_of(path) == expected
    (tmp_path / "t.csv.gz").write_bytes(text)
    assert features_of(tmp_path / "t.csv.gz") == expected
    path.write_bytes(b"PK\x03\x04 and more")
    assert "a zip archive or an Excel file: save its table as CSV UTF-8" in refusal(path)


@pytest.mark.parametrize("separator", [";", ",", "|", "\t"])
def test_the_line_with_which_excel_names_the_separator_is_no_header(tmp_path: Path, separator: str) -> None:
    text = column(tmp_path, ["1", "2"], separator).read_text()
    expected = features_of(tmp_path / "t.csv")
    for before in (f"sep={separator}\r\n", f'"sep={separator}"\n'):
        assert features_of(write(tmp_path, before + text, encoding="utf-8-sig")) == expected


@pytest.mark.parametrize("spaces", [" ", "   "])
def test_spaces_separate_columns_where_nothing_else_does(tmp_path: Path, spaces: str) -> None:
    text = column(tmp_path, ["1", "2"], spaces).read_text()
    assert features_of(write(tmp_path, text.replace("\n", " \n"))) == features_of(column(tmp_path, ["1", "2"]))


def test_spaces_in_names_separate_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "a,the label\n1,x\n2,y\n")
    assert "got 'a', 'the label': did you mean 'the label'?" in refusal(path)


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = column(tmp_path, ["1", "2"])
    assert refusal(path, label_column="Label").endswith("got 'number', 'a', 'label': did you mean 'label'?")
    assert refusal(path, drop_columns=["numbr"]).endswith("did you mean 'number'?")
    assert refusal(path, label_column="target").endswith("if they are cells, put a line of names first")
    assert "the first line must have the names of all columns" in refusal(write(tmp_path, "Report\n\na,label\n1,x\n"))


def test_rows_and_columns_without_cells_at_the_end_are_left_out(tmp_path: Path) -> None:
    text = column(tmp_path, ["1", "2"], ";").read_text()
    expected = features_of(tmp_path / "t.csv")
    assert features_of(write(tmp_path, text.replace("\n", ";;;\n") + ";;;;;\n; ; ;;;\n\n")) == expected
    inside = text.replace("\n", "\n;;\n", 5).replace("\n;;\n", "\n", 4)
    assert "has no label in row 5" in refusal(write(tmp_path, inside))


def test_a_row_of_too_many_cells_is_refused_by_its_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a,label\n1,x\n1,5,y\n"))
    assert "Expected 2 fields in line 3, saw 3: correct the line, or put the cell that holds the separator" in message


def test_columns_of_one_name_in_parquet_are_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1, 2])] * 3, names=["a", "a", "label"])
    parquet.write_table(table, tmp_path / "t.parquet")
    assert "every column must occur once, got 'a' more than once" in refusal(tmp_path / "t.parquet")


def test_spaces_around_cells_and_names_are_no_part_of_them(tmp_path: Path) -> None:
    path = write(tmp_path, "number , a , label\n" + "".join(f'{n} , "u" , {"xy"[n % 2]} \n' for n in range(8)))
    assert read(path).feature_names == ("number", "a=u")
    assert read(path).classes == ("x", "y")


def test_an_unnamed_last_column_without_cells_is_left_out(tmp_path: Path) -> None:
    text = column(tmp_path, ["1", "2"]).read_text()
    assert read(write(tmp_path, text.replace("label\n", "label,\n", 1))).feature_names == ("number", "a")
    message = refusal(write(tmp_path, text.replace("\n", ",7\n").replace("label,7", "label,")))
    assert "got none for column 4" in message


# Numbers


@pytest.mark.parametrize(
    ("cells", "separator", "expected"),
    [
        (["1,5", "2"], ";", [1.5, 2]),
        (["1.234,5", "12"], ";", [1234.5, 12]),
        (["1,234.5", "12"], ";", [1234.5, 12]),
        (["1.234.567", "12"], ";", [1234567, 12]),
        (['"1,5"', '"-2,25"'], ",", [1.5, -2.25]),
        (['"1,234"', '"12"'], ",", [1234, 12]),  # the column `number` has decimal points
        (["0,123", "1"], ";", [0.123, 1]),  # thousands never begin with 0
        (["1.234", "2.5"], ";", [1.234, 2.5]),
        (["1 234,5", "12"], "\t", [1234.5, 12]),
        (["1\u00a0234", "12"], ",", [1234, 12]),
        (["1'234.5", "12"], ",", [1234.5, 12]),
        (["1,5e3", "\u22122"], ";", [1500, -2]),
    ],
)
def test_numbers_of_one_possible_notation(
    tmp_path: Path, cells: list[str], separator: str, expected: list[float]
) -> None:
    found = features_of(column(tmp_path, cells, separator))["a"]
    assert found == pytest.approx(repeated(expected), rel=1e-6)


def test_the_decimal_mark_of_other_columns_decides_what_thousands_are(tmp_path: Path) -> None:
    rows = "".join(f"{n};1.234;{n},5;{'xy'[n % 2]}\n" for n in range(8))
    # If another column has decimal commas, 1.234 is 1234.
    assert features_of(write(tmp_path, "number;a;b;label\n" + rows))["a"] == [1234] * 8
    alone = "".join(f"{n};1.234;{'xy'[n % 2]}\n" for n in range(8))
    assert features_of(write(tmp_path, "number;a;label\n" + alone))["a"] == pytest.approx([1.234] * 8)


@pytest.mark.parametrize("other", ["1", '"1,5";1.5'])
def test_a_number_of_two_readings_is_refused(tmp_path: Path, other: str) -> None:
    header = "number;a;label\n" if other == "1" else "number;b;a;label\n"
    path = write(tmp_path, header + "".join(f"{other};1,234;{'xy'[n % 2]}\n" for n in range(8)))
    assert "column 'a': '1,234' in row 1 can be thousands or a decimal fraction" in refusal(path)
    assert "data.drop_columns" in refusal(path)


def test_one_wrong_cell_between_numbers_is_named(tmp_path: Path) -> None:
    cells = [f"{n}.5" for n in range(ROWS)]
    cells[6] = "1o"
    message = refusal(column(tmp_path, cells))
    assert "column 'a' must hold numbers, got '1o' in row 7" in message
    assert "data.drop_columns" in message


def test_a_few_numbers_between_texts_are_categories(tmp_path: Path) -> None:
    assert list(features_of(column(tmp_path, ["0", "1", "2", "3+"])))[1:] == ["a=0", "a=1", "a=2", "a=3+"]


@pytest.mark.parametrize("cell", ["1" + "0" * 400, "inf", "1e39"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_a_number_beyond_float32_is_refused(tmp_path: Path, cell: str, separator: str) -> None:
    message = refusal(column(tmp_path, ["1", "2", cell], separator))
    assert "column 'a' must hold finite float32 numbers" in message
    assert "in row 3" in message


# Categories, truth values, dates


def test_text_is_one_feature_a_category(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = features_of(column(tmp_path, ["self", "public", "self", " private"]))
    assert found["a=private"] == repeated([0, 0, 0, 1])
    assert found["a=public"] == repeated([0, 1, 0, 0])
    assert found["a=self"] == repeated([1, 0, 1, 0])
    assert [record.getMessage() for record in caplog.records] == [
        "t.csv: columns: 2, features: 4; as they are: 1; one-hot: a (3)"
    ]


def test_a_category_of_the_hold_out_alone_is_all_zeros(tmp_path: Path) -> None:
    # Each category has two rows. Half of the rows are held out, so both rows of some category can be.
    cells = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"] * 2
    path = write(tmp_path, "a,n,label\n" + "".join(f"{c},{i / 2},{'xy'[i % 2]}\n" for i, c in enumerate(cells)))
    data = read(path, test_fraction=0.5)
    known = {name.removeprefix("a=") for name in data.feature_names if name.startswith("a=")}
    assert known < set(cells)
    one_hot = data.test_x[:, 1:].sum(axis=1)
    of_row = [cells[int(2 * n)] for n in data.test_x[:, 0]]
    assert one_hot.tolist() == [float(text in known) for text in of_row]
    assert not one_hot.all()


@pytest.mark.parametrize(
    ("cells", "got"),
    [
        ([f"patient {n}" for n in range(ROWS)], "40 different values in 40 rows, such as 'patient 0'"),
        ([f"{n} mg" for n in range(ROWS)], "write numbers without units"),
    ],
)
def test_text_that_differs_in_nearly_every_row_is_refused(tmp_path: Path, cells: list[str], got: str) -> None:
    message = refusal(column(tmp_path, cells))
    assert got in message
    assert "data.drop_columns: [a]" in message
    assert list(features_of(column(tmp_path, cells), drop_columns=("a",))) == ["number"]


def test_more_than_a_hundred_categories_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"c{n % 101},{'xy'[n % 2]}\n" for n in range(303))
    assert "at most 100 different texts" in refusal(write(tmp_path, "a,label\n" + rows))


@pytest.mark.parametrize("words", [("no", "Yes"), ("FALSE", "true"), ("n", "Y"), ("F", "T")])
def test_yes_and_no_are_1_and_0(tmp_path: Path, words: tuple[str, str]) -> None:
    assert features_of(column(tmp_path, words))["a"] == repeated([0, 1])


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["12%", "3.5 %"], [12, 3.5]),
        (["$5", "-$1.50"], [5, -1.5]),
        (["1.200,50 €", "3,00 €"], [1200.5, 3]),
        (['"$1,200.50"', "$ 7"], [1200.5, 7]),
    ],
)
def test_numbers_may_have_one_sign_of_a_unit(tmp_path: Path, cells: list[str], numbers: list[float]) -> None:
    separator = ";" if "," in cells[1] else ","
    path = column(tmp_path, cells, separator)
    assert features_of(path)["a"] == repeated(numbers)
    data = read(path)
    again = encode(path, data.fitted | {"names": list(data.feature_names)})
    assert again[:, 1].tolist() == repeated(numbers)


@pytest.mark.parametrize("cells", [["5%", "5"], ["$5", "€5"], ["1.5", '"1,5"', "2"]])
def test_numbers_in_several_notations_are_no_categories(tmp_path: Path, cells: list[str]) -> None:
    assert "column 'a' must hold numbers in one notation, got " in refusal(column(tmp_path, cells))


@pytest.mark.parametrize("cells", [["1", "?"], ["u", "?", "v"], ["yes", " ?", "no"], ["2020-01-31", "?"]])
def test_a_question_mark_is_a_missing_value(tmp_path: Path, cells: list[str]) -> None:
    missing = sum("?" in cells[n % len(cells)] for n in range(ROWS))
    assert f"got {missing} missing in 1 of 2 columns" in refusal(column(tmp_path, cells))
    assert not any("?" in name for name in read(column(tmp_path, cells), missing="most_frequent").feature_names)


def test_a_column_without_values_is_to_be_left_out_whatever_fills_others(tmp_path: Path) -> None:
    assert "column 'a' must have a value in a training row" in refusal(column(tmp_path, ["", "NA"]))


def test_ids_beyond_the_digits_of_a_float_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(column(tmp_path, [str(2**60 + n) for n in range(ROWS)]))
    assert "whole numbers that differ in nearly every row are taken as features: a;" in caplog.text


@pytest.mark.parametrize(
    ("first", "second", "days"),
    [
        ("2020-01-30", "2020-02-01", 2),
        ("2020-01-30T12:00:00", "2020-02-01 00:00", 1.5),
        ("2020-01-30T23:00:00-02:00", "2020-02-01T01:00:00Z", 1),
        ("30.1.2020", "01.02.2020", 2),
        ("30/01/2020", "01/02/2020", 2),
        ("01/30/2020", "02/01/2020", 2),
        ("30 Jan 2020", "1 Feb 2020", 2),
        ('"Jan 30, 2020"', '"Feb 1, 2020"', 2),
        ("1/30/2020 11:00 PM", "2/1/2020 11:00 AM", 1.5),
        ("1820-01-30", "9999-12-31", (date(9999, 12, 31) - date(1820, 1, 30)).days),
    ],
)
def test_dates_become_days(tmp_path: Path, first: str, second: str, days: float) -> None:
    found = features_of(column(tmp_path, [first, second]))["a"]
    assert found[1] - found[0] == pytest.approx(days, rel=1e-6)


@pytest.mark.parametrize(
    ("cells", "days"),
    [(["06:00", "12:30"], [6 / 24, 12.5 / 24]), (["6:00:36 AM", "12:00:00 PM"], [6.01 / 24, 0.5])],
)
def test_times_become_fractions_of_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cells: list[str], days: list[float]
) -> None:
    with caplog.at_level(logging.INFO):
        assert features_of(column(tmp_path, cells))["a"] == pytest.approx(repeated(days), rel=1e-6)
    assert "times as fractions of a day: a" in caplog.text


def test_times_of_parquet_become_fractions_of_a_day(tmp_path: Path) -> None:
    rows = {"number": np.arange(ROWS), "a": [time(6), time(12, 30)] * (ROWS // 2), "label": ["x", "x", "y", "y"] * 10}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    assert features_of(tmp_path / "t.parquet")["a"] == pytest.approx(repeated([6 / 24, 12.5 / 24]), rel=1e-6)


@pytest.mark.parametrize(
    "cells", [["2020-01-31", "31.01.2020"], ["1/5/20", "1/6/20"], ["2020-01-31", "31.01.2020", "2020-02-01", "x"]]
)
def test_dates_that_are_not_understood_are_no_categories(tmp_path: Path, cells: list[str]) -> None:
    assert "column 'a' must hold dates in one format, got " in refusal(column(tmp_path, cells))


def test_one_wrong_cell_among_dates_is_named_or_left_out(tmp_path: Path) -> None:
    path = column(tmp_path, [f"2020-01-{1 + n:02d}" for n in range(27)])
    path.write_text(path.read_text().replace("2020-01-05", "2020-02-30", 1))
    assert "got '2020-02-30' in row 5: write all as YYYY-MM-DD" in refusal(path)
    data = read(path, skip_unreadable=True)
    assert data.skipped is not None
    assert data.skipped.left_out == {"": 1}


def test_seconds_of_a_date_are_kept(tmp_path: Path) -> None:
    begin = datetime(2023, 5, 1)
    cells = [(begin + timedelta(seconds=n)).isoformat() for n in range(ROWS)]
    # As days since 1970 in float32, all these times would be equal.
    np.testing.assert_allclose(np.diff(features_of(column(tmp_path, cells))["a"]), 1 / 86400, rtol=1e-2)


def test_dates_of_two_readings_are_refused(tmp_path: Path) -> None:
    message = refusal(column(tmp_path, ["01/02/2020", "03/04/2020"]))
    assert "column 'a': '01/02/2020' can be two dates (day or month first)" in message
    assert "YYYY-MM-DD" in message


def test_parquet_s_own_types_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame(
        {
            "number": np.arange(8) / 2,
            "day": [date(2020, 1, 1 + n) for n in range(8)],
            "time": pd.date_range("2020-01-01", periods=8, tz="Europe/Berlin"),
            "text": pd.array(["u", "v"] * 4, dtype="string"),
            "kind": pd.Categorical(["u", "v"] * 4),
            "whole": pd.array([1, None] * 4, dtype="Int64"),
            "wet": pd.array([True, None] * 4, dtype="boolean"),
            "label": ["x", "x", "y", "y"] * 2,
        }
    ).to_parquet(path)
    found = features_of(path, missing="mean")
    assert np.diff(found["day"]).tolist() == [1] * 7
    assert np.diff(found["time"]) == pytest.approx([1] * 7)
    assert found["text=u"] == found["kind=u"] == [1, 0] * 4
    assert found["whole"] == found["wet"] == [1] * 8


# Missing values


def test_missing_values_are_refused_with_their_columns_and_the_way_on(tmp_path: Path) -> None:
    message = refusal(column(tmp_path, ["1", "", "NA", "?"]))
    assert "got 30 missing in 1 of 2 columns (a 30; first in row 2)" in message
    assert "data.missing: mean, median or most_frequent" in message
    assert "data.drop_columns" in message


@pytest.mark.parametrize(("missing", "fill"), [("mean", np.mean), ("median", np.median)])
def test_missing_numbers_are_filled_from_the_training_rows(
    tmp_path: Path, missing: str, fill: Callable[[Any], float]
) -> None:
    cells = [("" if n % 5 == 2 else f"{n * n}.5") for n in range(ROWS)]
    data = read(column(tmp_path, cells), missing=missing)
    assert data.filled is not None
    assert data.test_filled is not None
    expected = np.float32(fill(data.x[data.filled == 0, 1].astype(float)))
    assert np.unique(data.x[data.filled == 1, 1]).tolist() == [expected]
    assert set(data.test_x[data.test_filled == 1, 1].tolist()) <= {float(expected)}
    assert int(data.filled.sum() + data.test_filled.sum()) == 8


def test_missing_text_is_filled_with_the_most_frequent(tmp_path: Path) -> None:
    found = features_of(column(tmp_path, ["u", "v", "v", ""]), missing="mean")
    assert found["a=v"] == repeated([0, 1, 1, 1])


def test_a_column_without_a_value_is_refused(tmp_path: Path) -> None:
    assert "leave it out" in refusal(column(tmp_path, [""]), missing="median")


def test_a_missing_label_or_client_is_never_filled(tmp_path: Path) -> None:
    text = column(tmp_path, ["s", "t"]).read_text().replace("0.5,t,y", "0.5,t,")
    assert "has no label in row 2" in refusal(write(tmp_path, text), missing="mean")
    text = column(tmp_path, ["s", ""]).read_text()
    assert "has no client in row 2" in refusal(write(tmp_path, text), missing="mean", client_column="a")


def test_filled_cells_are_counted_by_client_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{n / 2},{'' if n % 4 == 1 else n},s{n % 2},{'xy'[n // 2 % 2]}\n" for n in range(ROWS))
    path = write(tmp_path, "number,a,site,label\n" + rows)
    chosen = {"kind": "table", "path": str(path), "client_column": "site", "missing": "median"}
    with caplog.at_level(logging.INFO):
        partition(parse({"data": chosen, "partition": {"kind": "natural"}}), tmp_path)
    record = read_json(tmp_path / "data/partition/partition.json")
    # Only site s1 has missing values, in 10 of its rows, of which some are held out.
    held = record["test"]["filled"]
    assert (record["clients"]["s0"]["filled"], record["clients"]["s1"]["filled"]) == (0, 10 - held)
    assert f"{10 - held} missing cells filled at 1 clients (s1 {10 - held}), and {held} of the hold-out" in caplog.text
    assert "filled (median): a (10)" in caplog.text


# Columns left out, and ids


def test_columns_that_cannot_be_left_out_are_refused(tmp_path: Path) -> None:
    path = column(tmp_path, ["1", "2"])
    assert "data.drop_columns 'b', got 'number', 'a', 'label'" in refusal(path, drop_columns=("b",))
    with pytest.raises(SettingsError, match=r"must not name the data\.label_column, got 'label'"):
        read(path, drop_columns=("label",))
    with pytest.raises(SettingsError, match=r"must not name the data\.client_column, got 'a'"):
        read(path, drop_columns=("a",), client_column="a")


@pytest.mark.parametrize(
    ("cells", "warned"),
    [
        ([str(1000 + n) for n in range(ROWS)], True),
        (["" if n == 3 else str(1000 + n) for n in range(ROWS)], True),
        ([f"{n / 4}" for n in range(ROWS)], False),
        ([f"{n}.0" for n in range(ROWS)], False),
        ([str(n // 2) for n in range(ROWS)], False),
    ],
)
def test_whole_numbers_that_may_be_ids_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cells: list[str], warned: bool
) -> None:
    read(column(tmp_path, cells), missing="median")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("taken as features: a;" in line, "data.drop_columns" in line) for line in said] == [(True, True)] * warned


# What is kept


def test_the_features_are_rebuilt_from_partition_json(tmp_path: Path) -> None:
    rows = [
        f"{n / 3!r};{'' if n % 7 == 2 else f'1.{n:03},{n}'};{'' if n % 5 == 3 else 'uvw'[n % 3]};"
        f"{'' if n % 9 == 4 else f'{1 + n % 28}.{1 + n % 12}.2021 {n % 24}:30'};{('yes', 'no')[n % 2]};{'xy'[n % 2]}"
        for n in range(ROWS)
    ]
    path = write(tmp_path, "\n".join(["number;amount;kind;day;wet;label", *rows]))
    chosen = {"kind": "table", "path": str(path), "missing": "mean"}
    partition(parse({"data": chosen, "partition": {"kind": "iid", "num_clients": 2}}), tmp_path)
    kept = tmp_path / "data/partition"
    features = read_json(kept / "partition.json")["features"]
    assert features["names"] == ["number", "amount", "day", "wet", "kind=u", "kind=v", "kind=w"]
    again = {row.tobytes() for row in encode(path, json.loads(json.dumps(features)))}
    written = np.concatenate([read_client(kept, client)[0] for client in ("00", "01", TEST)])
    assert len(written) == ROWS
    assert {row.tobytes() for row in written} == again


def test_another_table_gets_the_features_of_the_run(tmp_path: Path) -> None:
    data = read(column(tmp_path, ["u", "v"]))
    features = {"names": list(data.feature_names), **data.fitted}
    other = write(tmp_path, "a\tother\tnumber\nv\t1\t3\nw\t1\t4.5\n", "other.tsv")
    assert encode(other, features).tolist() == [[3, 0, 1], [4.5, 0, 0]]
    with pytest.raises(DataError, match="must have the column 'a', got 'number'"):
        encode(write(tmp_path, "number\n3\n"), features)
    with pytest.raises(DataError, match="no value may be missing"):
        encode(write(tmp_path, "number,a\n,u\n"), features)
    with pytest.raises(DataError, match="column 'number' must hold numbers, got 'three' in row 1"):
        encode(write(tmp_path, "number,a\nthree,u\n"), features)


@pytest.mark.parametrize(
    "change",
    [{"names": 3}, {"missing": "guess"}, {"columns": [{"name": "a"}]}, {"columns": [{"name": "a", "kind": "text"}]}],
)
def test_a_record_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = column(tmp_path, ["u", "v"])
    data = read(path)
    with pytest.raises(DataError, match=r"`features` must be as in partition\.json"):
        encode(path, {"names": list(data.feature_names), **data.fitted, **change})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    cells=st.lists(
        st.one_of(
            st.sampled_from(["", "u", "v", "yes", "2020-01-31", "1,5", "1.234", "?", "01/02/2020", " x "]),
            st.floats(allow_nan=False, width=32).map(str),
            st.text(st.characters(codec="utf-8", exclude_characters='\n\r"'), max_size=5),
        ),
        min_size=4,
        max_size=12,
    ),
    separator=st.sampled_from(",;\t|"),
    missing=st.sampled_from(["refuse", "mean", "median", "most_frequent"]),
)
def test_whatever_cells_are_taken_is_rebuilt_with_the_same_bits(
    tmp_path: Path, cells: list[str], separator: str, missing: str
) -> None:
    rows = [separator.join(("number", "a", "label"))]
    rows += [separator.join((f"{n}.25", f'"{cell}"', "xy"[n % 2])) for n, cell in enumerate(cells)]
    path = write(tmp_path, "\n".join(rows))
    try:
        data = read(path, missing=missing)
    except DataError:
        return
    again = encode(path, json.loads(json.dumps({"names": list(data.feature_names), **data.fitted})))
    train = np.isin(again[:, 0], data.x[:, 0])
    assert again[train].tobytes() == data.x.tobytes()
    assert again[~train].tobytes() == data.test_x.tobytes()


# Labels


def test_fractions_as_labels_are_refused_even_where_rows_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "a,label\n" + "".join(f"{n},{n / 4}\n" for n in range(ROWS)))
    assert "got 0.25 in row 2: a number to predict must be cut into classes first" in refusal(
        path, skip_unreadable=True
    )


def test_a_label_that_pandas_takes_for_missing_is_explained(tmp_path: Path) -> None:
    assert "has no label in row 1: every row must have one (an empty cell, NA, None and null count" in refusal(
        write(tmp_path, "a,label\n1,None\n2,mild\n")
    )


def test_decimals_of_parquet_may_be_labels(tmp_path: Path) -> None:
    rows = {"a": range(ROWS), "label": [Decimal(n % 2) for n in range(ROWS)]}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").classes == ("0", "1")
