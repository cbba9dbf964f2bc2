"""Reads rounds.csv and clients.csv, even if another framework wrote them.

Columns that are needed:

- rounds.csv: `round`, and one of `val_loss` and `train_loss`.
- clients.csv: `round`, `client`, and one of `update_norm`, `update_cosine` and `update_cosine_robust`, or both
  `loss_before` and `loss_after`.

Columns that are used if they are present:

- rounds.csv: `phase`, `sparsity`.
- clients.csv: `finite`, `failure`, `num_examples`, `num_steps`.

All other columns are ignored. An empty cell is a value that was not measured. `nan`, `inf` and `-inf` are values that
are not finite.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Bools, Floats
from tasks.errors import DataError
from tasks.files import read_rows
from tasks.round_log.cells import Measurements, Rows, client_name, measurements, parsed_column, round_number, truth
from tasks.round_log.columns import LOSS_COLUMNS, SIGNAL_COLUMNS, WORK_COLUMNS


@dataclass(frozen=True)
class RoundLog:
    """rounds.csv, rounds ascending: `rounds` (R,), `phases` (R,), `losses` by column name, `sparsity` if present."""

    rounds: NDArray[np.int64]
    phases: tuple[str, ...]
    losses: dict[str, Measurements]
    sparsity: Measurements | None

    @property
    def pruning(self) -> Bools:
        """(R,) true for rounds of pruning."""
        return np.array([phase == "prune" for phase in self.phases], dtype=np.bool_)


@dataclass(frozen=True)
class ClientLog:
    """clients.csv, M rows by round and client: `signals` (M,) by column name, NaN if missing or not finite."""

    rounds: NDArray[np.int64]
    clients: tuple[str, ...]
    signals: dict[str, Floats]
    failed: Bools
    not_finite: Bools
    """(M,) true if the client failed and the log says that its update was not finite, or gives no reason."""

    def of(self, *clients: str) -> Bools:
        """Returns (M,) true for the rows of `clients`."""
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
        DataError: (1) the file is missing, (2) a column is missing, (3) a cell is not a number, (4) a round has two
            rows, or (5) there is no round.
    """
    rows = read_rows(path)
    _check_not_empty(path, rows)
    _require(path, rows, ["round"], LOSS_COLUMNS)
    rounds = np.array(parsed_column(path, rows, "round", round_number), dtype=np.int64)
    order = np.argsort(rounds, kind="stable")
    twice = rounds[order][1:][np.diff(rounds[order]) == 0]
    if len(twice):
        raise DataError(f"{path}: round {twice[0]} has two rows; one row is allowed")
    phases = [row.get("phase", "") for row in rows]
    columns = _columns(path, rows, (*LOSS_COLUMNS, "sparsity"))
    ordered = {name: column.at(order) for name, column in columns.items()}
    sparsity = ordered.pop("sparsity", None)
    return RoundLog(rounds[order], tuple(phases[place] for place in order), ordered, sparsity)


def read_clients(path: Path) -> ClientLog:
    """Returns the clients.csv at `path`.

    A client failed in a round if `finite` is false, or if a number in one of the columns above is not finite.

    Raises:
        DataError: (1) the file is missing, (2) a column is missing, (3) a cell is not a number, (4) a client's id is
            empty, (5) a client has two rows in one round, or (6) there is no row.
    """
    rows = read_rows(path)
    _check_not_empty(path, rows)
    both = {"loss_before", "loss_after"}
    needed = [name for name in SIGNAL_COLUMNS if name not in both or both <= rows[0].keys()]
    _require(path, rows, ["round", "client"], needed)
    return client_log(path, rows)


def client_log(path: Path, rows: Rows) -> ClientLog:
    """Returns the log of the `rows` of the clients.csv at `path`. See `read_clients` for the errors."""
    _check_not_empty(path, rows)
    rounds, clients = parsed_column(path, rows, "round", round_number), parsed_column(path, rows, "client", client_name)
    _check_once_a_round(path, rounds, clients)
    order = np.lexsort((np.array(clients), np.array(rounds)))
    columns = _columns(path, rows, (*SIGNAL_COLUMNS, *WORK_COLUMNS))
    failed = np.zeros(len(rows), dtype=np.bool_)
    if "finite" in rows[0]:
        failed |= ~np.array(parsed_column(path, rows, "finite", truth), dtype=np.bool_)
    for column in columns.values():
        failed |= column.not_finite
    finite = {name: np.where(np.isfinite(column.values), column.values, np.nan) for name, column in columns.items()}
    reasons = [row.get("failure", "") for row in rows]
    not_finite = failed & np.array([not reason or "not finite" in reason for reason in reasons], dtype=np.bool_)
    return ClientLog(
        np.array(rounds, dtype=np.int64)[order],
        tuple(clients[place] for place in order),
        {name: values[order] for name, values in finite.items()},
        failed[order],
        not_finite[order],
    )


def _check_not_empty(path: Path, rows: Rows) -> None:
    if not rows:
        raise DataError(f"{path} holds no row below its header: at least one round is needed")


def _require(path: Path, rows: Rows, all_of: Sequence[str], one_of: Sequence[str]) -> None:
    missing = [name for name in all_of if name not in rows[0]]
    if missing:
        raise DataError(f"{path} has no column {missing[0]}, got {', '.join(rows[0])[:300]}")
    if not any(name in rows[0] for name in one_of):
        raise DataError(f"{path} needs one of the columns {', '.join(one_of)}, got {', '.join(rows[0])[:300]}")


def _columns(path: Path, rows: Rows, names: Sequence[str]) -> dict[str, Measurements]:
    return {name: measurements(path, rows, name) for name in names if name in rows[0]}


def _check_once_a_round(path: Path, rounds: Sequence[int], clients: Sequence[str]) -> None:
    seen: set[tuple[int, str]] = set()
    for round_num, client in zip(rounds, clients, strict=True):
        if (round_num, client) in seen:
            raise DataError(f"{path}: client {client[:50]} has two rows in round {round_num}; one row is allowed")
        seen.add((round_num, client))
