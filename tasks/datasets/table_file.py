"""The file of a table, as a frame of cells: CSV with its usual separators and encodings, or Parquet."""

from __future__ import annotations

import csv
import gzip
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tasks.datasets.checks import check_memory
from tasks.errors import DataError, reading, shown

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")
TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 2**20


def read_table(path: Path, wanted: Mapping[str, str]) -> pd.DataFrame:
    """Returns the table at `path`, in which a missing cell is NaN and a cell that is no number is text.

    CSV: the separator is the one of SEPARATORS by which the header has most of the wanted columns, and then most
    columns. Cells of a comma-separated file are numbers where pandas reads them so; in other files, a decimal comma is
    possible, so that all cells are text.

    Args:
        path: a file of TEXT_SUFFIXES, perhaps with `.gz`, or of PARQUET_SUFFIXES.
        wanted: columns that must be there, and what an error calls each of them. In CSV, their cells are text.

    Raises:
        DataError: there is no such file, or it is damaged or not in UTF-8 or UTF-16, or a column is missing, unnamed
            or twice there.
    """
    if not path.is_file():
        raise DataError(f"{path} must be a CSV or Parquet file, got {'a folder' if path.is_dir() else 'nothing there'}")
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if suffix in PARQUET_SUFFIXES and not packed:
        with reading(f"{path} must be a whole Parquet file"):
            return _read_parquet(path, wanted)
    if suffix not in TEXT_SUFFIXES:
        advice = ": save it as CSV UTF-8" if suffix.startswith((".xls", ".ods")) else ""
        raise DataError(
            f"{path} must be a {', '.join(TEXT_SUFFIXES)} (also with .gz) or .parquet file, "
            f"got {path.suffix or 'no suffix'}{advice}"
        )
    try:
        with reading(f"{path} must be a whole CSV file"):
            return _read_text(_File(path, packed, _encoding(path, packed)), wanted)
    except DataError as exc:
        if isinstance(exc.__cause__, UnicodeError):
            raise DataError(
                f"{path} must be in UTF-8, got {exc.__cause__}: save it as CSV UTF-8, or convert it "
                "(iconv -f CP1252 -t UTF-8)"
            ) from exc
        raise


@dataclass(frozen=True)
class _File:
    path: Path
    packed: bool
    encoding: str

    def open(self) -> IO[str]:
        if self.packed:
            return gzip.open(self.path, "rt", encoding=self.encoding, newline="")
        return self.path.open(encoding=self.encoding, newline="")


def _encoding(path: Path, packed: bool) -> str:
    with gzip.open(path) if packed else path.open("rb") as opened:
        start = opened.read(2)
        size = len(start)
        while packed and (block := opened.read(_BLOCK)):
            size += len(block)
            check_memory(size, str(path))
    return "utf-16" if start in _UTF_16 else "utf-8-sig"


def _read_text(file: _File, wanted: Mapping[str, str]) -> pd.DataFrame:
    # A wide table takes pandas half a minute, so a wrong column is said before.
    separator, header = _header(file, wanted)
    columns = [name.strip() for name in header]
    open_end = len(columns) > 1 and not columns[-1]
    _check_columns(file.path, columns[:-1] if open_end else columns, wanted)
    text = {raw: str for raw, name in zip(header, columns, strict=True) if name in wanted}
    try:
        frame = _frame(file, separator, text if separator == "," else str)
    except OverflowError:  # an integer of more than 308 digits
        frame = _frame(file, separator, str)
    if open_end and frame.shape[1] == len(columns) and frame.iloc[:, -1].isna().all():
        frame, header, columns = frame.iloc[:, :-1], header[:-1], columns[:-1]
    _check_columns(file.path, columns, wanted)
    if list(frame.columns) != header:
        raise DataError(f"{file.path} must have a header of one line, got {shown(list(frame.columns))}")
    return frame.set_axis(columns, axis=1)


def _frame(file: _File, separator: str, dtype: Any) -> pd.DataFrame:
    import pandas as pd

    with warnings.catch_warnings():
        # Rows longer than the header are only a warning where all are; mixed types come with big files.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            file.path,
            sep=separator,
            index_col=False,
            skipinitialspace=True,
            dtype=dtype,
            encoding=file.encoding,
            compression="gzip" if file.packed else None,
            float_precision="round_trip",  # as Python reads the number of a text cell
            low_memory=False,
        )


def _header(file: _File, wanted: Mapping[str, str]) -> tuple[str, list[str]]:
    found = {separator: _cells(file, separator) for separator in SEPARATORS}
    separator = max(
        found, key=lambda each: (len({name.strip() for name in found[each]} & set(wanted)), len(found[each]))
    )
    return separator, found[separator]


def _cells(file: _File, separator: str) -> list[str]:
    with file.open() as opened:
        rows = csv.reader(opened, delimiter=separator, skipinitialspace=True)
        try:
            return next((row for row in rows if row), [])
        except csv.Error:  # a wide header is one very long cell by the wrong separator
            return []


def _read_parquet(path: Path, wanted: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    described = parquet.read_metadata(path)
    # A column of one value takes a few bytes, however many rows it has: 8 bytes a number, and 100 a label or client.
    check_memory(described.num_rows * (8 * described.num_columns + 200), f"{path} ({described.num_rows} rows)")
    frame = pd.read_parquet(path, engine="pyarrow")
    frame.columns = pd.Index([str(column) for column in frame.columns])
    _check_columns(path, list(frame.columns), wanted)
    return frame


def _check_columns(path: Path, columns: list[str], wanted: Mapping[str, str]) -> None:
    """Refuses what pandas would rename and keep: a saved index gives away the order of the rows."""
    if not columns:
        raise DataError(f"{path} must have a header, got an empty file")
    if not all(columns):
        raise DataError(
            f"{path}: every column must have a name, got none for column {columns.index('') + 1}: name it, or save the "
            "table without its index"
        )
    twice = sorted(column for column, count in Counter(columns).items() if count > 1)
    if twice:
        raise DataError(f"{path}: every column must be there once, got {', '.join(map(repr, twice[:20]))} more often")
    for column, named in wanted.items():
        if column not in columns:
            raise DataError(f"{path} must have {named} {column!r}, got {', '.join(map(repr, columns[:20]))}")
