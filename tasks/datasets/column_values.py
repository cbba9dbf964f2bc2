"""The values of a table's column whose kind and notation are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.column_cells import MARKS, TRUTHS, as_texts, cells_of
from tasks.datasets.columns import FEWEST_ROWS, MOST_DISTINCT, ColumnType
from tasks.datasets.dates import days
from tasks.datasets.notation import read_numbers
from tasks.datasets.unreadable import RowsError
from tasks.errors import DataError, shown

if TYPE_CHECKING:
    import pandas as pd

_WORDS = {"number": "numbers", "boolean": "truth values", "date": "dates in the format of the others"}


def values_of(series: pd.Series[Any], column: ColumnType, where: str) -> NDArray[Any]:
    """Returns the values (N,) of `series`: text as objects, all other kinds as float64; a missing value is NaN.

    Dates become days since 1970-01-01.

    Raises:
        DataError: a cell is not of the kind of `column`, or is too large for float32.
    """
    match column.kind:
        case "text":
            return np.array([np.nan if text is None else text for text in as_texts(cells_of(series))], dtype=object)
        case "date":
            return _by_value(series, partial(days, pattern=column.format), column, where)
        case "boolean":
            return _by_value(series, _truths, column, where)
        case "number":
            read = partial(read_numbers, decimal=column.decimal, thousands=column.thousands, unit=column.unit)
            return _finite(_by_value(series, read, column, where), series, where)


def _finite(numbers: NDArray[np.float64], series: pd.Series[Any], where: str) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        wrong = np.isinf(numbers.astype(np.float32))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RowsError(
            f"{where} must hold finite float32 numbers, got {shown(series.iloc[row])} in row {row + 1}", wrong
        )
    return numbers


def distinct_integers(series: pd.Series[Any], numbers: NDArray[np.float64]) -> bool:
    """Returns whether `numbers`, the values of `series`, can be ids: whole, and different in nearly every row."""
    present = numbers[~np.isnan(numbers)]
    # pandas makes integers floats if a cell of the column is missing.
    if (series.dtype.kind == "f" and len(present) == len(numbers)) or len(present) < FEWEST_ROWS:
        return False
    # As floats, ids with more than 15 digits can be equal.
    return bool((present % 1 == 0).all()) and series.nunique() > MOST_DISTINCT * len(present)


def _truths(cells: Sequence[Any]) -> NDArray[np.float64]:
    truth = {word: float(value) for pair in TRUTHS for value, word in zip((False, True), pair, strict=True)}
    return np.array([truth.get(str(cell).lower(), np.nan) for cell in cells])


def _by_value(
    series: pd.Series[Any], read: Callable[[Sequence[Any]], NDArray[np.float64]], column: ColumnType, where: str
) -> NDArray[np.float64]:
    if column.kind != "date" and series.dtype.kind in "biuf":
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    cells = cells_of(series)
    values = [cell for cell in dict.fromkeys(cells) if cell is not None and str(cell).lower() not in MARKS]
    numbers = dict(zip(values, read(values).tolist(), strict=True)) if values else {}
    wrong = next((value for value, number in numbers.items() if np.isnan(number)), None)
    if wrong is not None:
        raise DataError(f"{where} must hold {_WORDS[column.kind]}, got {shown(wrong)} in row {cells.index(wrong) + 1}")
    return np.array([numbers.get(cell, np.nan) for cell in cells])
