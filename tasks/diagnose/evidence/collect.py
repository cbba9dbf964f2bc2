"""Collects what is known of each client: its data under the model before the rise, its updates during the rise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.diagnose.evidence import logged
from tasks.diagnose.evidence.dissimilarity import dissimilarity
from tasks.diagnose.evidence.expectations import expected, feature_distance, structure
from tasks.diagnose.evidence.findings import ClientFinding, Findings, mean_label_distance
from tasks.diagnose.evidence.harm import influence
from tasks.diagnose.evidence.local_models import local_models
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.evidence.remembered import memories_of
from tasks.diagnose.evidence.repeated import sent_over_trained
from tasks.diagnose.evidence.sent import Captured, Gauge, Sent, capture, reference_of
from tasks.diagnose.replay.change import Sites
from tasks.diagnose.replay.engine import Replayer
from tasks.local.landscape import LocalPath, curvature, local_path
from tasks.local.learnability import learnable
from tasks.local.probe import Fit, Probe
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
_FOLLOW_THEIR_OWN = ("sgd", "fedprox", "fednova")
"""Client updates that begin downhill on the client's own loss; what the server sends turns the others."""


@dataclass(frozen=True)
class _Own:
    """What a client's data and log say of it; see `ClientFinding`."""

    client: str
    labels: NDArray[np.int64]
    epochs: float
    width: float
    loss: float
    accuracy: float
    usual_loss: float
    expected_loss: float
    expected_accuracy: float
    feature_distance: float
    cosine_before: float
    cosine_during: float
    failed: int | None
    first_broken: int | None
    left_out: float
    memory: Memory | None


@dataclass(frozen=True)
class _Sense:
    """Whether a client's data make sense; see `ClientFinding`. Looked at only of data that are new and unusual."""

    learnable: tuple[float, float] | None = None
    structure: float = np.nan


_NOTHING_SENT = Sent()


