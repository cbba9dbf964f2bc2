"""What is known of the clients: their data and updates, from the model before the rise and in its rounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.evidence.memory import Memory, as_trained
from tasks.skew import earth_mover

STEEP, TOO_STEEP = 2.0, 3.0
"""Curvature times rate from which on a step overshoots farther than it came (a parabola diverges), and from which on
the steps themselves diverge."""
CONFLICT_LOSS, CONFLICT_ACCURACY = 2.0, 0.3
WORSE, FAR_WORSE, WORSE_ACCURACY = 1.5, 3.0, 0.1
"""A client's loss over what it was before from which on its data have changed for the model, if it also gets that much
fewer right; and from which on they contradict it, also where it has labels that the model is wrong about anyway."""
ABNORMAL_NORM = 3.0
GROWN, FAR_GROWN, OUTGROWN = 2.0, 3.0, 3.5
"""`grown` from which on an update is odd, far longer than it was, and that over the usual."""
UPHILL, SHORT = 0.25, 0.2
"""`slope` from which on an update goes uphill, and `norm` below which its direction is noise."""
BEYOND = 100.0
SHIFTED = 0.35
STRUCTURED = 0.4
APART = 0.1
"""How far the training loss must fall, and part from a hold-out loss that does not, on the logarithm, for
overfitting."""
SKEWED_LABELS = 0.4
SKEWED_SIZES = 0.3
UNEQUAL_WORK = 1.5


@dataclass(frozen=True)
class ClientFinding:
    """One client, seen from the model before the rise and in the rounds of the rise.

    Attributes:
        client: id.
        labels: (C,) examples of each label.
        epochs: mean passes over its data a round, of the rounds it took part in; NaN if in none.
        width: share of the hidden units that it trains.
        loss: of the model before the rise on its data, nats.
        accuracy: the same, fraction.
        usual_loss: what its data have had, at the level before the rise: exp of the median of ln(its loss / the mean
            client's) over its last 10 rounds before the rise, times the mean client's loss of the last 5 rounds; nats.
            NaN if it took part in none.
        expected_loss: what the hold-out data of the same labels have.
        expected_accuracy: the same.
        feature_distance: of its features to the hold-out data's, in their sd; see `feature_distance`.
        learnable: accuracy on one half after training on the other, and the share of the most frequent label.
        structure: how much its features hang together, over how much the hold-out data's do; NaN if not known.
        norm: length of its update over the median client's, all from the model before the rise; NaN if it failed. This
            and the next four are of one round, and of clients with an odd update in it the median of four draws if
            `sent_over_trained` is not known.
        norm_per_step: the same of the length over the number of steps.
        grown: length of its update for each step, over the median of its own in the 20 rounds before the rise; NaN if
            it took part in none.
        slope: cosine of that update to the gradient of the loss on its own data: training goes downhill, so what is
            above 0 is not what its training gave. NaN where it does not follow the gradient of its data alone
            (scaffold, feddyn, mimelite, shared data, clipping with weight decay).
        cosine: cosine of that update to the geometric median of all clients'.
        cosine_before: the same in the 20 rounds before the rise; NaN if in none.
        cosine_during: the same in the first 10 rounds of the rise; NaN if in none.
        failed: first round of the rise in which its update was not finite; None if it never was.
        first_broken: index of the first step of plain SGD on its data whose loss is not finite, where it failed.
        left_out: ln of the hold-out loss of the mean of all their models over that without the client: above 0, the
            model is better without it; NaN if it failed.
        memory: a loss that it logged before the rise, and the same with its data of today; None where there is none to
            compare.
        sent_over_trained: length of an update that it sent in the rise over that of what training on its data gives
            from the same model: 1 if it sent that; NaN if not known.
    """

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
    learnable: tuple[float, float] | None
    structure: float
    norm: float
    norm_per_step: float
    grown: float
    slope: float
    cosine: float
    cosine_before: float
    cosine_during: float
    failed: int | None
    first_broken: int | None
    left_out: float
    memory: Memory | None = None
    sent_over_trained: float = np.nan

    @property
    def as_ever(self) -> bool:
        """Whether its data are those before, or fit the model as well as they fitted it then: they explain no rise."""
        if self.memory is not None:
            return not self.memory.changed
        return bool(self.loss <= WORSE * self.usual_loss)

    @property
    def in_conflict(self) -> bool:
        """Whether its data contradict the model before the rise, more than its label mix explains, and did not before.

        Honest clients whose data are unlike the others' have always contradicted the model. Where the log remembers
        what the data were, that decides.
        """
        if self.memory is not None:
            return self.memory.changed
        lossy = not self.loss <= CONFLICT_LOSS * self.expected_loss
        wrong = self.accuracy < self.expected_accuracy - CONFLICT_ACCURACY
        far_worse = self.loss > FAR_WORSE * self.usual_loss and self.accuracy < 1 - CONFLICT_ACCURACY
        return (lossy and wrong and not self.as_ever) or (far_worse and self.loss > self.expected_loss)

    @property
    def worse(self) -> bool:
        """Whether its data fit the model worse than they did, if not so badly as to contradict it."""
        return not self.as_ever and self.accuracy < self.expected_accuracy - WORSE_ACCURACY

    @property
    def shifted(self) -> bool:
        """Whether its features are far from the hold-out data's."""
        return self.feature_distance > SHIFTED

    @property
    def relabelled(self) -> bool:
        """Whether its data are those before but for their labels."""
        return self.memory is not None and self.memory.relabelling is not None

    @property
    def changed(self) -> bool:
        """Whether its data contradict the model, or fit it worse than they did and have features unlike the others'."""
        return self.in_conflict or (self.worse and self.shifted)

    @property
    def took_part(self) -> bool:
        """Whether it took part in the rounds of the rise that were looked at: else its updates explain none of it."""
        return bool(np.isfinite(self.epochs)) or self.failed is not None

    @property
    def makes_sense(self) -> bool:
        """Whether its features hang together, or a model learns from one half of them for the other: noise does not."""
        if self.learnable is None or self.structure > STRUCTURED:
            return True
        accuracy, most_frequent = self.learnable
        return accuracy > most_frequent + 0.5 * (max(self.expected_accuracy, most_frequent) - most_frequent)

    @property
    def turned(self) -> bool:
        """Whether its update points away from the others', and did not before.

        Unusual data turn an update too, but have done so all the time: it must be the reverse of what it was, from the
        model before the rise and in the rounds of the rise, or far longer as well.
        """
        was = self.cosine_before
        reversed_ = was > 0.3 and self.cosine < -0.5 * was and self.norm > 0.5 and not self.cosine_during > 0
        away = self.grown > GROWN and self.cosine < min(0.15, was - 0.3) and not self.norm < 1
        return bool(reversed_ or away)

    @property
    def uphill(self) -> bool:
        """Whether what it sends goes uphill on its own data, in the median of the rounds that were looked at."""
        return self.slope > UPHILL and not self.norm < SHORT

    @property
    def odd(self) -> bool:
        """Whether its update is worth a second look."""
        return bool(self.turned or self.slope > 0 or self._longer or self.grown > GROWN)

    @property
    def oversized(self) -> bool:
        """Whether its update is far longer than its work explains, and than it was before, if that is known."""
        return bool(self._longer and (np.isnan(self.grown) or self.grown > FAR_GROWN))

    @property
    def _longer(self) -> bool:
        return bool(min(self.norm, self.norm_per_step) > ABNORMAL_NORM)


@dataclass(frozen=True)
class Findings:
    """What was found of the clients and the round log."""

    clients: tuple[ClientFinding, ...]
    label_skew: float
    """Mean over the clients, weighted by examples, of the earth mover's distance of their labels to all: 0 to 2."""
    size_skew: float
    """Gini coefficient of the clients' examples."""
    steepness: float
    """Largest curvature of the loss times the client learning rate, median over the clients looked at."""
    train_trend: float
    """ln of the mean training loss of the rise's second half over that of its first; NaN if not known."""
    val_trend: float
    """The same of the hold-out loss."""
    dissimilarity: float
    """B of the clients' full gradients at the model before the rise: 1 if they agree (FedProx, definition 3)."""
    local_drift: tuple[float, ...]
    """1/K sum_k ||y_ki - x||^2 after each local step i of plain SGD from the model before the rise, which SCAFFOLD's
    drift averages over the steps (Karimireddy 2020, equation 9), up to the steps of the client with the fewest."""
    cleared: tuple[str, ...]
    """Clients with odd updates that harm the model no more than honest ones."""
    local_models: Mapping[str, Any]
    """The model that each client makes of that before the rise, of at most 50 clients (replay/local_models.py)."""
    objective_gap: float
    """1/2 sum_k |w_k - p_k|, w_k in proportion to p_k times the client's steps: how far the weights that plain
    averaging gives are from those that were meant, 0 to 1 (FedNova, Wang 2020, theorem 1)."""

    @property
    def usual_epochs(self) -> float:
        """Median passes of a client."""
        known = [c.epochs for c in self.clients if np.isfinite(c.epochs)]
        return float(np.median(known)) if known else 1.0

    def works_unequally(self, one: ClientFinding) -> bool:
        """Whether the client passes over its data far more or less often than the median client."""
        ratio = one.epochs / self.usual_epochs
        return bool(np.isfinite(ratio) and not 1 / UNEQUAL_WORK <= ratio <= UNEQUAL_WORK)

    def faulty(self) -> tuple[str, ...]:
        """Clients whose data make no sense or contradict the others', or whose updates their work does not explain."""
        return tuple(one.client for one in self.clients if self._faulty(one))

    def _faulty(self, one: ClientFinding) -> bool:
        if one.changed:
            return one.relabelled or not one.shifted or not one.makes_sense
        if np.isfinite(one.sent_over_trained):
            return not as_trained(one.sent_over_trained)
        if one.client in self.cleared or not one.took_part or self.steepness > TOO_STEEP:
            return False  # where the rate makes steps diverge, honest updates are of any length and direction
        if self.works_unequally(one) or one.width < 1 or (one.shifted and np.isnan(one.grown)):
            return False  # unequal work, a narrow model and unusual features make unusual updates, these from the start
        return one.turned or one.uphill or one.oversized or self.outgrown(one)

    def _sent_odd(self, one: ClientFinding) -> bool:
        return bool(np.isfinite(one.norm)) and not one.changed and self._faulty(one)

    def _usual_growth(self) -> float:
        """Median `grown` of the clients whose data contradict nothing; NaN if it is not known of any."""
        others = [c.grown for c in self.clients if not c.in_conflict and np.isfinite(c.grown)]
        return float(np.median(others)) if others else np.nan

    def outgrown(self, one: ClientFinding) -> bool:
        """Whether its updates became far longer than they were and as long as others', whose did not."""
        longer = one.grown > max(FAR_GROWN, OUTGROWN * self._usual_growth())
        return bool(longer and not one.norm < 1)

    def shifted(self) -> tuple[str, ...]:
        """Clients whose features are unlike the others', and new to the model, but whose data make sense."""
        moved = [one for one in self.clients if one.shifted and one.changed and not one.relabelled]
        return tuple(one.client for one in moved if one.makes_sense)

    def failed(self) -> tuple[str, ...]:
        """Clients whose updates were not finite, the first to fail first.

        Where the local steps themselves diverge, only those whose data are beyond all bounds: the others fail of that.
        Nor those whose updates were finite at first, and not what they should be: they fail of what these did.
        """
        failed = [one for one in self.clients if one.failed is not None and not self._sent_odd(one)]
        if self.steepness > TOO_STEEP:
            failed = [one for one in failed if not one.loss <= BEYOND * one.expected_loss]
        return tuple(one.client for one in sorted(failed, key=lambda one: (one.failed or 0, one.client)))


def mean_label_distance(labels: Mapping[str, NDArray[np.int64]]) -> float:
    """Returns the mean over clients, weighted by examples, of sum_c |p_k(c) - p(c)|: 0 (alike) to 2."""
    counts = np.array(list(labels.values()), dtype=np.float64)
    whole = counts.sum(axis=0) / counts.sum()
    sizes = counts.sum(axis=1)
    return float(sizes @ earth_mover(counts / np.maximum(sizes, 1)[:, None], whole) / sizes.sum())
