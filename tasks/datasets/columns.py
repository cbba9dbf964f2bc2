"""What the cells of a table's columns are: numbers, truth values, dates or text, and in which notation.

A column's kind and notation are read from all its rows, as its name is. What is fitted to values is in `encoding`.
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
"""Different texts of a column: each becomes a feature."""
FEWEST_ROWS = 20
"""Below, that all values of a column differ says nothing."""
MOST_DISTINCT = 0.95
"""Share of a column's cells: with more different values, it is an id or free text."""
_MIXED = 20
"""Different values of a column of categories in which some are numbers, such as 0, 1, 2, 3+."""


class ColumnType(BaseModel):
    """What the cells of a column are.

    Attributes:
        name: of the column.
        kind: boolean cells are 0 or 1, dates are days.
        decimal: mark of numbers that are text.
        thousands: separator of numbers that are text.
        unit: a per cent or currency sign, which stands at each of these numbers.
        format: of dates that are text, as `pandas.to_datetime` takes it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["number", "boolean", "date", "text"]
    decimal: str = "."
    thousands: str = ""
    unit: str = ""
    format: str = ""


def recognise(frame: pd.DataFrame, where: str) -> list[ColumnType]:
    """Returns what each column of `frame` holds.

    Where a column's numbers can be read in two notations, such as 1,234, the decimal mark of the other columns decides.

    Raises:
        DataError: a column holds something else, its numbers or dates can be read in two ways, a text stands between
            its numbers, or it has more than MOST_CATEGORIES different texts. The column and how to go on are named.
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
    """Returns what a column is whose type says it; None for text."""
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
        f"{where} must hold numbers, truth values, dates or text, got {shown(cells[row])} in row {row + 1}: write it "
        "so, or leave the column out (data.drop_columns)"
    )


def _of_texts(cells: ColumnCells, values: Sequence[str], present: Sequence[str], name: str, where: str) -> ColumnType:
    """Returns what a column of texts is that are no numbers: its different `values`, and those `present` of them."""
    if not values:
        return ColumnType(name=name, kind="number")
    lower = {value.lower() for value in values}
    if any(lower <= set(pair) for pair in TRUTHS):
        return ColumnType(name=name, kind="boolean")
    formats = date_formats(present)
    if len(formats) > 1:
        raise DataError(
            f"{where}: {shown(present[0])} may be of two dates (day or month first): write the dates as YYYY-MM-DD, or "
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
        f"{where}: {shown(cells[row])} in row {row + 1} may be thousands or a decimal fraction: write the column's "
        "numbers without separators of thousands, or leave it out (data.drop_columns)"
    )


def _refuse_mixed(cells: ColumnCells, present: Sequence[str], where: str) -> None:
    """Refuses one wrong cell in a column of numbers, which would make each of its numbers a category."""
    texts = [value for value in present if not is_number(value)]
    if not texts and present:
        raise DataError(
            f"{where} must hold numbers in one notation, got {shown(present[0])} and others that do not go with it: "
            "write all with the same decimal mark and unit, or leave the column out (data.drop_columns)"
        )
    if len(present) - len(texts) < len(texts):
        return
    counts = Counter(cells)
    if len(present) <= _MIXED and all(counts[text] > 1 for text in texts):
        return
    wrong = set(texts)
    raise RowsError(
        f"{where} must hold numbers, got {shown(texts[0])} in row {cells.index(texts[0]) + 1}: mend the cell, leave it "
        "empty (data.missing), or leave the column out (data.drop_columns)",
        np.array([cell in wrong for cell in cells]),
    )


def _refuse_mixed_dates(cells: ColumnCells, present: Sequence[str], where: str) -> None:
    """Refuses dates of several formats, or one wrong cell among dates, which would make each date a category."""
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
            f"{where} must have at most {MOST_CATEGORIES} different texts, each of which becomes a feature, got "
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
