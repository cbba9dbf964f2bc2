"""Reads rounds.csv and clients.csv, also those that another framework wrote.

Columns that are enough: in rounds.csv `round` and one of `val_loss`, `train_loss`; in clients.csv `round`, `client` and
one of `update_norm`, `update_cosine`, `update_cosine_robust`, or both `loss_before` and `loss_after`. Used where they
are given: in rounds.csv `phase` and `sparsity`, in clients.csv `finite`,
`failure`, `num_examples` and `num_steps`. All others are left alone.

An empty cell is a value that was not measured; `nan`, `inf` and `-inf` are values that are not finite.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.detection import LARGEST
from tasks.errors import DataError
from tasks.files import read_rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Parsed = TypeVar("Parsed")
Rows = list[dict[str, str]]

LOSSES = ("val_loss", "train_loss")
"""The columns of the loss, nats per example, in the order in which they are preferred."""
SIGNALS = ("update_norm", "update_cosine", "update_cosine_robust", "loss_before", "loss_after")
WORK = ("num_examples", "num_steps")
"""The columns that tell how much a client did for its update."""


@dataclass(frozen=True)
class Column:
    """One column over R rounds: `values` (R,), and `given` (R,), false where the cell was empty."""

    values: Floats
    given: Bools

    @property
    def not_finite(self) -> Bools:
        """(R,) true where a value was given that is NaN or infinite."""
        return self.given & ~np.isfinite(self.values)


@dataclass(frozen=True)
class RoundLog:
    """rounds.csv, ascending: `rounds` (R,), `phases` (R,), `losses` by column name, `sparsity` if it was given."""

    rounds: NDArray[np.int64]
    phases: tuple[str, ...]
    losses: dict[str, Column]
    sparsity: Column | None

    @property
    def pruning(self) -> Bools:
        """(R,) true in the rounds of pruning."""
        return np.array([phase == "prune" for phase in self.phases], dtype=np.bool_)


@dataclass(frozen=True)
class ClientLog:
    """clients.csv, M rows by round and client: `signals` by column name, NaN where missing or not finite."""

    rounds: NDArray[np.int64]
    clients: tuple[str, ...]
    signals: dict[str, Floats]
    failed: Bools
    not_finite: Bools
    """(M,) true where the client failed because its update was not finite, as far as the log tells why."""

    def of(self, *clients: str) -> Bools:
        """Returns (M,) true in the rows of `clients`."""
        return np.isin(self._names, clients)

    def without(self, rounds: NDArray[np.int64]) -> "ClientLog":
        """Returns the log without the rows of `rounds`."""
        kept = ~np.isin(self.rounds, rounds)
        clients = tuple(itertools.compress(self.clients, kept))
        signals = {name: values[kept] for name, values in self.signals.items()}
        return ClientLog(self.rounds[kept], clients, signals, self.failed[kept], self.not_finite[kept])

    @cached_property
    def _names(self) -> NDArray[np.str_]:
        return np.array(self.clients)


def read_rounds(path: Path) -> RoundLog:
    """Returns the rounds.csv at `path`.

    Raises:
        DataError: no such file, a missing column, a cell that is not a number, a round twice, or no round at all.
    """
    rows = _rows(path)
    _require(path, rows, ["round"], LOSSES)
    rounds = np.array(_cells(path, rows, "round", _round), dtype=np.int64)
    order = np.argsort(rounds, kind="stable")
    twice = rounds[order][1:][np.diff(rounds[order]) == 0]
    if len(twice):
        raise DataError(f"{path}: round {twice[0]} stands there twice; a row per round is allowed")
    phases = [row["phase"] for row in rows] if "phase" in rows[0] else [""] * len(rows)
    losses = {name: _column(path, rows, name, order) for name in LOSSES if name in rows[0]}
    sparsity = _column(path, rows, "sparsity", order) if "sparsity" in rows[0] else None
    return RoundLog(rounds[order], tuple(phases[i] for i in order), losses, sparsity)


def read_clients(path: Path) -> ClientLog:
    """Returns the clients.csv at `path`.

    A client failed in a round where `finite` is false or a signal is given that is not finite.

    Raises:
        DataError: no such file, a missing column, a cell that is not a number, an empty client id, a client twice in
            one round, or no row at all.
    """
    rows = _rows(path)
    both = {"loss_before", "loss_after"}
    needed = [name for name in SIGNALS if name not in both or both <= rows[0].keys()]
    _require(path, rows, ["round", "client"], needed)
    rounds, clients = _cells(path, rows, "round", _round), _cells(path, rows, "client", _name)
    seen: set[tuple[int, str]] = set()
    for key in zip(rounds, clients, strict=True):
        if key in seen:
            raise DataError(f"{path}: client {key[1][:50]} stands there twice in round {key[0]}; one row is allowed")
        seen.add(key)
    order = np.lexsort((np.array(clients), np.array(rounds)))
    columns = {name: _column(path, rows, name, order) for name in (*SIGNALS, *WORK) if name in rows[0]}
    failed = np.zeros(len(rows), dtype=np.bool_)
    if "finite" in rows[0]:
        failed |= ~np.array(_cells(path, rows, "finite", _truth), dtype=np.bool_)[order]
    for column in columns.values():
        failed |= column.not_finite
    signals = {name: np.where(np.isfinite(column.values), column.values, np.nan) for name, column in columns.items()}
    reasons = np.array([row.get("failure", "") for row in rows])[order]
    not_finite = failed & np.array([not reason or "not finite" in reason for reason in reasons], dtype=np.bool_)
    named = tuple(clients[row] for row in order)
    return ClientLog(np.array(rounds, dtype=np.int64)[order], named, signals, failed, not_finite)


def _rows(path: Path) -> Rows:
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} holds no row below its header: at least one round is needed")
    return rows


def _require(path: Path, rows: Rows, all_of: Sequence[str], one_of: Sequence[str]) -> None:
    missing = [name for name in all_of if name not in rows[0]]
    if missing:
        raise DataError(f"{path} has no column {missing[0]}, got {', '.join(rows[0])[:300]}")
    if not any(name in rows[0] for name in one_of):
        raise DataError(f"{path} needs one of the columns {', '.join(one_of)}, got {', '.join(rows[0])[:300]}")


def _cells(path: Path, rows: Rows, name: str, parse: Callable[[str], Parsed]) -> list[Parsed]:
    parsed = []
    for number, row in enumerate(rows, start=1):
        try:
            parsed.append(parse(row[name].strip()))
        except ValueError as exc:
            raise DataError(f"{path}: row {number}, column {name} must be {exc}, got {row[name][:50]!r}") from exc
    return parsed


def _column(path: Path, rows: Rows, name: str, order: NDArray[np.int64]) -> Column:
    cells = _cells(path, rows, name, _number)
    values = np.array([math.nan if cell is None else cell for cell in cells])
    given = np.array([cell is not None for cell in cells])
    return Column(np.where(np.abs(values) > LARGEST, np.inf, values)[order], given[order])


def _number(cell: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError("a number or empty") from None


def _round(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 15):
        raise ValueError("a whole number >= 0")
    return int(cell)


def _name(cell: str) -> str:
    if not cell:
        raise ValueError("a client id")
    return cell


def _truth(cell: str) -> bool:
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if cell.lower() not in words:
        raise ValueError("True or False")
    return words[cell.lower()]
