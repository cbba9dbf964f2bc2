"""Collects what is found of each client: its data under the model before the rise, its updates during the rise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.diagnose.evidence.findings import ClientFinding, Findings, mean_label_distance
from tasks.diagnose.evidence.remembered import remember, sent_over_trained
from tasks.diagnose.observe.drift import BEFORE
from tasks.diagnose.observe.own_losses import common
from tasks.diagnose.replay.change import Sites
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
    structure,
)
from tasks.diagnose.replay.examine import left_out_losses as left_out
from tasks.diagnose.replay.local_models import local_models
from tasks.federate.statistics import geometric_median, gram
from tasks.round_log.read import ClientLog
from tasks.runtime.failed import Failed
from tasks.skew import gini

_LOOKED_AT = 200
"""Most examples of a client that the curvature is computed on."""
_CURVED = 5
"""Most clients whose curvature and path are computed."""
_ROUNDS = 10
"""Rounds of the rise in which the log is looked at: long enough to meet most clients where few take part."""
_RECENT = 10
"""Of a client's rounds before the rise, those whose losses say what was usual for it."""
_FLOOR = 0.02
"""Share of the median loss that is added to all before the logarithm: a loss of 0 has none."""
_LEVEL = 5
"""Rounds before the rise whose median is the mean client's loss then."""
_INFLUENCE_CLIENTS, _DRIFT_EPOCHS = 50, 5
_AGAIN = 3
"""Rounds in which the clients whose update was odd in one are asked again."""
_FOLLOW_THEIR_OWN = ("sgd", "fedprox", "fednova")
"""Client updates that begin downhill on the client's own loss; the others are turned by what the server sends."""


@dataclass(frozen=True)
class Captured:
    """One round of all clients, or of some, from the model before the rise."""

    round_num: int
    params: Params
    """(P,) that it began with."""
    updates: Mapping[str, Params]
    weights: Mapping[str, float]
    steps: Mapping[str, int]


def capture(replays: Replayer, round_num: int, clients: Sequence[str] | None = None, seed: int = 0) -> Captured:
    """Returns what `clients` (None: all) send in `round_num`; those that fail are left out."""
    results = replays.updates(round_num, clients, seed)
    used = {c: r for c, r in results.items() if not isinstance(r, Failed) and r["finite"]}
    return Captured(
        round_num,
        replays.params,
        {client: np.asarray(result["update"]) for client, result in used.items()},
        {client: float(result["weight"]) for client, result in used.items()},
        {client: int(result["num_steps"]) for client, result in used.items()},
    )


