"""The kind of each column of a table (number, truth value, date or text), and the notation of its cells.

Kind and notation follow from all rows, hold-out rows included, because they belong to the file's format, as a
column's name does. `encoding` has everything that is fitted to values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.datasets.checks import LONGEST_CLASS
from tasks.datasets.column_cells import MARKS, TRUTHS, ColumnCells, as_texts, cells_of
from tasks.datasets.dates import ISO, TIME, date_formats, like_dates, nearest_format
from tasks.datasets.notation import (
    Notation,
    common_unit,
    decided,
    decimal_mark,
    is_number,
    notations,
    without_unit,
)
from tasks.datasets.unreadable import RowsError
from tasks.errors import DataError, shown

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 100
"""Most different texts of a column. Each becomes a feature."""
FEWEST_ROWS = 20
"""Fewest rows from which a column with different values in nearly all rows counts as an id."""
MOST_DISTINCT = 0.95
"""A column is an id or free text if it has more different values than this share of its cells."""
_MIXED = 20
"""Most different values of a column of numbers and texts that is read as categories, such as 0, 1, 2, 3+."""


class ColumnType(BaseModel):
    """The kind of a column and the notation of its cells.

    Attributes:
        name: name of the column.
        kind: kind of the cells; a boolean becomes 0 or 1, a date becomes days.
        decimal: decimal mark of numbers that are text.
        thousands: separator of thousands of numbers that are text; empty: none.
        unit: per cent or currency sign at each of these numbers; empty: none.
        format: format of dates that are text, for `pandas.to_datetime`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["number", "boolean", "date", "text"]
    decimal: str = "."
    thousands: str = ""
    unit: str = ""
    format: str = ""


def recognise(frame: pd.DataFrame, where: str) -> list[ColumnType]:
    """Returns the type of each column of `frame`.

    If a column's numbers can be read in two notations, such as 1,234, the decimal mark of the other columns decides.

    Raises:
        DataError: (1) the cells have another type, (2) numbers or dates can be read in two ways, (3) a text is among
            numbers, or (4) a column has more than MOST_CATEGORIES different texts. The error names the column and
            says what to do.
    """
    types: list[ColumnType] = []
    unclear: dict[int, list[Notation]] = {}
    marks: set[str] = set()
    for name in frame.columns:
        series, place = frame[name], f"{where}: column {name!r}"
        column = _typed(series, name, place)
        if column is None:
            cells = cells_of(series)
            values = [value for value in dict.fromkeys(cells) if value is not None]
            present = [value for value in values if value.lower() not in MARKS]
            unit = common_unit(present)
            written = [without_unit(value, unit) for value in present]
            options = notations(written)
            if len(options) > 1:
                unclear[len(types)] = options
            elif options:
                marks |= decimal_mark(written, options[0])
            column = _number(name, options[0], unit) if options else _of_texts(cells, values, present, name, place)
        elif column.kind == "number" and series.dtype.kind == "f" and _has_fraction(series):
            marks.add(".")
        types.append(column)
    for index, options in unclear.items():
        name = types[index].name
        notation = decided(options, marks)
        if notation is None:
            raise _two_numbers(cells_of(frame[name]), f"{where}: column {name!r}")
        types[index] = _number(name, notation, types[index].unit)
    return types


def _number(name: str, notation: Notation, unit: str) -> ColumnType:
    return ColumnType(name=name, kind="number", decimal=notation[0], thousands=notation[1], unit=unit)


def _typed(series: pd.Series[Any], name: str, where: str) -> ColumnType | None:
    """Returns the column's type by the type of its cells; None for text, which needs a closer look."""
    import pandas as pd

    match pd.api.types.infer_dtype(series, skipna=True):
        case "boolean":
            return ColumnType(name=name, kind="boolean")
        case "integer" | "floating" | "mixed-integer-float" | "decimal" | "empty":
            return ColumnType(name=name, kind="number")
        case "datetime64" | "datetime" | "date":
            return ColumnType(name=name, kind="date", format=ISO)
        case "time":
            return ColumnType(name=name, kind="date", format=TIME)
        case "categorical":
            _check_categories(as_texts(cells_of(series)), name, where)
            return ColumnType(name=name, kind="text")
        case "string":
            return None
    cells = cells_of(series)
    row = next((row for row, cell in enumerate(cells) if cell is not None and not isinstance(cell, str)), 0)
    raise DataError(
        f"{where} must hold numbers, truth values, dates or text, got {shown(cells[row])} in row {row + 1}: write one "
        "of these, or leave the column out (data.drop_columns)"
    )