def find(
    replays: Replayer, probe: Probe, sent: Captured, log: ClientLog, first: int, trends: tuple[float, float]
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
    """
    cohort = replays.cohort
    before = _Before(replays, probe, log, first, replays.data(), (cohort.test_x, cohort.test_y))
    rows = logged.rows_of(log, first, first + _ROUNDS - 1)
    some = {client: sent.updates[client] for client in sorted(sent.updates)[:_INFLUENCE_CLIENTS]}
    fits = {client: probe.fit(replays.params, examples) for client, examples in before.data.items()}
    own = before.own(fits, rows, influence(replays, probe, sent, some))
    local = local_models(probe, sent.params, some, sent.weights, sent.steps, fits, before.data, before.test)
    gradients = before.gradients()
    return Findings(
        clients=before.findings(own, gradients, sent),
        label_skew=mean_label_distance({client: one.labels for client, one in own.items()}),
        size_skew=gini(np.array([len(y) for _, y in before.data.values()])),
        steepness=before.steepness(),
        train_trend=trends[0],
        val_trend=trends[1],
        dissimilarity=_dissimilarity(replays, gradients),
        local_drift=before.local_drift(),
        cleared=(),
        local_models=local,
        objective_gap=logged.objective_gap(rows, {c: info.weight for c, info in cohort.clients.items()}),
    )


@dataclass(frozen=True)
class _Before:
    """The model before the rise, the clients' data of today, and the log."""

    replays: Replayer
    probe: Probe
    log: ClientLog
    first: int
    data: Sites
    test: Examples

    def own(
        self, fits: Mapping[str, Fit], rows: Sequence[logged.Row], left_out: Mapping[str, float]
    ) -> dict[str, _Own]:
        """What the clients' data and log say of them."""
        replays, federate, log = self.replays, self.replays.settings.federate, self.log
        reference = self.probe.fit(replays.params, self.test)
        usual, memories = (
            logged.usual_losses(log, self.first),
            memories_of(replays, self.probe, self.data, log, self.first),
        )
        own = {}
        for client, examples in self.data.items():
            mine = [row for row in rows if row["client"] == client]
            expected_loss, expected_accuracy = expected(fits[client], reference)
            failed = logged.first_failure(log, client, self.first)
            own[client] = _Own(
                client=client,
                labels=np.bincount(examples[1], minlength=replays.cohort.num_classes),
                epochs=logged.mean_of_known([logged.passes(row, federate.client.batch_size) for row in mine]),
                width=federate.width.get(client, 1.0),
                loss=fits[client].loss,
                accuracy=fits[client].accuracy,
                usual_loss=usual.get(client, np.nan),
                expected_loss=expected_loss,
                expected_accuracy=expected_accuracy,
                feature_distance=feature_distance(self.probe, replays.params, examples, self.test),
                cosine_before=logged.mean_of_known(logged.before(log, "update_cosine_robust", client, self.first)),
                cosine_during=logged.mean_of_known([row.get("update_cosine_robust") for row in mine]),
                failed=failed,
                first_broken=None if failed is None else self._path(client, _BROKEN_EPOCHS).first_broken,
                left_out=left_out.get(client, np.nan),
                memory=memories.get(client),
            )
        return own

    def findings(
        self, own: Mapping[str, _Own], gradients: Mapping[str, Floats], sent: Captured
    ) -> tuple[ClientFinding, ...]:
        """The findings of the clients, with what they send."""
        sense: dict[str, _Sense] = {}

        def finding(client: str, update: Sent = _NOTHING_SENT, ratio: float = np.nan) -> ClientFinding:
            parts = vars(own[client]) | vars(sense.get(client, _Sense())) | vars(update)
            return ClientFinding(**parts, sent_over_trained=ratio)

        of_data = [finding(client) for client in own]
        sense |= {one.client: self._sense(one.client) for one in of_data if one.shifted and one.changed}
        reference = reference_of(sent, [one.client for one in of_data if not one.in_conflict])
        gauge = Gauge(self._of_objectives(gradients), self.log, self.first, reference)
        updates = {client: gauge.measure(client, [sent]) for client in own}
        once = [finding(client, updates[client]) for client in own]
        suspects = [one.client for one in once if one.odd and not one.in_conflict and one.client in sent.updates]
        last = self.first + _ROUNDS - 1
        ratios = sent_over_trained(self.replays, self.log, suspects, last) if suspects else {}
        # Honest clients send an odd update now and then, by the batches that they draw; who always does is odd.
        unknown = [client for client in suspects if client not in ratios]
        if unknown:
            draws = [capture(self.replays, sent.round_num, unknown, seed) for seed in range(1, _AGAIN + 1)]
            updates |= {client: gauge.measure(client, [sent, *draws]) for client in unknown}
        return tuple(finding(client, updates[client], ratios.get(client, np.nan)) for client in own)

    def _sense(self, client: str) -> _Sense:
        settings, examples = self.replays.settings.federate.client, self.data[client]
        rate = min(settings.learning_rate, _LEARNING_RATE)
        taught = learnable(self.probe, self.replays.params, examples, rate, settings.batch_size)
        return _Sense(taught, structure(examples[0], self.test[0]))

    def _path(self, client: str, num_epochs: int) -> LocalPath:
        settings = self.replays.settings.federate.client
        rate, batch_size = settings.learning_rate, settings.batch_size
        return local_path(self.probe, self.replays.params, self.data[client], rate, batch_size, num_epochs)

    def gradients(self) -> dict[str, Floats]:
        """Each client's gradient of the loss on all its data, where it is finite."""
        with np.errstate(all="ignore"):
            gradients = {client: self.probe.gradient(self.replays.params, ex)[1] for client, ex in self.data.items()}
        return {client: gradient for client, gradient in gradients.items() if np.isfinite(gradient).all()}

    def _of_objectives(self, gradients: Mapping[str, Floats]) -> dict[str, Floats]:
        """The gradients of what the clients minimise; none where they follow more than their own data's gradient."""
        federate = self.replays.settings.federate
        client = federate.client
        clipped = client.clip_norm > 0 and client.weight_decay > 0  # the loss's part only
        if client.kind not in _FOLLOW_THEIR_OWN or federate.shared_fraction > 0 or clipped:
            return {}
        return {name: gradient + client.weight_decay * self.replays.params for name, gradient in gradients.items()}

    def steepness(self) -> float:
        """Largest curvature times the client learning rate, median over some clients."""
        values = [
            curvature(self.probe, self.replays.params, (x[:_EXAMPLES], y[:_EXAMPLES]))
            for x, y in (self.data[client] for client in _spread(list(self.data)))
            if len(y)
        ]
        rate = self.replays.settings.federate.client.learning_rate
        return rate * float(np.median(values)) if values else np.nan

    def local_drift(self) -> tuple[float, ...]:
        """Mean squared distance from the model before the rise after each local step; see `Findings.local_drift`."""
        num_epochs = max(1, min(self.replays.settings.federate.local_work.epochs, _DRIFT_EPOCHS))
        paths = [self._path(client, num_epochs).distance for client in _spread(list(self.data))]
        steps = min(len(path) for path in paths)
        return tuple(float(value) for value in np.mean([path[:steps] ** 2 for path in paths], axis=0))


def _dissimilarity(replays: Replayer, gradients: Mapping[str, Floats]) -> float:
    if not gradients:
        return np.nan
    shares = np.array([replays.cohort.clients[client].weight for client in gradients])
    return dissimilarity(list(gradients.values()), shares / shares.sum())


def _spread(clients: list[str]) -> list[str]:
    return clients[:: max(1, len(clients) // _CURVED)][:_CURVED]
