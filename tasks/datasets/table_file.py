"""The file of a table as a frame of cells: CSV with the usual separators and encodings, or Parquet."""

from __future__ import annotations

import csv
import difflib
import gzip
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from tasks.datasets.checks import check_memory
from tasks.errors import DataError, reading, shown

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")
SPACES = " "
"""Separates columns, one space or more, if the header has no other separator."""
TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
"""The first bytes of such files, for any file name."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 2**20
"""Bytes that are unpacked at a time, to find the size of a packed file."""


def read_table(path: Path, wanted: Mapping[str, str]) -> pd.DataFrame:
    """Returns the table at `path`; a missing cell is NaN, and a cell that is not a number is text.

    In CSV, the separator is in a first line such as `sep=;`. Without this line, it is the one that gives the header
    most of the wanted columns and, among equal ones, most columns. Left out at the end of the table are (1) columns
    with neither name nor cells and (2) rows without cells. In comma-separated files, pandas decides which cells are
    numbers. In all other CSV files a decimal comma is possible, so all cells are text.

    Args:
        path: a file of TEXT_SUFFIXES, with or without `.gz`, or of PARQUET_SUFFIXES.
        wanted: columns that must be there, and the name of each for an error. In CSV, their cells are text.

    Raises:
        DataError: the file is missing, damaged, or in neither UTF-8 nor UTF-16; or a column is missing, unnamed or
            there twice.
    """
    if not path.is_file():
        raise DataError(f"{path} must be a CSV or Parquet file, got {'a folder' if path.is_dir() else 'nothing there'}")
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    start = _start(path)
    if start == _PARQUET or path.suffix.lower() in PARQUET_SUFFIXES:
        with reading(f"{path} must be a whole Parquet file"):
            return _read_parquet(path, wanted)
    if suffix not in TEXT_SUFFIXES:
        advice = "save it as CSV UTF-8" if suffix.startswith((".xls", ".ods")) else "if it is text, call it .csv"
        raise DataError(
            f"{path} must be a {', '.join(TEXT_SUFFIXES)} (also with .gz) or .parquet file, "
            f"got {path.suffix or 'no suffix'}: {advice}"
        )
    if start == _ZIP:
        raise DataError(f"{path} must be a CSV file, got a zip archive or an Excel file: save its table as CSV UTF-8")
    try:
        with reading(f"{path} must be a whole CSV file"):
            return _read_text(_file(path), wanted)
    except DataError as exc:
        if isinstance(exc.__cause__, UnicodeError):
            raise DataError(
                f"{path} must be in UTF-8, got {exc.__cause__}: save it as CSV UTF-8, or convert it "
                "(iconv -f CP1252 -t UTF-8)"
            ) from exc
        if "Expected" in str(exc):  # pandas: Expected 3 fields in line 62, saw 4
            raise DataError(f"{exc}: correct the line, or put the cell that holds the separator in quotes") from exc
        raise


@dataclass(frozen=True)
class _File:
    path: Path
    packed: bool
    encoding: str
    separator: str = ""
    """from a line `sep=;` before the header; empty without it"""

    def open(self) -> IO[str]:
        """Returns the text, opened at the header."""
        if self.packed:
            opened = cast(IO[str], gzip.open(self.path, "rt", encoding=self.encoding, newline=""))  # noqa: SIM115
        else:
            opened = self.path.open(encoding=self.encoding, newline="")
        if self.separator:
            opened.readline()
        return opened


def _start(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(4)


def _file(path: Path) -> _File:
    packed = _start(path).startswith(_GZIP)
    with gzip.open(path) if packed else path.open("rb") as opened:
        start = opened.read(2)
        size = len(start)
        while packed and (block := opened.read(_BLOCK)):
            size += len(block)
            check_memory(size, str(path))
    file = _File(path, packed, "utf-16" if start in _UTF_16 else "utf-8-sig")
    with file.open() as text:
        said = re.fullmatch(r'"?sep=(.)"?\r?\n?', text.readline(10), re.I)
    return replace(file, separator=said[1]) if said else file


def read_text_rows(path: Path, wanted: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the header of a CSV, and its rows, {column: text}; the separator is as in `read_table`.

    Missing and surplus cells of a row are as in `csv.DictReader`. Rows without cells at the end are left out. Damaged
    files raise errors of many types, so this must be called within `reading`.
    """
    file = _file(path)
    separator, header = _header(file, dict.fromkeys(wanted, ""))
    with file.open() as opened:
        reader = csv.DictReader(opened, delimiter=separator, skipinitialspace=True, strict=True)
        reader.fieldnames = [name.strip() for name in header]
        rows = list(reader)[1:]
    while rows and not any(cell and cell.strip() for cell in rows[-1].values() if isinstance(cell, str | None)):
        rows.pop()
    return [name.strip() for name in header], rows