def _of_texts(cells: ColumnCells, values: Sequence[str], present: Sequence[str], name: str, where: str) -> ColumnType:
    """Returns the type of a column of texts that are not numbers. `present` are its `values` without MARKS."""
    if not values:
        return ColumnType(name=name, kind="number")
    lower = {value.lower() for value in values}
    if any(lower <= set(pair) for pair in TRUTHS):
        return ColumnType(name=name, kind="boolean")
    formats = date_formats(present)
    if len(formats) > 1:
        raise DataError(
            f"{where}: {shown(present[0])} can be two dates (day or month first): write the dates as YYYY-MM-DD, or "
            "leave the column out (data.drop_columns)"
        )
    if formats:
        return ColumnType(name=name, kind="date", format=formats[0])
    _refuse_mixed_dates(cells, present, where)
    _refuse_mixed(cells, present, where)
    _check_categories(cells, name, where)
    return ColumnType(name=name, kind="text")


def _two_numbers(cells: ColumnCells, where: str) -> DataError:
    row = next(row for row, cell in enumerate(cells) if cell is not None and ("." in cell or "," in cell))
    return DataError(
        f"{where}: {shown(cells[row])} in row {row + 1} can be thousands or a decimal fraction: write the column's "
        "numbers without separators of thousands, or leave it out (data.drop_columns)"
    )


def _refuse_mixed(cells: ColumnCells, present: Sequence[str], where: str) -> None:
    """Refuses a text among numbers. As a column of text, each number would become a category."""
    texts = [value for value in present if not is_number(value)]
    if not texts and present:
        raise DataError(
            f"{where} must hold numbers in one notation, got {shown(present[0])} and others in another notation: "
            "write all with the same decimal mark and unit, or leave the column out (data.drop_columns)"
        )
    if len(present) - len(texts) < len(texts):
        return
    counts = Counter(cells)
    if len(present) <= _MIXED and all(counts[text] > 1 for text in texts):
        return
    wrong = set(texts)
    raise RowsError(
        f"{where} must hold numbers, got {shown(texts[0])} in row {cells.index(texts[0]) + 1}: correct the cell, leave "
        "it empty (data.missing), or leave the column out (data.drop_columns)",
        np.array([cell in wrong for cell in cells]),
    )


def _refuse_mixed_dates(cells: ColumnCells, present: Sequence[str], where: str) -> None:
    """Refuses dates in several formats and a text among dates. As text, each date would become a category."""
    if 2 * sum(like_dates(present)) < len(present):
        return
    wrong = {value for value, there in zip(present, nearest_format(present), strict=True) if not there}
    first = next(value for value in present if value in wrong)
    says = (
        f"{where} must hold dates in one format, got {shown(first)} in row {cells.index(first) + 1}: write all as "
        "YYYY-MM-DD, or leave the column out (data.drop_columns)"
    )
    raise DataError(says) if 2 * len(wrong) > len(present) else RowsError(says, np.array([c in wrong for c in cells]))


def _check_categories(cells: ColumnCells, name: str, where: str) -> None:
    present = [cell for cell in cells if cell is not None]
    different = len(set(present))
    advice = f"leave it out: data.drop_columns: [{name}]"
    if len(present) >= FEWEST_ROWS and different > MOST_DISTINCT * len(present):
        raise DataError(
            f"{where} is text with {different} different values in {len(present)} rows, such as {shown(present[0])}: "
            f"write numbers without units, dates in one format, and if it is an id or free text, {advice}"
        )
    if different > MOST_CATEGORIES:
        raise DataError(
            f"{where} must have at most {MOST_CATEGORIES} different texts, because each becomes a feature, got "
            f"{different}, such as {shown(present[0])}: put the rare ones together, or {advice}"
        )
    longest = max(present, key=len, default="")
    if len(longest) > LONGEST_CLASS:
        raise DataError(
            f"{where} must have categories of at most {LONGEST_CLASS} characters, got {shown(longest)} of "
            f"{len(longest)}: {advice}"
        )


def _has_fraction(series: pd.Series[Any]) -> bool:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return bool((values[np.isfinite(values)] % 1 != 0).any())
