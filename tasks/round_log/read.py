"""Reads rounds.csv and clients.csv, even if another framework wrote them.

Columns that are needed:

- rounds.csv: `round`, and one of `val_loss` and `train_loss`.
- clients.csv: `round`, `client`, and one of `update_norm`, `update_cosine`, `update_cosine_robust` and `loss_before`.

Columns that are used if they are present:

- rounds.csv: `phase`, `sparsity`, `val_accuracy`, `server_update_norm`, `failure`.
- clients.csv: `loss_after`, `finite`, `failure`, `num_examples`, `num_steps`.

All other columns are ignored. An empty cell is a value that was not measured. `nan`, `inf` and `-inf` are values that
are not finite.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tasks.arrays import Bools, Floats, Ints
from tasks.errors import DataError
from tasks.files import Block, read_blocks
from tasks.round_log.cells import Measurements, Values, client_name, joined, measurements, round_number, truth
from tasks.round_log.columns import LOSS_COLUMNS, SIGNAL_COLUMNS, WORK_COLUMNS

_ONE_OF = ("update_norm", "update_cosine", "update_cosine_robust", "loss_before")
"""Columns of clients.csv of which one is needed."""


@dataclass(frozen=True)
class RoundLog:
    """rounds.csv, rounds ascending.

    Attributes:
        rounds: (R,) their numbers.
        phases: (R,) "" if not known.
        losses: by column name.
        sparsity: None if the file has no such column.
        accuracy: the column val_accuracy; None if the file has no such column.
        failure: why the run ended in the last round; "" if the file does not say that it did.
        server_steps: length of the server's step in each round; None if the file has no such column.
    """

    rounds: Ints
    phases: tuple[str, ...]
    losses: dict[str, Measurements]
    sparsity: Measurements | None
    accuracy: Measurements | None = None
    failure: str = ""
    server_steps: Measurements | None = None

    @property
    def pruning(self) -> Bools:
        """(R,) true for rounds of pruning."""
        return np.array([phase == "prune" for phase in self.phases], dtype=np.bool_)

    @property
    def hold_out(self) -> dict[int, float]:
        """`val_loss` of the rounds of training in which it was measured, by round."""
        column = self.losses.get("val_loss")
        if column is None:
            return {}
        measured = column.given & ~self.pruning
        return dict(zip(self.rounds[measured].tolist(), column.values[measured].tolist(), strict=True))


@dataclass(frozen=True)
class ClientLog:
    """clients.csv, M rows by round and client: `signals` (M,) by column name, NaN if missing or not finite."""

    rounds: Ints
    clients: tuple[str, ...]
    signals: dict[str, Floats]
    failed: Bools
    not_finite: Bools
    """(M,) true if the client failed and the log says that its update was not finite, or gives no reason."""

    @property
    def ids(self) -> tuple[str, ...]:
        """(K,) the ids of the clients with a row, sorted."""
        return self._codes[0]

    @property
    def codes(self) -> Ints:
        """(M,) the place of each row's client in `ids`."""
        return self._codes[1]

    def of(self, *clients: str) -> Bools:
        """Returns (M,) true for the rows of `clients`."""
        named = set(clients)
        wanted = np.array([client in named for client in self.ids], dtype=np.bool_)
        return wanted[self.codes]

    def rows(self, client: str) -> Ints:
        """Returns the rows of one client, ascending."""
        return self._rows.get(client, np.zeros(0, dtype=np.int64))

    def without(self, rounds: Ints) -> "ClientLog":
        """Returns the log without the rows of `rounds`."""
        kept = ~np.isin(self.rounds, rounds)
        clients = tuple(itertools.compress(self.clients, kept))
        signals = {name: values[kept] for name, values in self.signals.items()}
        return ClientLog(self.rounds[kept], clients, signals, self.failed[kept], self.not_finite[kept])

    @cached_property
    def _codes(self) -> tuple[tuple[str, ...], Ints]:
        return codes_of(self.clients)

    @cached_property
    def _rows(self) -> dict[str, Ints]:
        return {self.ids[code]: rows for code, rows in rows_by_client(self.codes).items()}


def has_no_row(path: Path) -> bool:
    """Returns whether a CSV has a header and nothing below it. Raises the errors of `read_blocks`."""
    return not next(iter(read_blocks(path))).rows


def read_rounds(path: Path) -> RoundLog:
    """Returns the rounds.csv at `path`.

    Raises:
        DataError: (1) the file is missing, (2) a column is missing, (3) a cell is not a number, (4) a round has two
            rows, or (5) there is no round.
    """
    columns = _read(
        path,
        read_blocks(path),
        ["round"],
        LOSS_COLUMNS,
        (*LOSS_COLUMNS, "sparsity", "val_accuracy", "server_update_norm"),
        {"phase": str, "failure": str},
    )
    order = np.argsort(columns.rounds, kind="stable")
    rounds = columns.rounds[order]
    twice = rounds[1:][np.diff(rounds) == 0]
    if len(twice):
        raise DataError(f"{path}: round {twice[0]} has two rows; one row is allowed")
    phases = columns.texts.get("phase") or [""] * len(rounds)
    ordered = {name: column.at(order) for name, column in columns.numbers.items()}
    sparsity, accuracy = ordered.pop("sparsity", None), ordered.pop("val_accuracy", None)
    steps = ordered.pop("server_update_norm", None)
    failure = columns.texts["failure"][order[-1]] if "failure" in columns.texts else ""
    return RoundLog(rounds, tuple(phases[place] for place in order), ordered, sparsity, accuracy, failure, steps)


