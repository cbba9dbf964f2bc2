"""Turns cells of rounds.csv and clients.csv into values. An empty cell is a value that was not measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

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


def joined(parts: Sequence[Measurements]) -> Measurements:
    """Returns the measurements of all `parts`, one after the other."""
    return Measurements(np.concatenate([p.values for p in parts]), np.concatenate([p.given for p in parts]))


def measurements(path: Path, name: str, cells: Sequence[str], first: int = 1) -> Measurements:
    """Returns numbers: NaN for an empty cell, infinity for a number beyond ±1e100.

    Args:
        path: the file, for the error.
        name: the column, for the error.
        cells: (N,) the column's cells.
        first: the number of the first cell's row.

    Raises:
        DataError: a cell is not a number.
    """
    try:
        values = np.array([float(cell or "nan") for cell in cells], dtype=np.float64)
        given = np.array(list(map(bool, cells)), dtype=np.bool_)
    except ValueError:  # a cell of blanks, or an error
        numbers = [_parsed(path, name, row, cell, _number) for row, cell in enumerate(cells, start=first)]
        values = np.array([math.nan if number is None else number for number in numbers], dtype=np.float64)
        given = np.array([number is not None for number in numbers], dtype=np.bool_)
    return Measurements(np.where(np.abs(values) > LARGEST, np.inf, values), given)


@dataclass
class Values(Generic[Parsed]):
    """Parses the cells of a column with few different cells: equal cells are parsed once, and share their value.

    Attributes:
        path: the file, for the error.
        name: the column.
        parse: gets a cell without blanks around it. The text of its ValueError says what is allowed.
    """

    path: Path
    name: str
    parse: Callable[[str], Parsed]
    known: dict[str, Parsed] = field(default_factory=dict)

    def of(self, cells: Sequence[str], first: int = 1) -> list[Parsed]:
        """Returns the values of `cells`; `first` is the number of the first cell's row.

        Raises:
            DataError: `parse` raised a ValueError.
        """
        known = self.known
        for row, cell in enumerate(cells, start=first):
            if cell not in known:
                known[cell] = _parsed(self.path, self.name, row, cell, self.parse)
        return [known[cell] for cell in cells]


def _parsed(path: Path, name: str, row: int, cell: str, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(cell.strip())
    except ValueError as exc:
        raise DataError(f"{path}: row {row}, column {name} must be {exc}, got {cell[:50]!r}") from exc


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
