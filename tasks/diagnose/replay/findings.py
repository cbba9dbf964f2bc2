"""Collects what is found of each client: its data under the model before the rise, its updates during the rise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.diagnose.causes import ClientFinding, Findings, gini, mean_label_distance
from tasks.diagnose.drift import BEFORE
from tasks.diagnose.logs import ClientLog
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.replay.examine import (
    Floats,
    Params,
    Probe,
    curvature,
    dissimilarity,
    expected,
    feature_distance,
    learnable,
    local_path,
)
from tasks.diagnose.replay.examine import left_out_losses as left_out
from tasks.federate.in_process import Failed

_LOOKED_AT = 200
"""Most examples of a client that the curvature is computed on."""
_CURVED = 5
"""Most clients whose curvature and path are computed."""
_INFLUENCE_ROUNDS, _INFLUENCE_CLIENTS, _DRIFT_EPOCHS = 2, 30, 5


@dataclass(frozen=True)
class Captured:
    """One round of the rise, replayed with nothing changed."""

    params: Params
    """(P,) that it began with."""
    updates: Mapping[str, Params]
    weights: Mapping[str, float]
    lines: Sequence[Mapping[str, Any]]
    """Its rows of clients.csv."""


def captured(params: Params, results: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Captured:
    """Returns the round from what its clients sent; those that failed are left out."""
    used = {c: r for c, r in results.items() if not isinstance(r, Failed) and r["finite"]}
    return Captured(
        params,
        {client: np.asarray(result["update"]) for client, result in used.items()},
        {client: float(result["weight"]) for client, result in used.items()},
        lines,
    )


def find(replays: Replayer, rounds: Sequence[Captured], log: ClientLog, first: int) -> Findings:
    """Returns the findings.

    Args:
        replays: at the checkpoint before the rise.
        rounds: of the rise.
        log: clients.csv.
        first: round in which the rise began.
    """
    settings, cohort, probe = replays.settings, replays.cohort, Probe(replays.model)
    data, test = replays.data(), (cohort.test_x, cohort.test_y)
    reference = probe.fit(replays.params, test)
    rows = [row for one in rounds for row in one.lines]
    sizes = {client: np.bincount(y, minlength=cohort.num_classes) for client, (_, y) in data.items()}
    norms, norms_per_step = _against_others(rows)
    influence, recalls = _influence(replays, probe, rounds)
    found = []
    for client, examples in data.items():
        fit = probe.fit(replays.params, examples)
        usual = expected(fit, reference)
        distance = feature_distance(probe, replays.params, examples, test)
        rate, batch = settings.federate.client.learning_rate, settings.federate.client.batch_size
        mine = [row for row in rows if row["client"] == client]
        one = ClientFinding(
            client=client,
            labels=sizes[client],
            epochs=_mean([_epochs(row, batch) for row in mine]),
            width=settings.federate.width.get(client, 1.0),
            loss=fit.loss,
            accuracy=fit.accuracy,
            expected_loss=usual[0],
            expected_accuracy=usual[1],
            feature_distance=distance,
            learnable=None,
            norm=norms.get(client, np.nan),
            norm_per_step=norms_per_step.get(client, np.nan),
            cosine=_mean([row["update_cosine_robust"] for row in mine]),
            cosine_before=_cosine_before(log, client, first),
            failed=_first_failure(log, client, first),
            first_broken=None,
            left_out=influence.get(client, np.nan),
            recall=recalls.get(client, np.nan),
        )
        if one.failed is not None:
            one = replace(one, first_broken=local_path(probe, replays.params, examples, rate, batch, 3).first_broken)
        if one.in_conflict and one.shifted:
            one = replace(one, learnable=learnable(probe, replays.params, examples, min(rate, 0.1), batch))
        found.append(one)
    return Findings(
        clients=tuple(found),
        label_skew=mean_label_distance(sizes),
        size_skew=gini(np.array([len(y) for _, y in data.values()], np.float64)),
        steepness=_steepness(replays, probe),
        train_change=np.nan,
        dissimilarity=_dissimilarity(replays, probe),
        local_drift=_local_drift(replays, probe),
        objective_gap=_objective_gap(rows),
    )


def _influence(
    replays: Replayer, probe: Probe, rounds: Sequence[Captured]
) -> tuple[dict[str, float], dict[str, float]]:
    """Leave-one-out change of the hold-out loss and least recall of the local model, by client; see ClientFinding."""
    test = (replays.cohort.test_x, replays.cohort.test_y)
    changes: dict[str, list[float]] = {}
    recalls: dict[str, list[float]] = {}
    for one in rounds[:_INFLUENCE_ROUNDS]:
        some = {client: one.updates[client] for client in sorted(one.updates)[:_INFLUENCE_CLIENTS]}
        if not some:
            continue
        together, without = left_out(lambda params: probe.fit(params, test).loss, one.params, some, one.weights)
        for client, update in some.items():
            with np.errstate(all="ignore"):
                changes.setdefault(client, []).append(float(np.log(together / without[client])))
                local = probe.fit(np.asarray(one.params + update, np.float32), test)
            recalls.setdefault(client, []).append(min(recall for _, _, recall in local.by_label.values()))
    return {c: _mean(v) for c, v in changes.items()}, {c: _mean(v) for c, v in recalls.items()}


def _dissimilarity(replays: Replayer, probe: Probe) -> float:
    data, clients = replays.data(), replays.cohort.clients
    with np.errstate(all="ignore"):
        gradients = {client: probe.gradient(replays.params, examples)[1] for client, examples in data.items()}
    sound = [client for client, gradient in gradients.items() if np.isfinite(gradient).all()]
    if not sound:
        return np.nan
    shares = np.array([clients[client].weight for client in sound])
    return dissimilarity([gradients[client] for client in sound], shares / shares.sum())


def _local_drift(replays: Replayer, probe: Probe) -> tuple[float, ...]:
    data, client = replays.data(), replays.settings.federate.client
    epochs = max(1, min(replays.settings.federate.local_work.epochs, _DRIFT_EPOCHS))
    paths = [
        local_path(probe, replays.params, data[name], client.learning_rate, client.batch_size, epochs).distance
        for name in _spread(list(data))
    ]
    steps = min(len(path) for path in paths)
    return tuple(float(value) for value in np.mean([path[:steps] ** 2 for path in paths], axis=0))


def _objective_gap(rows: Sequence[Mapping[str, Any]]) -> float:
    gaps = []
    for round_num in {row["round"] for row in rows}:
        here = [row for row in rows if row["round"] == round_num and row["weight"] and row["num_steps"]]
        if here:
            share = np.array([row["weight"] for row in here])
            meant, given = share / share.sum(), share * np.array([row["num_steps"] for row in here])
            gaps.append(0.5 * float(np.abs(given / given.sum() - meant).sum()))
    return _mean(gaps)


def _spread(clients: list[str]) -> list[str]:
    return clients[:: max(1, len(clients) // _CURVED)][:_CURVED]


def _steepness(replays: Replayer, probe: Probe) -> float:
    data = replays.data()
    values = [
        curvature(probe, replays.params, (data[c][0][:_LOOKED_AT], data[c][1][:_LOOKED_AT]))
        for c in _spread(list(data))
        if len(data[c][1])
    ]
    return replays.settings.federate.client.learning_rate * float(np.median(values)) if values else np.nan


def harmful(replays: Replayer, rounds: Sequence[Captured], suspects: Sequence[str]) -> tuple[str, ...]:
    """Returns the suspects whose updates raise the hold-out loss more than any honest client's do.

    By leaving out one more in each captured round: the suspects' harm is ln L(with it, without the other suspects) -
    ln L(without any suspect); an honest client's, ln L(without any suspect) - ln L(without any suspect and it). A
    suspect that was in none of the rounds is returned: nothing is known against its guilt.
    """
    test = (replays.cohort.test_x, replays.cohort.test_y)
    probe = Probe(replays.model)
    harm: dict[str, list[float]] = {}
    for one in rounds:
        honest = {c: u for c, u in one.updates.items() if c not in suspects}
        if not honest:
            continue

        def loss(params: Params) -> float:
            value = probe.fit(params, test).loss
            return float(np.log(min(value, 1e6))) if np.isfinite(value) else float(np.log(1e6))

        clean, without = left_out(loss, one.params, honest, one.weights)
        for client, value in without.items():
            harm.setdefault(client, []).append(clean - value)
        for client in suspects:
            if client in one.updates:
                together = {**honest, client: one.updates[client]}
                harm.setdefault(client, []).append(left_out(loss, one.params, together, one.weights)[0] - clean)
    means = {client: float(np.mean(values)) for client, values in harm.items()}
    usual = [value for client, value in means.items() if client not in suspects]
    limit = max(0.0, max(usual, default=0.0))
    return tuple(client for client in suspects if client not in means or means[client] > limit)


def _against_others(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Each client's median length of an update, and length per step, over the median of the round."""
    lengths: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for round_num in sorted({row["round"] for row in rows}):
        here = [row for row in rows if row["round"] == round_num and row["update_norm"] is not None]
        if len(here) < 3:
            continue
        usual = float(np.median([row["update_norm"] for row in here])) or np.nan
        usual_rate = float(np.median([row["update_norm"] / max(1, row["num_steps"]) for row in here])) or np.nan
        for row in here:
            lengths.setdefault(row["client"], []).append(row["update_norm"] / usual)
            rates.setdefault(row["client"], []).append(row["update_norm"] / max(1, row["num_steps"]) / usual_rate)
    return (
        {client: float(np.median(values)) for client, values in lengths.items()},
        {client: float(np.median(values)) for client, values in rates.items()},
    )


def _epochs(row: Mapping[str, Any], batch: int) -> float:
    if row.get("num_steps") is None or not row.get("num_examples"):
        return np.nan
    return float(row["num_steps"] / -(-row["num_examples"] // batch))


def _first_failure(log: ClientLog, client: str, first: int) -> int | None:
    mine = np.array([name == client for name in log.clients])
    failed = log.rounds[mine & log.failed & (log.rounds >= first)]
    return int(failed.min()) if len(failed) else None


def _cosine_before(log: ClientLog, client: str, first: int) -> float:
    if "update_cosine_robust" not in log.signals:
        return np.nan
    mine = np.array([name == client for name in log.clients])
    mine &= (log.rounds < first) & (log.rounds >= first - BEFORE)
    return _mean(log.signals["update_cosine_robust"][mine])


def _mean(values: Floats | Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