def no_clients() -> ClientLog:
    """Returns the log of a run of which nothing is known of single clients."""
    nobody = np.zeros(0, dtype=np.bool_)
    return ClientLog(np.zeros(0, dtype=np.int64), (), {}, nobody, nobody)


def read_clients(path: Path) -> ClientLog:
    """Returns the clients.csv at `path`; see `client_log`."""
    return client_log(path, read_blocks(path))


def client_log(path: Path, blocks: Iterable[Block]) -> ClientLog:
    """Returns the clients.csv in `blocks`. `path` is for the errors.

    A client failed in a round if `finite` is false, or if a number in one of the columns above is not finite.

    Raises:
        DataError: (1) the file is missing, (2) a column is missing, (3) a cell is not a number, (4) a client's id is
            empty, (5) a client has two rows in one round, or (6) there is no row.
    """
    names: dict[str, Callable[[str], Any]] = {"client": client_name, "finite": truth, "failure": str}
    columns = _read(path, blocks, ["round", "client"], _ONE_OF, (*SIGNAL_COLUMNS, *WORK_COLUMNS), names)
    clients, num_rows = columns.texts["client"], len(columns.rounds)
    codes = codes_of(clients)[1]
    order = np.lexsort((codes, columns.rounds))
    same = (np.diff(columns.rounds[order]) == 0) & (np.diff(codes[order]) == 0)
    if same.any():
        row = int(order[1:][same].min())
        round_num, client = columns.rounds[row], clients[row][:50]
        raise DataError(f"{path}: client {client} has two rows in round {round_num}; one row is allowed")
    failed = np.zeros(num_rows, dtype=np.bool_)
    if "finite" in columns.texts:
        failed |= ~np.array(columns.texts["finite"], dtype=np.bool_)
    for column in columns.numbers.values():
        failed |= column.not_finite
    not_finite = failed
    if "failure" in columns.texts:
        says = [not reason or "not finite" in reason for reason in columns.texts["failure"]]
        not_finite = failed & np.array(says, dtype=np.bool_)
    signals = {
        name: np.where(np.isfinite(column.values), column.values, np.nan)[order]
        for name, column in columns.numbers.items()
    }
    return ClientLog(
        columns.rounds[order], tuple(clients[place] for place in order), signals, failed[order], not_finite[order]
    )


def codes_of(clients: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Returns the different `clients`, sorted, and (M,) the place of each of `clients` among them."""
    ids = tuple(sorted(set(clients)))
    place = {client: code for code, client in enumerate(ids)}
    return ids, np.fromiter(map(place.__getitem__, clients), dtype=np.int64, count=len(clients))


def rows_by_client(clients: Ints) -> dict[int, Ints]:
    """Returns the rows of each of `clients` (M,), ascending, by client, ascending. Each row is looked at once."""
    if not len(clients):
        return {}
    order = np.argsort(clients, kind="stable")
    different, starts = np.unique(clients[order], return_index=True)
    return dict(zip(different.tolist(), np.split(order, starts[1:]), strict=True))


@dataclass(frozen=True)
class _Columns:
    """The columns of a file that are used: M rows in the order of the file."""

    rounds: Ints
    numbers: dict[str, Measurements]
    texts: dict[str, list[Any]]


def _read(
    path: Path,
    blocks: Iterable[Block],
    all_of: Sequence[str],
    one_of: Sequence[str],
    numbers: Sequence[str],
    texts: Mapping[str, Callable[[str], Any]],
) -> _Columns:
    """Returns the columns `numbers` and `texts` that the file has.

    It must have the columns `all_of`, and one of the columns `one_of`.
    """
    measured: dict[str, list[Measurements]] = {}
    parsers = {name: Values(path, name, parse) for name, parse in {"round": round_number, **texts}.items()}
    parsed: dict[str, list[Any]] = {}
    for block in blocks:
        if block.first == 1:
            _require(path, block, all_of, one_of)
        for name in [name for name in parsers if name in block.header]:
            parsed.setdefault(name, []).extend(parsers[name].of(block.column(name), block.first))
        for name in [name for name in numbers if name in block.header]:
            measured.setdefault(name, []).append(measurements(path, name, block.column(name), block.first))
    rounds = np.array(parsed.pop("round"), dtype=np.int64)
    return _Columns(rounds, {name: joined(parts) for name, parts in measured.items()}, parsed)


def _require(path: Path, block: Block, all_of: Sequence[str], one_of: Sequence[str]) -> None:
    if not block.rows:
        raise DataError(f"{path} holds no row below its header: at least one round is needed")
    got = ", ".join(block.header)[:300]
    for name in all_of:
        if name not in block.header:
            raise DataError(f"{path} has no column {name}, got {got}")
    if not {*one_of} & {*block.header}:
        raise DataError(f"{path} needs one of the columns {', '.join(one_of)}, got {got}")
