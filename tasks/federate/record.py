"""The rows of rounds.csv and clients.csv: what one round did, in numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.federate.statistics import UpdateStatistics, gram, update_statistics
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS
from tasks.runtime.failed import Failed


@dataclass(frozen=True)
class Outcome:
    """One finished round."""

    round_num: int
    phase: str
    results: Mapping[str, Any]
    """Each sampled client's result, or `Failed`."""
    failures: Mapping[str, str]
    params_before: NDArray[np.float32]
    params_after: NDArray[np.float32]


def client_rows(outcome: Outcome, inputs: Mapping[str, Any]) -> tuple[list[dict[str, Any]], UpdateStatistics]:
    """Returns a row per sampled client, and the statistics over those that were averaged."""
    averaged = {client: r for client, r in outcome.results.items() if client not in outcome.failures}
    weights = np.array([r["weight"] for r in averaged.values()], np.float64)
    share = weights / weights.sum()
    statistics = update_statistics(gram([r["update"] for r in averaged.values()]), share)
    measured = {
        "weight": share,
        "update_norm": statistics.norm,
        "update_cosine": statistics.cosine,
        "update_cosine_robust": statistics.cosine_robust,
        "distance": statistics.distance,
    }
    columns = [[_number(value) for value in values.tolist()] for values in measured.values()]
    cells = dict(zip(averaged, zip(*columns, strict=True), strict=True))
    rows: list[dict[str, Any]] = []
    for client in sorted({*outcome.results, *outcome.failures}):
        result = outcome.results.get(client)
        row = dict.fromkeys(CLIENT_COLUMNS)
        row |= {"round": outcome.round_num, "client": client, "weight": 0.0, "finite": client in averaged}
        row["failure"] = outcome.failures.get(client)
        if client in inputs:
            row["num_examples"] = int(inputs[client]["num_examples"])
        if result is not None and not isinstance(result, Failed):
            row["num_steps"] = int(result["num_steps"])
            for name in ("loss_before", "loss_after", "loss_mean"):
                row[name] = _loss(result[name])
        if client in averaged:
            row |= zip(measured, cells[client], strict=True)
            row["influence"] = _influence(averaged[client])
        rows.append(row)
    return rows, statistics


def round_row(
    outcome: Outcome,
    clients: Sequence[Mapping[str, Any]],
    statistics: UpdateStatistics,
    validation: tuple[float, float] | None,
    prunable: NDArray[np.bool_],
) -> dict[str, Any]:
    """Returns the row of rounds.csv."""
    norms, cosines = statistics.norm.tolist(), [value for value in statistics.cosine.tolist() if math.isfinite(value)]
    changed = outcome.params_after - outcome.params_before
    num_zero, num_prunable = np.count_nonzero(prunable & (outcome.params_after == 0)), np.count_nonzero(prunable)
    row: dict[str, Any] = dict.fromkeys(ROUND_COLUMNS)
    row |= {
        "round": outcome.round_num,
        "phase": outcome.phase,
        "train_loss": _average(clients, "loss_before"),
        "local_loss": _average(clients, "loss_mean"),
        "num_clients": len(clients),
        "num_failed": len(outcome.failures),
        "update_norm_mean": _number(fmean(norms)),
        "update_norm_max": _number(max(norms)),
        "update_cosine_mean": _number(fmean(cosines)) if cosines else None,
        "update_cosine_min": _number(min(cosines)) if cosines else None,
        "drift": _number(statistics.drift),
        "gradient_diversity": _number(statistics.gradient_diversity),
        "server_update_norm": _number(math.sqrt(gram([changed])[0, 0])),
        "sparsity": _number(num_zero / num_prunable) if num_prunable else 0.0,
    }
    if validation is not None:
        row["val_loss"], row["val_accuracy"] = _loss(validation[0]), _number(validation[1])
    return row


def _average(clients: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """The mean of the averaged clients' `column`, weighted as their updates were."""
    used = [row for row in clients if row["finite"] and row[column] is not None]
    total = sum(row["weight"] for row in used)
    return _number(sum(row["weight"] * row[column] for row in used) / total) if total else None


def _influence(result: Mapping[str, Any]) -> float | None:
    share = result.get("influence")
    return None if share is None else _loss(share)


def _number(value: Any) -> float | None:
    """Seven significant digits, what float32 holds; None for what is not finite."""
    return _loss(value) if math.isfinite(value) else None


def _loss(value: Any) -> float:
    """Seven significant digits. A loss that is not finite was measured, and is written as nan or inf."""
    return float(f"{float(value):.7g}")
