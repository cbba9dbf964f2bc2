"""Logs of a run, as rows of rounds.csv and clients.csv, with a planted rise and clients that drift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import write_rows

CLIENTS = [f"{k:02d}" for k in range(10)]
ROUND_COLUMNS = ["round", "phase", "train_loss", "val_loss", "val_accuracy", "num_clients", "sparsity"]
CLIENT_COLUMNS = [
    "round", "client", "num_examples", "loss_before", "loss_after", "update_norm", "update_cosine",
    "update_cosine_robust", "finite",
]  # fmt: skip
Row = dict[str, Any]


def losses_of(seed: int, num_rounds: int = 30, onset: int | None = None, height: float = 1.0) -> np.ndarray:
    """Losses (R,): 2.3 falling to 0.3 with 3 % of noise, times `height` from round `onset` on."""
    t = np.arange(1, num_rounds + 1)
    losses = (0.3 + 2 * np.exp(-t / 5)) * np.exp(0.03 * np.random.default_rng(seed).standard_normal(num_rounds))
    return np.where(t >= onset, losses * height, losses) if onset else losses


def round_rows(losses: Sequence[float], every: int = 1, **more: Sequence[Any]) -> list[Row]:
    return [
        {
            "round": t,
            "phase": "federate",
            "train_loss": 1.1 * loss,
            "val_loss": loss if t % every == 0 else None,
            "val_accuracy": 0.9,
            "num_clients": len(CLIENTS),
            "sparsity": 0.0,
            **{name: column[t - 1] for name, column in more.items()},
        }
        for t, loss in enumerate(losses, start=1)
    ]


def client_rows(
    seed: int, num_rounds: int = 30, drifted: Sequence[str] = (), onset: int = 19, odd: str | None = None
) -> list[Row]:
    """Ten clients. From `onset` on, `drifted` send long updates that point back. `odd` always does so a little."""
    rng, rows = np.random.default_rng(seed), []
    for t in range(1, num_rounds + 1):
        for client in CLIENTS:
            bad = client in drifted and t >= onset
            norm = (4.0 if bad else 2.0 if client == odd else 1.0) * np.exp(0.1 * rng.standard_normal())
            cosine = (-0.3 if bad else 0.2 if client == odd else 0.7) + 0.05 * rng.standard_normal()
            before = (1.5 if bad else 0.4) * np.exp(0.1 * rng.standard_normal())
            rows.append(
                {
                    "round": t,
                    "client": client,
                    "num_examples": 100,
                    "loss_before": before,
                    "loss_after": before - 0.1 + 0.02 * rng.standard_normal(),
                    "update_norm": norm,
                    "update_cosine": 0.9 if bad else cosine,
                    "update_cosine_robust": cosine,
                    "finite": True,
                }
            )
    return rows


def write(
    folder: Path, rounds: Sequence[Mapping[str, Any]], clients: Sequence[Mapping[str, Any]], drop: Sequence[str] = ()
) -> Path:
    for name, columns, rows in (("rounds", ROUND_COLUMNS, rounds), ("clients", CLIENT_COLUMNS, clients)):
        kept = [column for column in columns if column not in drop]
        write_rows(folder / f"reports/{name}.csv", kept, [{c: row[c] for c in kept} for row in rows])
    return folder
