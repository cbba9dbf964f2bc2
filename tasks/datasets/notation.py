"""Numbers that are text in a table's column: with a decimal comma, separators of thousands, or a unit."""

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

# Spaces, apostrophe and minus as spreadsheets write them.
_PLAIN = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'", "\u2212": "-"})


def notations(texts: Sequence[str]) -> list[Notation]:
    """Returns the notations in which all `texts` are numbers; of notations with the same numbers, only the first."""
    written = "".join(texts).translate(_PLAIN)
    readings: dict[Notation, NDArray[np.float64]] = {}
    for decimal, thousands in NOTATIONS if texts else ():
        # A notation whose mark does not occur gives the same numbers as a simpler one.
        if (decimal, thousands) == POINT or (thousands or decimal) in written:
            numbers = read_numbers(texts, decimal, thousands)
            if not np.isnan(numbers).any() and not any(np.array_equal(numbers, other) for other in readings.values()):
                readings[decimal, thousands] = numbers
    return list(readings)


def decimal_mark(texts: Sequence[str], notation: Notation) -> set[str]:
    """Returns the decimal mark of `texts`, if a point or comma of this notation occurs in them; else the empty set."""
    written = [mark for mark in notation if mark in (".", ",")]
    return {notation[0]} if any(mark in text for text in texts for mark in written) else set()


def decided(options: Sequence[Notation], marks: set[str]) -> Notation | None:
    """Returns the notation in `options` whose decimal mark is in `marks`, the marks of a table's other columns.

    If the other columns have no mark, the decimal point is chosen. None: several notations, or none, are possible.
    """
    fitting = [notation for notation in options if notation[0] in marks]
    if not marks and POINT in options:
        return POINT
    return fitting[0] if len(fitting) == 1 else None


def common_unit(texts: Sequence[str]) -> str:
    """Returns the unit before or after each of `texts`; empty if there is none."""
    return next((unit for unit in UNITS if texts and all(without_unit(text, unit) != text for text in texts)), "")


def without_unit(text: str, unit: str) -> str:
    """Returns `text` without `unit` before or after the number, as in 12 %, $5 and -$5; `text` if it has no unit."""
    sign = text[:1] if text[:1] in ("+", "-", "\u2212") else ""
    if unit and text.endswith(unit):
        return text.removesuffix(unit).rstrip()
    if unit and text.removeprefix(sign).startswith(unit):
        return sign + text.removeprefix(sign).removeprefix(unit).lstrip()
    return text


def is_number(text: str) -> bool:
    """Returns whether `text` is a number in any notation, with or without a unit."""
    plain = without_unit(text, common_unit([text])).translate(_PLAIN)
    return any(_pattern(notation).fullmatch(plain) for notation in NOTATIONS)


def read_numbers(cells: Sequence[Any], decimal: str, thousands: str, unit: str = "") -> NDArray[np.float64]:
    """Returns the numbers (N,) in `cells`, in this notation; NaN from the first cell on that is not a number."""
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
    """Each digit can match in one place only: for a long cell that is no number, `[0-9]+[.]?[0-9]*` tries all cuts."""
    decimal, thousands = map(re.escape, notation)
    whole = f"(?:[1-9][0-9]{{0,2}}(?:{thousands}[0-9]{{3}})+|[0-9]{{1,3}})" if thousands else "[0-9]+"
    return re.compile(rf"[+-]?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:inf)")
