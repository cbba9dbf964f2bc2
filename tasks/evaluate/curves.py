"""The numbers of rounds.csv and clients.csv that are drawn: R rounds, K clients; NaN is an empty cell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.heat_map import Grid, grid_of
from tasks.round_log.cells import measurements
from tasks.round_log.own import checked_data, clients_of_run, rounds_of_run
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


def read_curves(path: Path) -> Curves:
    """Returns the curves in rounds.csv. It must hold rounds of pruning, or the pruned model belongs to another run.

    Raises:
        DataError: see `tasks.round_log.own.rounds_of_run`; or a cell is not a number.
    """
    drawn = ("train_loss", "val_loss", "val_accuracy")
    rows = rounds_of_run(path, drawn, ["federate", "prune"], "prune")
    return Curves(
        rounds=np.arange(1, len(rows) + 1),
        prune_from=1 + [row["phase"] for row in rows].index("prune"),
        **{name: measurements(path, name, [row[name] for row in rows]).values for name in drawn},
    )


def read_updates(path: Path, sizes: Mapping[str, int], num_rounds: int) -> Grid:
    """Returns clients.csv with a row for each client in `sizes` and a column for each of the rounds 1 to `num_rounds`.

    Args:
        path: the file.
        sizes: the number of examples by client, as in preprocess.json.
        num_rounds: the rounds of rounds.csv.

    Raises:
        DataError: see `tasks.round_log.own.clients_of_run` and `checked_data`; or a cell is not a number.
    """
    rows = clients_of_run(path, ["update_norm", "update_cosine", "finite"], num_rounds, "prune")
    rows = checked_data(path, rows, sizes, "federate")
    return grid_of(client_log(path, rows), sizes, range(1, num_rounds + 1), ["update_norm", "update_cosine"])
