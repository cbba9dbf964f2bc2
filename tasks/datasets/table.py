"""`table`: a CSV or Parquet file with a row for each example, a label column and, if wanted, a client column."""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.checks import named_classes
from tasks.datasets.examples import Labelled, Source
from tasks.errors import DataError, SettingsError
from tasks.files import check_client_id
from tasks.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


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
    frame = _load(path, [label, client] if client else [label])
    columns = [str(column) for column in frame.columns]
    for setting, column in (("data.label_column", label), ("data.client_column", client)):
        if column and column not in columns:
            raise DataError(f"{path} must have the {setting} {column!r}, got {', '.join(map(repr, columns))}")
    if frame.empty:
        raise DataError(f"{path} must have at least one row, got none")
    owners = np.array(_clients(frame[client], f"{path}: column {client!r}")) if client else None
    y, classes = named_classes(_labels(frame[label], f"{path}: column {label!r}"))
    features = [column for column in columns if column not in (label, client)]
    if not features:
        raise DataError(f"{path} must have a feature column beside {label!r}, got none")
    x = np.empty((len(frame), len(features)), dtype=np.float32)
    for index, column in enumerate(features):
        x[:, index] = _numbers(frame[column], f"{path}: column {column!r}")
    return Source(Labelled(x, y), classes, owners)


def _load(path: Path, as_text: list[str]) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path} must be a CSV or Parquet file, got {'a folder' if path.is_dir() else 'nothing there'}")
    try:
        match path.suffix.lower():
            case ".csv":
                _check_header(path)
                with warnings.catch_warnings():
                    # Rows longer than the header are only a warning where all are; mixed types come with big files.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    return pd.read_csv(path, index_col=False, dtype=dict.fromkeys(as_text, str), low_memory=False)
            case ".parquet" | ".pq":
                frame = pd.read_parquet(path, engine="pyarrow")
                _check_columns(path, [str(column) for column in frame.columns])
                return frame
    except (OSError, ValueError, NotImplementedError, KeyError, csv.Error, pd.errors.ParserWarning) as exc:
        raise DataError(f"{path} must be a whole CSV or Parquet file, got {' '.join(str(exc).split())}") from exc
    raise DataError(f"{path} must be a .csv or .parquet file, got {path.suffix or 'no suffix'}")


def _check_header(path: Path) -> None:
    """Refuses what pandas would rename and keep: a saved index is a feature that gives away the order of the rows."""
    with path.open(encoding="utf-8-sig", newline="") as opened:
        _check_columns(path, next(csv.reader(opened), []))


def _check_columns(path: Path, columns: list[str]) -> None:
    if not columns:
        raise DataError(f"{path} must have a header, got an empty file")
    if not all(columns):
        raise DataError(f"{path}: every column must have a name, got none for column {columns.index('') + 1}")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise DataError(f"{path}: every column must be there once, got {', '.join(map(repr, twice))} more often")


def _numbers(column: pd.Series[Any], where: str) -> NDArray[np.float32]:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        values = column.tolist()
        row = next((row for row, value in enumerate(values) if not _is_number(value)), 0)
        raise DataError(f"{where} must hold numbers, got {values[row]!r} in row {row + 1}")
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
    for row, name in enumerate(names, start=1):
        if not float(name).is_integer():
            raise DataError(f"{where} must hold text or integers as labels, got {name} in row {row}")
    return [str(int(float(name))) for name in names]


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
            raise DataError(f"{where} must hold text or integers, got {value!r} in row {row}")
        texts.append(text)
    return texts
