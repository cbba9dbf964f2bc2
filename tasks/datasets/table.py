"""`table`: a CSV or Parquet file with a row for each example, a label column and, if wanted, a client column."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.checks import LONGEST_CLASS, check_memory, named_classes
from tasks.datasets.examples import Source, plain
from tasks.errors import DataError, SettingsError, reading, shown
from tasks.files import check_client_id
from tasks.settings import DataSettings, naming

if TYPE_CHECKING:
    import pandas as pd

# Each digit has one place: `[0-9]+\.?[0-9]*` would try every way to cut a long cell that is no number.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read(settings: DataSettings, path: Path, seed: int) -> Source:
    """Returns x (N, F) of all columns but those of label and client, in the file's order, and no test set.

    Labels are text or integers (1.0 is 1); the classes are the sorted labels. Cells that pandas takes for missing
    (empty, NA, nan, …) are errors, also as labels. Rows count from 1, without the header.

    Raises:
        DataError: a column is missing, unnamed, twice there, or not of finite numbers; a label or client is missing.
        SettingsError: the columns of label and client are one.
    """
    label, client = settings.label_column, settings.client_column
    if label == client:
        raise SettingsError(f"data.client_column must differ from data.label_column, got {client!r} for both")
    frame = _load(path, {"data.label_column": label} | ({"data.client_column": client} if client else {}))
    columns = list(frame.columns)
    if frame.empty:
        raise DataError(f"{path} must have at least one row, got none")
    with naming("data.client_column"):
        owners = np.array(_clients(frame[client], f"{path}: column {client!r}")) if client else None
    with naming("data.label_column"):
        where = f"{path}: column {label!r}"
        y, classes = named_classes(_labels(frame[label], where), f"{where}: a label")
    features = [column for column in columns if column not in (label, client)]
    if not features:
        raise DataError(f"{path} must have a feature column beside {label!r}, got none")
    x = np.empty((len(frame), len(features)), dtype=np.float32)
    for index, column in enumerate(features):
        x[:, index] = _numbers(frame[column], f"{path}: column {column!r}")
    return Source(y, plain(x), classes, owners)


def _load(path: Path, wanted: dict[str, str]) -> pd.DataFrame:
    """Returns the table, whose columns are checked; CSV columns that are `wanted`, by setting, come as text."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path} must be a CSV or Parquet file, got {'a folder' if path.is_dir() else 'nothing there'}")
    with reading(f"{path} must be a whole CSV or Parquet file"):
        match path.suffix.lower():
            case ".csv":
                columns = _check_header(path, wanted)
                with warnings.catch_warnings():
                    # Rows longer than the header are only a warning where all are; mixed types come with big files.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    frame = pd.read_csv(
                        path, index_col=False, dtype=dict.fromkeys(wanted.values(), str), low_memory=False
                    )
                if list(frame.columns) != columns:
                    raise DataError(f"{path} must have a header of one line, got {shown(list(frame.columns))}")
                return frame
            case ".parquet" | ".pq":
                return _load_parquet(path, wanted)
    raise DataError(f"{path} must be a .csv or .parquet file, got {path.suffix or 'no suffix'}")


def _load_parquet(path: Path, wanted: dict[str, str]) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    described = parquet.read_metadata(path)
    # A column of one value takes a few bytes, however many rows it has: 8 bytes a number, and 100 a label or client.
    check_memory(described.num_rows * (8 * described.num_columns + 200), f"{path} ({described.num_rows} rows)")
    frame = pd.read_parquet(path, engine="pyarrow")
    frame.columns = pd.Index([str(column) for column in frame.columns])
    _check_columns(path, list(frame.columns), wanted)
    return frame


def _check_header(path: Path, wanted: dict[str, str]) -> list[str]:
    """Returns the columns, without what pandas would rename and keep: a saved index gives away the order of the rows.

    A wide table takes pandas half a minute, so a wrong column is said before.
    """
    with path.open(encoding="utf-8-sig", newline="") as opened:
        columns = next(csv.reader(opened), [])
    _check_columns(path, columns, wanted)
    return columns


def _check_columns(path: Path, columns: list[str], wanted: dict[str, str]) -> None:
    if not columns:
        raise DataError(f"{path} must have a header, got an empty file")
    if not all(columns):
        raise DataError(f"{path}: every column must have a name, got none for column {columns.index('') + 1}")
    twice = sorted(column for column, count in Counter(columns).items() if count > 1)
    if twice:
        raise DataError(f"{path}: every column must be there once, got {', '.join(map(repr, twice[:20]))} more often")
    for setting, column in wanted.items():
        if column not in columns:
            raise DataError(f"{path} must have the {setting} {column!r}, got {', '.join(map(repr, columns[:20]))}")


def _numbers(column: pd.Series[Any], where: str) -> NDArray[np.float32]:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        values = column.tolist()
        row = next((row for row, value in enumerate(values) if not _is_number(value)), 0)
        raise DataError(f"{where} must hold numbers, got {shown(values[row])} in row {row + 1}")
    with np.errstate(over="ignore"):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise DataError(f"{where} must hold finite float32 numbers, got {column.iloc[row]} in row {row + 1}")
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and bool(_NUMBER.fullmatch(value.strip())))


def _labels(column: pd.Series[Any], where: str) -> list[str]:
    names = _texts(column, where, "label")
    if not all(_NUMBER.fullmatch(name) for name in names) or not any("." in n or "e" in n.lower() for n in names):
        return names
    labels = []
    for row, name in enumerate(names, start=1):
        # As a float, integers from 2^53 on would be rounded, and two classes become one.
        number = Decimal(name)
        if number.adjusted() > LONGEST_CLASS or number != number.to_integral_value():
            raise DataError(f"{where} must hold text or integers as labels, got {name[:80]} in row {row}")
        labels.append(str(int(number)))
    return labels


def _clients(column: pd.Series[Any], where: str) -> list[str]:
    ids = _texts(column, where, "client")
    for row, client in enumerate(ids, start=1):
        try:
            check_client_id(client)
        except DataError as exc:
            raise DataError(f"{where} row {row}: {exc}") from exc
    return ids


def _texts(column: pd.Series[Any], where: str, what: str) -> list[str]:
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(f"{where} has no {what} in row {int(np.argmax(missing)) + 1}: every row must have one")
    texts = []
    for row, value in enumerate(column.tolist(), start=1):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip() if isinstance(value, (str, int, float)) else ""
        if not text:
            raise DataError(f"{where} must hold text or integers, got {shown(value)} in row {row}")
        texts.append(text)
    return texts
