"""Collects what is known of each client: its data under the model before the rise, its updates during the rise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.diagnose.evidence import logged
from tasks.diagnose.evidence.dissimilarity import dissimilarity
from tasks.diagnose.evidence.expectations import (
    expected,
    feature_distance,
    hold_out_features,
    hold_out_in_conflict,
    structure,
)
from tasks.diagnose.evidence.findings import ClientFinding, Findings, mean_label_distance
from tasks.diagnose.evidence.harm import influence
from tasks.diagnose.evidence.local_models import local_models, sent_model
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.evidence.remembered import memories_of
from tasks.diagnose.evidence.repeated import sent_over_trained
from tasks.diagnose.evidence.sent import Captured, Gauge, capture, reference_of
from tasks.diagnose.evidence.vectors import Vectors
from tasks.diagnose.replay.engine import Replayer
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.local.features import correlation
from tasks.local.landscape import LocalPath, curvature, local_path
from tasks.local.learnability import learnable
from tasks.local.probe import Probe
from tasks.local.view import View, view
from tasks.round_log.read import ClientLog
from tasks.skew import gini

_EXAMPLES = 200
"""Most examples of a client on which the curvature is computed."""
_CURVED = 5
"""Most clients whose curvature and path are computed."""
_ROUNDS = 10
"""Rounds of the rise whose log is read: long enough to meet most clients where few take part."""
_INFLUENCE_CLIENTS = 50
"""Most clients whose leave-one-out influence and local model are computed."""
_DRIFT_EPOCHS = 5
"""Most passes over its data of a client's path."""
_BROKEN_EPOCHS = 3
"""Passes over its data in which a failed client's first broken step is looked for."""
_LEARNING_RATE = 0.1
"""Largest rate at which it is tried whether a client's data can be learnt."""
_AGAIN = 3
"""Further rounds of the clients whose update was odd in the first."""


def find(
    replays: Replayer,
    probe: Probe,
    sent: Captured,
    log: ClientLog,
    first: int,
    trends: tuple[float, float],
    train_rise: float,
) -> Findings:
    """Returns the findings; no client is cleared yet.

    Args:
        replays: at the checkpoint before the rise.
        probe: of their model.
        sent: a round of all clients. A client whose update is odd in it sends three more if it is not known whether
            training on its data gives that update.
        log: clients.csv.
        first: round in which the rise began.
        trends: of the training loss and the hold-out loss; see `Findings`.
        train_rise: of the training loss; see `Findings`.
    """
    cohort = replays.cohort
    params, test = replays.params, (cohort.test_x, cohort.test_y)
    gradients = Vectors()

    def seen_by(client: str, examples: Examples) -> View:
        seen = view(probe, params, cohort.num_classes, examples)
        if np.isfinite(seen.gradient).all():
            gradients.add(client, seen.gradient)
        return replace(seen, gradient=np.zeros(0))

    views = replays.at_clients(seen_by)
    remembered = memories_of(replays, probe, log, first)
    before = _Before(replays, probe, log, first, views, test, remembered.memories)
    rows = logged.rows_of(log, first, first + _ROUNDS - 1)
    some = {client: sent.updates[client] for client in sorted(sent.updates)[:_INFLUENCE_CLIENTS]}
    own = before.own(rows, influence(replays, probe, sent, some))
    fits = {client: seen.fit for client, seen in views.items()}
    after = replays.at_clients(
        lambda client, examples: probe.fit(sent_model(sent.params, some[client]), examples).loss, some
    )
    local = local_models(probe, sent.params, some, sent.weights, sent.steps, fits, after, test)
    curvatures, paths = before.landscapes()
    return Findings(
        clients=before.findings(own, gradients, sent),
        label_skew=mean_label_distance({client: one.labels for client, one in own.items()}),
        size_skew=gini(np.array([int(seen.labels.sum()) for seen in views.values()])),
        steepness=_steepness(curvatures, replays.settings.federate.client.learning_rate),
        train_trend=trends[0],
        val_trend=trends[1],
        train_rise=train_rise,
        dissimilarity=_dissimilarity(replays, gradients),
        local_drift=_local_drift(paths),
        cleared=(),
        local_models=local,
        objective_gap=logged.objective_gap(rows, {c: info.weight for c, info in cohort.clients.items()}),
        resized=logged.resized(log, first, {client: info.num_examples for client, info in cohort.clients.items()}),
        drift=remembered.drift,
        hold_out_in_conflict=hold_out_in_conflict(fits, probe.fit(params, test)),
    )


