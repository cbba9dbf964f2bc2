"""The result of one round, as rows of rounds.csv and clients.csv."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.federate.state import ClientReport
from tasks.federate.statistics import UpdateStatistics, gram, no_statistics
from tasks.federate.updates import FewUpdates, ManyUpdates
from tasks.parameters import Params
from tasks.round_log.columns import CLIENT_COLUMNS, ClientRow, RoundRow
from tasks.runtime.failed import Failed


@dataclass(frozen=True)
class RoundLine:
    """The result of one round: a line of the checkpoints' log.

    Attributes:
        round: its number in the whole run, from 1.
        row: its row of rounds.csv.
        clients: its rows of clients.csv.
        excluded: the clients that the guard leaves out of all later rounds, sorted.
        model_rollbacks: the guard's rollbacks so far after rounds in which no client failed.
        watched_from: the first round whose loss the guard tests from now on.
    """

    round: int
    row: RoundRow
    clients: list[ClientRow]
    excluded: list[str] = field(default_factory=list)
    model_rollbacks: int = 0
    watched_from: int = 1

    def json(self) -> dict[str, Any]:
        """Returns the line for JSON. The clients' rows are in columns, which take half of the bytes."""
        columns = {name: [row[name] for row in self.clients] for name in CLIENT_COLUMNS}  # type: ignore[literal-required]
        return {**vars(self), "clients": columns}

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "RoundLine":
        """Returns the line from `json`."""
        columns = line["clients"]
        rows: list[Any] = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        return cls(**{**line, "clients": rows})


@dataclass(frozen=True)
class Outcome:
    """One finished round.

    Attributes:
        reports: the report of each sampled client.
        failures: the reason for each client that was left out.
        num_examples: the number of examples of each sampled client.
        averaged: the clients in the average, in the order of `updates`.
        updates: their updates (P,).
        params_before: (P,) the global model that the round began with.
        params_after: (P,) the global model after it.
    """

    round_num: int
    phase: str
    reports: Mapping[str, ClientReport | Failed]
    failures: Mapping[str, str]
    num_examples: Mapping[str, int]
    averaged: Sequence[str]
    updates: FewUpdates | ManyUpdates
    params_before: Params
    params_after: Params


def client_rows(outcome: Outcome) -> tuple[list[ClientRow], UpdateStatistics]:
    """Returns a row per sampled client, and the statistics over the averaged clients, of whom there may be none."""
    share, statistics = outcome.updates.statistics() if outcome.averaged else ((), no_statistics())
    places = {client: place for place, client in enumerate(outcome.averaged)}
    rows = []
    for client in sorted({*outcome.reports, *outcome.failures}):
        row = _empty_row(outcome, client)
        if client in places:
            place = places[client]
            row["weight"] = _number(share[place])
            row["update_norm"] = _number(statistics.norm[place])
            row["update_cosine"] = _number(statistics.cosine[place])
            row["update_cosine_robust"] = _number(statistics.cosine_robust[place])
            row["distance"] = _number(statistics.distance[place])
            row["influence"] = _influence(outcome.reports[client])
        rows.append(row)
    return rows, statistics


def _empty_row(outcome: Outcome, client: str) -> ClientRow:
    """Returns a client's row with its own numbers; the columns that compare its update with the others are empty."""
    report = outcome.reports.get(client)
    sent = report if isinstance(report, ClientReport) else None
    return {
        "round": outcome.round_num,
        "client": client,
        "num_examples": outcome.num_examples.get(client),
        "num_steps": sent.num_steps if sent else None,
        "weight": 0.0,
        "loss_before": _loss(sent.loss_before) if sent else None,
        "loss_after": _loss(sent.loss_after) if sent else None,
        "update_norm": None,
        "update_cosine": None,
        "finite": sent is not None and client not in outcome.failures,
        "loss_mean": _loss(sent.loss_mean) if sent else None,
        "update_cosine_robust": None,
        "distance": None,
        "failure": outcome.failures.get(client),
        "influence": None,
    }


def round_row(
    outcome: Outcome,
    clients: Sequence[ClientRow],
    statistics: UpdateStatistics,
    validation: tuple[float, float] | None,
    prunable: NDArray[np.bool_],
    epsilon: float | None = None,
    failure: str | None = None,
) -> RoundRow:
    """Returns the row of rounds.csv.

    Args:
        outcome: the round.
        clients: its rows of clients.csv.
        statistics: over the averaged clients.
        validation: (loss, accuracy); None if it was not measured.
        prunable: (P,) whether pruning may set the parameter to zero.
        epsilon: of differential privacy, spent so far; None without it.
        failure: why the run ends in this round; None if it goes on.
    """
    norms, cosines = statistics.norm.tolist(), [value for value in statistics.cosine.tolist() if math.isfinite(value)]
    changed = outcome.params_after - outcome.params_before
    num_zero, num_prunable = np.count_nonzero(prunable & (outcome.params_after == 0)), np.count_nonzero(prunable)
    return {
        "round": outcome.round_num,
        "phase": outcome.phase,
        "train_loss": _average(clients, lambda row: row["loss_before"]),
        "val_loss": None if validation is None else _loss(validation[0]),
        "val_accuracy": None if validation is None else _number(validation[1]),
        "num_clients": len(clients),
        "num_failed": len(outcome.failures),
        "update_norm_mean": _number(fmean(norms)) if norms else None,
        "update_norm_max": _number(max(norms)) if norms else None,
        "update_cosine_mean": _number(fmean(cosines)) if cosines else None,
        "update_cosine_min": _number(min(cosines)) if cosines else None,
        "drift": _number(statistics.drift),
        "gradient_diversity": _number(statistics.gradient_diversity),
        "server_update_norm": _number(math.sqrt(gram([changed])[0, 0])),
        "sparsity": _number(num_zero / num_prunable) if num_prunable else 0.0,
        "local_loss": _average(clients, lambda row: row["loss_mean"]),
        "epsilon": None if epsilon is None else _loss(epsilon),
        "failure": failure,
    }


def _average(clients: Sequence[ClientRow], measured: Callable[[ClientRow], float | None]) -> float | None:
    """Returns the mean of one measurement over the averaged clients, with the weights of their updates."""
    pairs = [(row["weight"] or 0.0, measured(row)) for row in clients if row["finite"]]
    used = [(weight, value) for weight, value in pairs if value is not None]
    total = sum(weight for weight, _ in used)
    return _number(sum(weight * value for weight, value in used) / total) if total else None


def _influence(report: ClientReport | Failed) -> float | None:
    return None if isinstance(report, Failed) or report.influence is None else _loss(report.influence)


def _number(value: float) -> float | None:
    """Returns the value with seven significant digits, the precision of float32; None if it is not finite."""
    return _loss(value) if math.isfinite(value) else None


def _loss(value: float) -> float:
    """Returns the value with seven significant digits. A loss that is not finite was measured: it stays nan or inf."""
    return float(f"{float(value):.7g}")
