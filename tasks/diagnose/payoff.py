"""Whether the federation pays: the answer of `evaluate.baselines`, for the report."""

from pathlib import Path

import numpy as np

from tasks.errors import DataError
from tasks.files import read_json
from tasks.round_log.read import RoundLog

TITLE = "Does the federation pay?"
"""The heading of the section."""


def payoff(reports: Path, rounds: RoundLog) -> list[str]:
    """Returns the sentences under `baselines` in evaluation.json; none if the file is missing or has none.

    A file of an earlier run is not used: the loss of its global model must be the `val_loss` of the last round of
    training, if that was measured.
    """
    try:
        evaluation = read_json(reports / "evaluation.json")
        said, loss = evaluation["baselines"]["says"], evaluation["global"]["test"]["loss"]
    except (DataError, KeyError, TypeError):
        return []
    last = _last_val_loss(rounds)
    # float32 and float64 give other last digits.
    same = last is None or (loss is not None and np.isclose(loss, last, rtol=1e-4))
    return [str(sentence) for sentence in said] if same else []


def _last_val_loss(rounds: RoundLog) -> float | None:
    """Returns the `val_loss` of the last round of training; None if it was not measured."""
    trained, column = ~rounds.pruning, rounds.losses.get("val_loss")
    if column is None or not trained.any() or not column.given[trained][-1]:
        return None
    return float(column.values[trained][-1])