def find(replays: Replayer, probe: Probe, sent: Captured, log: ClientLog, first: int) -> Findings:
    """Returns the findings.

    Args:
        replays: at the checkpoint before the rise.
        probe: of their model.
        sent: a round of all clients; those whose update is odd in it, and not known to be what training gives or not,
            are asked again in three more.
        log: clients.csv.
        first: round in which the rise began.
    """
    settings, cohort = replays.settings, replays.cohort
    data, test = replays.data(), (cohort.test_x, cohort.test_y)
    reference = probe.fit(replays.params, test)
    rows = _rows(log, first, first + _ROUNDS - 1)
    sizes = {client: np.bincount(y, minlength=cohort.num_classes) for client, (_, y) in data.items()}
    influence = _influence(replays, probe, sent)
    fits = {client: probe.fit(replays.params, examples) for client, examples in data.items()}
    local = local_models(probe, sent.params, _some(sent), sent.weights, sent.steps, fits, data, test)
    found, usually = [], _usual_losses(log, first)
    memories = remember(replays, probe, data, log, first)
    for client, examples in data.items():
        fit = fits[client]
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
            usual_loss=usually.get(client, np.nan),
            expected_loss=usual[0],
            expected_accuracy=usual[1],
            feature_distance=distance,
            learnable=None,
            structure=np.nan,
            norm=np.nan,
            norm_per_step=np.nan,
            grown=np.nan,
            slope=np.nan,
            cosine=np.nan,
            cosine_before=_mean(_before(log, "update_cosine_robust", client, first)),
            cosine_during=_mean([row.get("update_cosine_robust") for row in mine]),
            failed=_first_failure(log, client, first),
            first_broken=None,
            left_out=influence.get(client, np.nan),
            memory=memories.get(client),
        )
        if one.failed is not None:
            one = replace(one, first_broken=local_path(probe, replays.params, examples, rate, batch, 3).first_broken)
        if one.shifted and one.changed:
            taught = learnable(probe, replays.params, examples, min(rate, 0.1), batch)
            one = replace(one, learnable=taught, structure=structure(examples[0], test[0]))
        found.append(one)
    gradients = _gradients(replays, probe, data)
    look = _Look(_of_objectives(replays, gradients), log, first, _reference(found, sent))
    once = [look.at(one, [sent]) for one in found]
    suspects = [one.client for one in once if one.odd and not one.in_conflict and one.client in sent.updates]
    ratios = sent_over_trained(replays, log, suspects, first + _ROUNDS - 1) if suspects else {}
    once = [replace(one, sent_over_trained=ratios.get(one.client, np.nan)) for one in once]
    # Honest clients send an odd update now and then, by the batches that they draw; who always does is odd.
    unknown = [client for client in suspects if client not in ratios]
    again = [capture(replays, sent.round_num, unknown, seed) for seed in range(1, _AGAIN + 1)] if unknown else []
    return Findings(
        clients=tuple(look.at(one, [sent, *again]) if one.client in unknown else one for one in once),
        label_skew=mean_label_distance(sizes),
        size_skew=gini(np.array([len(y) for _, y in data.values()])),
        steepness=_steepness(replays, probe, data),
        train_trend=np.nan,
        val_trend=np.nan,
        dissimilarity=_dissimilarity(replays, gradients),
        local_drift=_local_drift(replays, probe, data),
        cleared=(),
        local_models=local,
        objective_gap=_objective_gap(rows, {c: info.weight for c, info in cohort.clients.items()}),
    )


def _influence(replays: Replayer, probe: Probe, sent: Captured) -> dict[str, float]:
    """Leave-one-out change of the hold-out loss by client; see ClientFinding."""
    test = (replays.cohort.test_x, replays.cohort.test_y)
    some = _some(sent)
    if not some:
        return {}
    together, without = left_out(lambda params: probe.fit(params, test).loss, sent.params, some, sent.weights)
    with np.errstate(all="ignore"):
        return {client: float(np.log(together / without[client])) for client in some}


def _some(sent: Captured) -> dict[str, Params]:
    return {client: sent.updates[client] for client in sorted(sent.updates)[:_INFLUENCE_CLIENTS]}


def _gradients(replays: Replayer, probe: Probe, data: Sites) -> dict[str, Floats]:
    """Each client's gradient of the loss on all its data, where it is finite."""
    with np.errstate(all="ignore"):
        found = {client: probe.gradient(replays.params, examples)[1] for client, examples in data.items()}
    return {client: gradient for client, gradient in found.items() if np.isfinite(gradient).all()}


def _of_objectives(replays: Replayer, gradients: Mapping[str, Floats]) -> dict[str, Floats]:
    """The gradients of what the clients minimise; none where what they follow is not that of their data alone."""
    federate = replays.settings.federate
    client = federate.client
    clipped = client.clip_norm > 0 and client.weight_decay > 0  # the loss's part only
    if client.kind not in _FOLLOW_THEIR_OWN or federate.shared_fraction > 0 or clipped:
        return {}
    return {name: gradient + client.weight_decay * replays.params for name, gradient in gradients.items()}


def _dissimilarity(replays: Replayer, gradients: Mapping[str, Floats]) -> float:
    if not gradients:
        return np.nan
    shares = np.array([replays.cohort.clients[client].weight for client in gradients])
    return dissimilarity(list(gradients.values()), shares / shares.sum())