@dataclass(frozen=True)
class _Before:
    """The model before the rise, what the clients' data of today are at it, and the log."""

    replays: Replayer
    probe: Probe
    log: ClientLog
    first: int
    views: Mapping[str, View]
    test: Examples
    memories: Mapping[str, Memory]

    def own(self, rows: Sequence[logged.Row], left_out: Mapping[str, float]) -> dict[str, ClientFinding]:
        """What the clients' data and log say of them; of what they send, nothing is known yet."""
        replays, federate, log = self.replays, self.replays.settings.federate, self.log
        reference = self.probe.fit(replays.params, self.test)
        hold_out = hold_out_features(self.probe, replays.params, self.test)
        usual = logged.usual_losses(log, self.first)
        failures = {client: logged.first_failure(log, client, self.first) for client in self.views}
        failed = [client for client, round_num in failures.items() if round_num is not None]
        broken = replays.at_clients(lambda _, examples: self._path(examples, _BROKEN_EPOCHS).first_broken, failed)
        own, by_client = {}, dict[str, list[logged.Row]]()
        for row in rows:
            by_client.setdefault(row["client"], []).append(row)
        for client, seen in self.views.items():
            mine = by_client.get(client, [])
            expected_loss, expected_accuracy = expected(seen.fit, reference)
            own[client] = ClientFinding(
                client=client,
                labels=seen.labels,
                epochs=logged.mean_of_known([logged.passes(row, federate.client.batch_size) for row in mine]),
                width=federate.width.get(client, 1.0),
                loss=seen.fit.loss,
                accuracy=seen.fit.accuracy,
                usual_loss=usual.get(client, np.nan),
                expected_loss=expected_loss,
                expected_accuracy=expected_accuracy,
                feature_distance=feature_distance(seen.means, hold_out),
                cosine_before=logged.mean_of_known(logged.before(log, "update_cosine_robust", client, self.first)),
                cosine_during=logged.mean_of_known([row.get("update_cosine_robust") for row in mine]),
                failed=failures[client],
                first_broken=broken.get(client),
                left_out=left_out.get(client, np.nan),
                memory=self.memories.get(client),
            )
        return own

    def findings(
        self, own: Mapping[str, ClientFinding], gradients: Mapping[str, Floats], sent: Captured
    ) -> tuple[ClientFinding, ...]:
        """The findings of the clients, with what they send."""
        unusual = [client for client, data in own.items() if data.shifted and data.changed]
        reference = reference_of(sent, [client for client, data in own.items() if not data.in_conflict])
        decay = self.replays.settings.federate.client.weight_decay * self.replays.params
        gauge = Gauge(self._of_objectives(gradients), decay, self.log, self.first, reference)
        updates = {client: gauge.measure(client, [sent]) for client in own}
        once = [replace(data, **vars(updates[client])) for client, data in own.items()]
        suspects = [c.client for c in once if c.odd and not c.in_conflict and c.client in sent.updates]
        last = self.first + _ROUNDS - 1
        ratios = sent_over_trained(self.replays, self.log, suspects, last) if suspects else {}
        # Honest clients send an odd update now and then, by the batches that they draw; who always does is odd.
        unknown = [client for client in suspects if client not in ratios]
        if unknown:
            draws = [capture(self.replays, sent.round_num, unknown, seed) for seed in range(1, _AGAIN + 1)]
            updates |= {client: gauge.measure(client, [sent, *draws]) for client in unknown}
        sense = self._sense(unusual)
        return tuple(
            replace(
                data,
                **vars(updates[client]),
                **sense.get(client, {}),
                sent_over_trained=ratios.get(client, np.nan),
            )
            for client, data in own.items()
        )

    def _sense(self, clients: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Whether the data of `clients` make sense: `learnable` and `structure` of their findings."""
        settings = self.replays.settings.federate.client
        rate = min(settings.learning_rate, _LEARNING_RATE)
        hold_out = correlation(self.test[0]) if clients else np.nan

        def sense(_: str, examples: Examples) -> dict[str, Any]:
            taught = learnable(self.probe, self.replays.params, examples, rate, settings.batch_size)
            return {"learnable": taught, "structure": structure(correlation(examples[0]), hold_out)}

        return self.replays.at_clients(sense, clients)

    def _path(self, examples: Examples, num_epochs: int) -> LocalPath:
        settings = self.replays.settings.federate.client
        rate, batch_size = settings.learning_rate, settings.batch_size
        return local_path(self.probe, self.replays.params, examples, rate, batch_size, num_epochs)

    def _of_objectives(self, gradients: Mapping[str, Floats]) -> Mapping[str, Floats]:
        """The gradients of the loss; none where the clients follow more than their own data's gradient."""
        federate = self.replays.settings.federate
        client = federate.client
        clipped = client.clip_norm > 0 and client.weight_decay > 0  # the loss's part only
        # Other client updates begin downhill on the client's own loss; what the server sends turns these.
        if CLIENT_UPDATES[client.kind].shared or federate.shared_fraction > 0 or clipped:
            return {}
        return gradients

    def landscapes(self) -> tuple[list[float], list[Floats]]:
        """The largest curvature of some clients' losses, and how far each of their local steps leads away."""
        num_epochs = max(1, min(self.replays.settings.federate.local_work.epochs, _DRIFT_EPOCHS))

        def landscape(_: str, examples: Examples) -> tuple[float | None, Floats]:
            few = examples[0][:_EXAMPLES], examples[1][:_EXAMPLES]
            steepest = curvature(self.probe, self.replays.params, few) if len(few[1]) else None
            return steepest, self._path(examples, num_epochs).distance

        results = self.replays.at_clients(landscape, _spread(list(self.views))).values()
        return [steepest for steepest, _ in results if steepest is not None], [distance for _, distance in results]


def _steepness(curvatures: Sequence[float], learning_rate: float) -> float:
    """The median of the largest curvatures, times the client learning rate; see `Findings`."""
    return learning_rate * float(np.median(curvatures)) if curvatures else np.nan


def _local_drift(paths: Sequence[Floats]) -> tuple[float, ...]:
    """The mean squared distance from the model before the rise after each local step; see `Findings`."""
    steps = min(len(path) for path in paths)
    return tuple(float(value) for value in np.mean([path[:steps] ** 2 for path in paths], axis=0))


def _dissimilarity(replays: Replayer, gradients: Mapping[str, Floats]) -> float:
    if not gradients:
        return np.nan
    shares = np.array([replays.cohort.clients[client].weight for client in gradients])
    return dissimilarity(gradients.values(), shares / shares.sum())


def _spread(clients: list[str]) -> list[str]:
    return clients[:: max(1, len(clients) // _CURVED)][:_CURVED]
