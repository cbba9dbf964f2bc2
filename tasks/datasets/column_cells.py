"""The cells of a table's column: what stands for a missing value or a truth value, and their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TRUTHS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
"""Words for 0 and 1, in any capitals."""
MARKS = frozenset(
    (
        *("?", "-", "--", ".", "..", "...", "*", "na", "n.a.", "n/a", "#n/a", "nan", "null", "none", "nil", "nd"),
        *("unknown", "missing", "not available"),
    )
)
"""What stands for a missing value where all other cells of the column are numbers or dates, in any capitals. pandas
takes some of these for missing in every column of a CSV file."""
MISSING = "?"
"""What stands for a missing value in every column, as in the data sets of the UCI repository."""

ColumnCells = list[Any]
"""A column's cells: text is stripped, None is a missing value."""


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
    """Returns `cells` as text; a whole number has no decimals, for pandas makes floats of integers beside NaN."""
    return [
        cell if cell is None or isinstance(cell, str) else str(int(cell) if _is_whole(cell) else cell) for cell in cells
    ]


def _is_whole(cell: Any) -> bool:
    return isinstance(cell, float) and cell.is_integer()