def _local_drift(replays: Replayer, probe: Probe, data: Sites) -> tuple[float, ...]:
    client = replays.settings.federate.client
    epochs = max(1, min(replays.settings.federate.local_work.epochs, _DRIFT_EPOCHS))
    paths = [
        local_path(probe, replays.params, data[name], client.learning_rate, client.batch_size, epochs).distance
        for name in _spread(list(data))
    ]
    steps = min(len(path) for path in paths)
    return tuple(float(value) for value in np.mean([path[:steps] ** 2 for path in paths], axis=0))


def _objective_gap(rows: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> float:
    gaps = []
    for round_num in {row["round"] for row in rows}:
        here = [row for row in rows if row["round"] == round_num and row.get("num_steps") and row["finite"]]
        if here:
            share = np.array([weights.get(row["client"], 0.0) for row in here])
            meant, given = share / share.sum(), share * np.array([row["num_steps"] for row in here])
            gaps.append(0.5 * float(np.abs(given / given.sum() - meant).sum()))
    return _mean(gaps)


def _spread(clients: list[str]) -> list[str]:
    return clients[:: max(1, len(clients) // _CURVED)][:_CURVED]


def _rows(log: ClientLog, first: int, last: int) -> list[dict[str, Any]]:
    """The log's rows of the rounds first … last, with None where nothing was measured."""
    found = []
    for i in np.flatnonzero((log.rounds >= first) & (log.rounds <= last)):
        known: dict[str, Any] = {
            name: float(values[i]) if np.isfinite(values[i]) else None for name, values in log.signals.items()
        }
        found.append({"round": int(log.rounds[i]), "client": log.clients[i], "finite": not log.failed[i], **known})
    return found


def _steepness(replays: Replayer, probe: Probe, data: Sites) -> float:
    values = [
        curvature(probe, replays.params, (data[c][0][:_LOOKED_AT], data[c][1][:_LOOKED_AT]))
        for c in _spread(list(data))
        if len(data[c][1])
    ]
    return replays.settings.federate.client.learning_rate * float(np.median(values)) if values else np.nan


def harmful(replays: Replayer, probe: Probe, sent: Captured, suspects: Sequence[str]) -> tuple[str, ...]:
    """Returns the suspects whose updates raise the hold-out loss more than the median honest client's do.

    By leaving out one more: the suspects' harm is ln L(with it, without the other suspects) - ln L(without any
    suspect); an honest client's, ln L(without any suspect) - ln L(without any suspect and it).
    """
    test = (replays.cohort.test_x, replays.cohort.test_y)
    honest = {c: u for c, u in sent.updates.items() if c not in suspects}
    if not honest:
        return ()

    def loss(params: Params) -> float:
        value = probe.fit(params, test).loss
        return float(np.log(min(value, 1e6))) if np.isfinite(value) else float(np.log(1e6))

    clean, without = left_out(loss, sent.params, honest, sent.weights)
    limit = max(0.0, float(np.median([clean - value for value in without.values()])))
    guilty = []
    for client in suspects:
        if client in sent.updates:
            together = {**honest, client: sent.updates[client]}
            if left_out(loss, sent.params, together, sent.weights)[0] - clean > limit:
                guilty.append(client)
    return tuple(guilty)


@dataclass(frozen=True)
class _Reference:
    """The updates of those whose data do not contradict the model.

    Wrong data make long updates that all the others turn against: beside them, honest clients would look odd.
    """

    length: float
    """Median length."""
    rate: float
    """Median length for each step."""
    centre: Floats
    """(P,) their geometric median."""


def _reference(found: Sequence[ClientFinding], sent: Captured) -> _Reference | None:
    """The updates to compare with; None where there are fewer than three."""
    sound = [one.client for one in found if one.client in sent.updates and not one.in_conflict]
    if len(sound) < 3:
        return None
    share = geometric_median(gram([sent.updates[client] for client in sound]))
    centre = np.sum(
        [a * sent.updates[client].astype(np.float64) for a, client in zip(share, sound, strict=True)], axis=0
    )
    return _Reference(
        float(np.median([_length(sent, client) for client in sound])) or np.nan,
        float(np.median([_length(sent, client) / max(1, sent.steps[client]) for client in sound])) or np.nan,
        centre,
    )


@dataclass(frozen=True)
class _Look:
    """At what clients send from the model before the rise."""

    gradients: Mapping[str, Floats]
    """Of each client that of what it minimises, at the model that it gets; none where it follows others too."""
    log: ClientLog
    first: int
    reference: _Reference | None

    def at(self, one: ClientFinding, rounds: Sequence[Captured]) -> ClientFinding:
        """The finding with what the client sent in `rounds`: the median of each measure."""
        mine = [sent for sent in rounds if one.client in sent.updates]
        if not mine:
            return one
        lengths = [_length(sent, one.client) for sent in mine]
        rates = [length / max(1, sent.steps[one.client]) for length, sent in zip(lengths, mine, strict=True)]
        rate, usual = float(np.median(rates)), self._usual_rate(one.client)
        slope = float(np.median([self._slope(one.client, sent) for sent in mine]))
        seen = replace(one, grown=rate / usual if usual > 0 else np.nan, slope=slope)
        if self.reference is None:
            return seen
        cosines = [_cosine(sent.updates[one.client], self.reference.centre) for sent in mine]
        return replace(
            seen,
            norm=float(np.median(lengths)) / self.reference.length,
            norm_per_step=rate / self.reference.rate,
            cosine=float(np.median(cosines)),
        )

    def _usual_rate(self, client: str) -> float:
        """Median length for each step of its updates in the log before the rise; NaN if there are none."""
        before, steps = (_before(self.log, name, client, self.first) for name in ("update_norm", "num_steps"))
        return float(np.median(before / np.maximum(steps, 1))) if len(before) and len(before) == len(steps) else np.nan

    def _slope(self, client: str, sent: Captured) -> float:
        return _cosine(sent.updates[client], self.gradients[client]) if client in self.gradients else np.nan


def _cosine(one: Params, other: Floats) -> float:
    size = float(np.linalg.norm(one.astype(np.float64)) * np.linalg.norm(other))
    return float(one @ other) / size if size > 0 else np.nan


def _usual_losses(log: ClientLog, first: int) -> dict[str, float]:
    """What each client's loss has been, at the level before the rise; see ClientFinding."""
    losses = log.signals.get("loss_before", np.full(len(log.rounds), np.nan))
    known = (log.rounds < first) & (log.rounds >= first - BEFORE) & np.isfinite(losses) & (losses > 0)
    if not known.any():
        return {}
    clients, rounds = np.array(log.clients)[known], log.rounds[known]
    least = _FLOOR * float(np.median(losses[known]))
    at, level = common(clients, rounds, losses[known], least)
    apart = np.log((losses[known] + least) / level[np.searchsorted(at, rounds)])
    now = float(np.median(level[-_LEVEL:]))
    usual = {client: now * np.exp(np.median(apart[clients == client][-_RECENT:])) for client in np.unique(clients)}
    return {client: max(float(loss) - least, 0.0) for client, loss in usual.items()}


def _length(sent: Captured, client: str) -> float:
    return float(np.linalg.norm(sent.updates[client].astype(np.float64))) if client in sent.updates else np.nan


def _epochs(row: Mapping[str, Any], batch: int) -> float:
    if row.get("num_steps") is None or not row.get("num_examples"):
        return np.nan
    return float(row["num_steps"] / -(-row["num_examples"] // batch))


def _first_failure(log: ClientLog, client: str, first: int) -> int | None:
    failed = log.rounds[log.of(client) & log.failed & (log.rounds >= first)]
    return int(failed.min()) if len(failed) else None


def _before(log: ClientLog, name: str, client: str, first: int) -> Floats:
    """The client's values of a signal in the 20 rounds before `first`."""
    if name not in log.signals:
        return np.zeros(0)
    values = log.signals[name][log.of(client) & (log.rounds < first) & (log.rounds >= first - BEFORE)]
    return np.asarray(values[np.isfinite(values)])


def _mean(values: Floats | Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
