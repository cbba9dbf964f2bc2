"""rounds.csv and clients.csv as arrays: R rounds, K clients; NaN stands for an empty cell."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.round_log.cells import measurements
from tasks.round_log.own import clients_of_run, rounds_of_run
from tasks.round_log.read import client_log


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
        DataError: see `tasks.round_log.own.rounds_of_run`; or a cell is not a number.
    """
    drawn = ("train_loss", "val_loss", "val_accuracy")
    rows = rounds_of_run(path, drawn, ["federate", "prune"], "prune")
    return Curves(
        rounds=np.arange(1, len(rows) + 1),
        prune_from=1 + [row["phase"] for row in rows].index("prune"),
        **{name: measurements(path, rows, name).values for name in drawn},
    )


def read_drift(path: Path, clients: Iterable[str], rounds: NDArray[np.int64]) -> Drift:
    """Returns the drift in clients.csv, with a row for each of `clients` and a column for each of the rounds 1 to n.

    Clients that only clients.csv holds are added.

    Raises:
        DataError: see `tasks.round_log.own.clients_of_run`; or a cell is not a number.
    """
    drawn = ("update_norm", "update_cosine")
    log = client_log(path, clients_of_run(path, [*drawn, "finite"], len(rounds), "prune"))
    names = sorted({*clients, *log.clients})
    row_of = {client: index for index, client in enumerate(names)}
    places = [row_of[client] for client in log.clients], log.rounds - 1
    failed = np.zeros((len(names), len(rounds)), dtype=bool)
    failed[places] = log.failed
    norm, cosine = (np.full(failed.shape, np.nan) for _ in drawn)
    norm[places], cosine[places] = log.signals["update_norm"], log.signals["update_cosine"]
    norm[failed] = cosine[failed] = np.nan
    return Drift(names, rounds, norm, cosine, failed)
