"""rounds.csv and clients.csv as arrays: R rounds, K clients; NaN stands for an empty cell."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.round_log import read_clients, read_rounds

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
    """first round of the prune phase; None: there is none"""


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
    """Returns the curves in rounds.csv, which must hold rounds of pruning: else the pruned model is of another run.

    Raises:
        DataError: see `tasks.round_log.read_rounds`; or a cell is not a number.
    """
    drawn = ("train_loss", "val_loss", "val_accuracy")
    rows = read_rounds(path, drawn, ["federate", "prune"], "prune")
    return Curves(
        rounds=np.arange(1, len(rows) + 1),
        prune_from=1 + [row["phase"] for row in rows].index("prune"),
        **{name: np.array([_number(path, row, name) for row in rows]) for name in drawn},
    )


def read_drift(path: Path, clients: Iterable[str], rounds: NDArray[np.int64]) -> Drift:
    """Returns the drift in clients.csv, with a row for each of `clients` and a column for each of the rounds 1 to n.

    Clients that only clients.csv holds are added.

    Raises:
        DataError: see `tasks.round_log.read_clients`; or a cell is not a number.
    """
    rows = read_clients(path, ["update_norm", "update_cosine", "finite"], len(rounds), "prune")
    names = sorted({*clients, *(row["client"] for row in rows)})
    row_of = {client: index for index, client in enumerate(names)}
    norm, cosine = (np.full((len(names), len(rounds)), np.nan) for _ in range(2))
    failed = np.zeros(norm.shape, dtype=bool)
    for row in rows:
        at = row_of[row["client"]], int(row["round"]) - 1
        norm[at], cosine[at] = _number(path, row, "update_norm"), _number(path, row, "update_cosine")
        failed[at] = row["finite"].strip().lower() not in _TRUE or not math.isfinite(norm[at])
    norm[failed] = cosine[failed] = np.nan
    return Drift(names, rounds, norm, cosine, failed)


def _number(path: Path, row: dict[str, str], name: str) -> float:
    text = row[name]
    try:
        return float(text) if text.strip() else math.nan
    except ValueError as exc:
        raise DataError(f"{path}: {name} must be a number or empty, got {text[:50]!r} in round {row['round']}") from exc