def _read_text(file: _File, wanted: Mapping[str, str]) -> pd.DataFrame:
    # pandas takes half a minute for a wide table, so a wrong column is refused first.
    separator, header = _header(file, wanted)
    columns = [name.strip() for name in header]
    named = max((place for place, name in enumerate(columns, start=1) if name), default=len(columns))
    _check_columns(file.path, columns[:named], wanted)
    text = {raw: str for raw, name in zip(header, columns, strict=True) if name in wanted}
    try:
        frame = _frame(file, separator, text if separator == "," else str)
    except OverflowError:  # an integer of more than 308 digits
        frame = _frame(file, separator, str)
    if frame.shape[1] == len(columns) and frame.iloc[:, named:].isna().all(axis=None):
        frame, header, columns = frame.iloc[:, :named], header[:named], columns[:named]
    _check_columns(file.path, columns, wanted)
    if list(frame.columns) != header:
        raise DataError(f"{file.path} must have a header of one line, got {shown(list(frame.columns))}")
    rows = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.iloc[: rows[-1] + 1 if len(rows) else 0].set_axis(columns, axis=1)


def _frame(file: _File, separator: str, dtype: Any) -> pd.DataFrame:
    import pandas as pd

    with warnings.catch_warnings():
        # If all rows are longer than the header, or a large file has mixed types, pandas only warns.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            file.path,
            sep=r"\s+" if separator == SPACES else separator,
            skiprows=1 if file.separator else 0,
            index_col=False,
            skipinitialspace=True,
            dtype=dtype,
            encoding=file.encoding,
            compression="gzip" if file.packed else None,
            float_precision="round_trip",  # the same number as Python reads from text
            low_memory=False,
        )


def _header(file: _File, wanted: Mapping[str, str]) -> tuple[str, list[str]]:
    headers = {each: _cells(file, each) for each in ([file.separator] if file.separator else SEPARATORS)}
    separator = max(
        headers, key=lambda each: (len({name.strip() for name in headers[each]} & set(wanted)), len(headers[each]))
    )
    spaced = [] if file.separator or len(headers[separator]) > 1 else [name for name in _cells(file, SPACES) if name]
    return (SPACES, spaced) if set(wanted) & set(spaced) else (separator, headers[separator])


def _cells(file: _File, separator: str) -> list[str]:
    with file.open() as opened:
        rows = csv.reader(opened, delimiter=separator, skipinitialspace=True)
        try:
            return next((row for row in rows if row), [])
        except csv.Error:  # with the wrong separator, a wide header is one cell that is too long
            return []


def _read_parquet(path: Path, wanted: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    described = parquet.read_metadata(path)
    # In the file, a column with one value takes a few bytes for any number of rows. In memory: 8 bytes per number, and
    # 100 per label or client.
    check_memory(described.num_rows * (8 * described.num_columns + 200), f"{path} ({described.num_rows} rows)")
    _check_columns(path, parquet.read_schema(path).names, {})
    frame = pd.read_parquet(path, engine="pyarrow")
    frame.columns = pd.Index([str(column) for column in frame.columns])
    _check_columns(path, list(frame.columns), wanted)
    return frame


def _check_columns(path: Path, columns: list[str], wanted: Mapping[str, str]) -> None:
    """Refuses columns that pandas would rename and keep: a saved index, for example, shows the order of the rows."""
    if not columns:
        raise DataError(f"{path} must have a header, got an empty file")
    if not all(columns):
        raise DataError(
            f"{path}: every column must have a name, got none for column {columns.index('') + 1}: name it, or save the "
            "table without its index"
        )
    twice = sorted(column for column, count in Counter(columns).items() if count > 1)
    if twice:
        raise DataError(f"{path}: every column must occur once, got {', '.join(map(repr, twice[:20]))} more than once")
    for column, named in wanted.items():
        if column not in columns:
            listed = ", ".join(map(repr, columns[:20]))
            raise DataError(f"{path} must have {named} {column!r}, got {listed}: {_advice(column, columns)}")


def _advice(column: str, columns: list[str]) -> str:
    if len(columns) == 1:
        return "the first line must have the names of all columns, with , ; | tabs or spaces between them"
    names = {name.casefold(): name for name in columns}
    close = difflib.get_close_matches(column.casefold(), names, n=1)
    return (
        f"did you mean {names[close[0]]!r}?"
        if close
        else "name one of these, or, if they are cells, put a line of names first"
    )
