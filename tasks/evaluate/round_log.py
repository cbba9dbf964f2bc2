"""rounds.csv and clients.csv as arrays: R rounds, K clients; NaN stands for an empty cell."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.files import read_rows

_TRUE = {"true", "1", "1.0"}


@dataclass(frozen=True)
class Curves:
    """The columns of rounds.csv that are drawn, each (R,)."""

    rounds: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    """nats per example"""
    val_loss: NDArray[np.float64]
    """nats per example"""
    val_accuracy: NDArray[np.float64]
    """a fraction"""
    prune_from: int | None
    """first round of the prune phase"""


@dataclass(frozen=True)
class Drift:
    """Updates by client and round, each (K, R); NaN where a client was not sampled, or failed."""

    clients: list[str]
    rounds: NDArray[np.int64]
    update_norm: NDArray[np.float64]
    update_cosine: NDArray[np.float64]
    """to the round's aggregate, -1..1"""
    failed: NDArray[np.bool_]
    """sampled, but its update was left out: not finite, or never made"""


def read_curves(path: Path) -> Curves:
    """Returns the curves in rounds.csv.

    Raises:
        DataError: the file or a column is missing, there is no row, or a cell is not a number.
    """
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} must hold at least one round, got none")
    pruned = [_whole(path, row, "round") for row in rows if _cell(path, row, "phase") == "prune"]
    return Curves(
        rounds=np.array([_whole(path, row, "round") for row in rows], dtype=np.int64),
        train_loss=_column(path, rows, "train_loss"),
        val_loss=_column(path, rows, "val_loss"),
        val_accuracy=_column(path, rows, "val_accuracy"),
        prune_from=min(pruned, default=None),
    )


def read_drift(path: Path, clients: Iterable[str], rounds: NDArray[np.int64]) -> Drift:
    """Returns the drift in clients.csv, with a row for each of `clients` and a column for each of `rounds`.

    Clients and rounds that only clients.csv holds are added, and the rounds between.

    Raises:
        DataError: the file or a column is missing, or a cell is not a number.
    """
    rows = read_rows(path)
    names = sorted({*clients, *(_cell(path, row, "client") for row in rows)})
    of_row = [_whole(path, row, "round") for row in rows]
    first, last = min([*rounds, *of_row]), max([*rounds, *of_row])
    numbers = np.arange(first, last + 1)
    row_of = {client: index for index, client in enumerate(names)}
    norm, cosine = (np.full((len(names), len(numbers)), np.nan) for _ in range(2))
    failed = np.zeros(norm.shape, dtype=bool)
    for row, number in zip(rows, of_row, strict=True):
        at = row_of[row["client"]], number - first
        norm[at], cosine[at] = _number(path, row, "update_norm"), _number(path, row, "update_cosine")
        failed[at] = _cell(path, row, "finite").strip().lower() not in _TRUE or not math.isfinite(norm[at])
    norm[failed] = cosine[failed] = np.nan
    return Drift(names, numbers, norm, cosine, failed)


def _column(path: Path, rows: Sequence[dict[str, str]], name: str) -> NDArray[np.float64]:
    return np.array([_number(path, row, name) for row in rows], dtype=np.float64)


def _cell(path: Path, row: dict[str, str], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise DataError(f"{path} must have the column {name} in every row, got {row}")
    return value


def _number(path: Path, row: dict[str, str], name: str) -> float:
    text = _cell(path, row, name)
    try:
        return float(text) if text.strip() else math.nan
    except ValueError as exc:
        raise DataError(f"{path}: {name} must be a number or empty, got {text!r} in {row}") from exc


def _whole(path: Path, row: dict[str, str], name: str) -> int:
    text = _cell(path, row, name)
    try:
        return int(text)
    except ValueError as exc:
        raise DataError(f"{path}: {name} must be a whole number, got {text!r}") from exc
