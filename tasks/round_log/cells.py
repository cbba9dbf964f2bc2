"""Turns cells of rounds.csv and clients.csv into values. An empty cell is a value that was not measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Bools, Floats
from tasks.errors import DataError
from tasks.finite import LARGEST

Rows = list[dict[str, str]]
"""The rows of a CSV file as text by column."""
Parsed = TypeVar("Parsed")

_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_DIGITS = 15
"""Most digits of a round's number."""


@dataclass(frozen=True)
class Measurements:
    """A column of N numbers: `values` (N,), and `given` (N,), which is false for an empty cell."""

    values: Floats
    given: Bools

    @property
    def not_finite(self) -> Bools:
        """(N,) true if the value was given and is NaN or infinite."""
        return self.given & ~np.isfinite(self.values)

    def at(self, places: NDArray[np.int64]) -> "Measurements":
        """Returns the measurements at `places`, in their order."""
        return Measurements(self.values[places], self.given[places])


def measurements(path: Path, rows: Rows, name: str) -> Measurements:
    """Returns the numbers in the column `name`: NaN for an empty cell, infinity for a number beyond ±1e100.

    Raises:
        DataError: a cell is not a number.
    """
    numbers = parsed_column(path, rows, name, _number)
    values = np.array([math.nan if number is None else number for number in numbers], dtype=np.float64)
    measured = np.array([number is not None for number in numbers], dtype=np.bool_)
    return Measurements(np.where(np.abs(values) > LARGEST, np.inf, values), measured)


def parsed_column(path: Path, rows: Rows, name: str, parse: Callable[[str], Parsed]) -> list[Parsed]:
    """Returns the column `name`, each cell parsed by `parse`, which gets the cell without blanks around it.

    Raises:
        DataError: `parse` raised a ValueError. The text of the ValueError says what is allowed.
    """
    parsed = []
    for number, row in enumerate(rows, start=1):
        try:
            parsed.append(parse(row[name].strip()))
        except ValueError as exc:
            raise DataError(f"{path}: row {number}, column {name} must be {exc}, got {row[name][:50]!r}") from exc
    return parsed


def _number(cell: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError("a number or empty") from None


def round_number(cell: str) -> int:
    """Returns the number of a round. A ValueError says what is allowed."""
    if not (cell.isascii() and cell.isdigit() and len(cell) <= _DIGITS):
        raise ValueError("a whole number >= 0")
    return int(cell)


def client_name(cell: str) -> str:
    """Returns a client's id, even if only another framework allows it. A ValueError says what is allowed."""
    if not cell:
        raise ValueError("a client id")
    return cell


def truth(cell: str) -> bool:
    """Returns a truth value. A ValueError says what is allowed."""
    if cell.lower() not in _TRUTH:
        raise ValueError("True or False")
    return _TRUTH[cell.lower()]
