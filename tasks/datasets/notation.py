"""Numbers that stand as text in a table's column: with a decimal comma, separators of thousands, or a unit."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Notation = tuple[str, str]
"""Decimal mark and separator of thousands."""

POINT: Notation = (".", "")
NOTATIONS: tuple[Notation, ...] = (POINT, (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))

UNITS = ("%", "$", "€", "£", "¥")

# The kinds of space, apostrophe and minus that a spreadsheet writes.
_PLAIN = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'", "\u2212": "-"})


def notations(texts: Sequence[str]) -> list[Notation]:
    """Returns the notations in which all `texts` are numbers, without those that give the same numbers as another."""
    written = "".join(texts).translate(_PLAIN)
    readings: dict[Notation, NDArray[np.float64]] = {}
    for decimal, thousands in NOTATIONS if texts else ():
        # Where its mark stands nowhere, a notation says what a simpler one says.
        if (decimal, thousands) == POINT or (thousands or decimal) in written:
            numbers = read_numbers(texts, decimal, thousands)
            if not np.isnan(numbers).any() and not any(np.array_equal(numbers, other) for other in readings.values()):
                readings[decimal, thousands] = numbers
    return list(readings)


def decimal_mark(texts: Sequence[str], notation: Notation) -> set[str]:
    """Returns the decimal mark of `texts` in which it stands, or a point or comma as separator of thousands beside it.

    Otherwise, the set is empty.
    """
    written = [mark for mark in notation if mark in (".", ",")]
    return {notation[0]} if any(mark in text for text in texts for mark in written) else set()


def decided(options: Sequence[Notation], marks: set[str]) -> Notation | None:
    """Returns the one of two notations whose decimal mark is among `marks`, those of a table's other columns.

    Where these columns have no mark, a decimal point is one. None: it cannot be decided.
    """
    fitting = [notation for notation in options if notation[0] in marks]
    if not marks and POINT in options:
        return POINT
    return fitting[0] if len(fitting) == 1 else None


def common_unit(texts: Sequence[str]) -> str:
    """Returns the unit that stands before or after each of `texts`; empty if there is none."""
    return next((unit for unit in UNITS if texts and all(without_unit(text, unit) != text for text in texts)), "")


def without_unit(text: str, unit: str) -> str:
    """Returns `text` without this unit before or after it, as in 12 %, $5 and -$5; as it is without a unit."""
    sign = text[:1] if text[:1] in ("+", "-", "\u2212") else ""
    if unit and text.endswith(unit):
        return text.removesuffix(unit).rstrip()
    if unit and text.removeprefix(sign).startswith(unit):
        return sign + text.removeprefix(sign).removeprefix(unit).lstrip()
    return text


def is_number(text: str) -> bool:
    """Whether `text` is a number in any notation, with or without a unit."""
    plain = without_unit(text, common_unit([text])).translate(_PLAIN)
    return any(_pattern(notation).fullmatch(plain) for notation in NOTATIONS)


def read_numbers(cells: Sequence[Any], decimal: str, thousands: str, unit: str = "") -> NDArray[np.float64]:
    """Returns the numbers (N,) that `cells` are in this notation; NaN from the first that is none."""
    pattern = _pattern((decimal, thousands))
    values = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells):
        if not isinstance(cell, str):
            values[index] = _as_float(cell)
            continue
        text = without_unit(cell, unit)
        text = text if text.isascii() else text.translate(_PLAIN)
        if not pattern.fullmatch(text):
            break
        values[index] = float((text.replace(thousands, "") if thousands else text).replace(decimal, "."))
    return values


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of more than 308 digits
        return np.inf if number > 0 else -np.inf


@cache
def _pattern(notation: Notation) -> re.Pattern[str]:
    """Each digit has one place: `[0-9]+[.]?[0-9]*` would try every way to cut a long cell that is no number."""
    decimal, thousands = map(re.escape, notation)
    whole = f"(?:[1-9][0-9]{{0,2}}(?:{thousands}[0-9]{{3}})+|[0-9]{{1,3}})" if thousands else "[0-9]+"
    return re.compile(rf"[+-]?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:inf)")
