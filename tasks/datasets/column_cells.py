"""The cells of a table's column: the marks of missing values, the words for truth values, and cells as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TRUTHS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
"""Pairs of words for 0 and 1, in any case of letters."""
MARKS = frozenset(
    (
        *("?", "-", "--", ".", "..", "...", "*", "na", "n.a.", "n/a", "#n/a", "nan", "null", "none", "nil", "nd"),
        *("unknown", "missing", "not available"),
    )
)
"""Marks of a missing value, in any case of letters, if all other cells of the column are numbers or dates.

pandas treats some of them as missing in every column of a CSV file.
"""
MISSING = "?"
"""The mark of a missing value in every column, as in the data sets of the UCI repository."""

ColumnCells = list[Any]
"""A column's cells: text is stripped, a missing value is None."""


def cells_of(series: pd.Series[Any]) -> ColumnCells:
    """Returns the cells of a column; an empty text and MISSING are missing values."""
    present = series.notna().tolist()
    return [
        (_stripped(cell) if isinstance(cell, str) else cell) if there else None
        for cell, there in zip(series.tolist(), present, strict=True)
    ]


def _stripped(text: str) -> str | None:
    text = text.strip()
    return None if text in ("", MISSING) else text


def as_texts(cells: ColumnCells) -> ColumnCells:
    """Returns `cells` as text. Whole numbers lose their decimals: pandas makes integers floats if a cell is NaN."""
    return [
        cell if cell is None or isinstance(cell, str) else str(int(cell) if _is_whole(cell) else cell) for cell in cells
    ]


def _is_whole(cell: Any) -> bool:
    return isinstance(cell, float) and cell.is_integer()
