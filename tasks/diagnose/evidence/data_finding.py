"""How a client's data fit the model before the rise, beside how they fitted it then, and beside the hold-out data."""

from dataclasses import dataclass

import numpy as np

from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.thresholds import (
    CONFLICT_ACCURACY,
    CONFLICT_LOSS,
    FAR_WORSE,
    LEARNABLE,
    SHIFTED,
    STRUCTURED,
    WORSE,
    WORSE_ACCURACY,
)


@dataclass(frozen=True, kw_only=True)
class DataFinding:
    """One client's data under the model before the rise.

    Attributes:
        loss: of that model on the client's data, nats per example.
        accuracy: of that model on the client's data, a fraction.
        usual_loss: exp of the median of ln(the client's loss / the mean client's loss) over the client's last 10 rounds
            before the rise, times the mean client's loss of the last 5 rounds, nats; NaN if it took part in none.
        expected_loss: of that model on hold-out data with the same labels, nats per example.
        expected_accuracy: of that model on hold-out data with the same labels, a fraction.
        feature_distance: of the client's features to those of the hold-out data, in their standard deviations; see
            `feature_distance`.
        learnable: accuracy on one half of the data after training on the other, and the share of the most frequent
            label; None if not measured.
        structure: how much the features hang together, over how much those of the hold-out data do; NaN if not
            measured.
        memory: a loss that the client logged before the rise, beside the same loss with its data of today; None if the
            log has no loss to compare.
    """

    loss: float
    accuracy: float
    usual_loss: float
    expected_loss: float
    expected_accuracy: float
    feature_distance: float
    learnable: tuple[float, float] | None = None
    structure: float = np.nan
    memory: Memory | None = None

    @property
    def as_ever(self) -> bool:
        """Whether the data explain no rise: they are unchanged, or fit the model as well as before the rise."""
        if self.memory is not None:
            return not self.memory.changed
        return bool(self.loss <= WORSE * self.usual_loss)

    @property
    def in_conflict(self) -> bool:
        """Whether the data contradict the model before the rise.

        If the log remembers what the data were, the data contradict the model exactly if they have changed. Otherwise
        one of two must hold:

        1. Loss and accuracy are far worse than the client's label mix explains, and the data are not as ever: honest
           clients with unusual data have always contradicted the model.
        2. The loss is far above the client's usual loss, and the model is wrong about many examples.
        """
        if self.memory is not None:
            return self.memory.changed
        lossy = not self.loss <= CONFLICT_LOSS * self.expected_loss
        wrong = self.accuracy < self.expected_accuracy - CONFLICT_ACCURACY
        far_worse = self.loss > FAR_WORSE * self.usual_loss and self.accuracy < 1 - CONFLICT_ACCURACY
        return (lossy and wrong and not self.as_ever) or (far_worse and self.loss > self.expected_loss)

    @property
    def worse(self) -> bool:
        """Whether the data fit the model worse than before the rise; they need not contradict it."""
        return not self.as_ever and self.accuracy < self.expected_accuracy - WORSE_ACCURACY

    @property
    def shifted(self) -> bool:
        """Whether the features are far from those of the hold-out data."""
        return self.feature_distance > SHIFTED

    @property
    def relabelled(self) -> bool:
        """Whether the labels changed in a known way, and nothing else did."""
        return self.memory is not None and self.memory.relabelling is not None

    @property
    def changed(self) -> bool:
        """Whether the data contradict the model, or fit it worse than before and have shifted features."""
        return self.in_conflict or (self.worse and self.shifted)

    @property
    def makes_sense(self) -> bool:
        """Whether the data are no noise: the features hang together, or a model learns one half from the other."""
        if self.learnable is None or self.structure > STRUCTURED:
            return True
        accuracy, most_frequent = self.learnable
        return accuracy > most_frequent + LEARNABLE * (max(self.expected_accuracy, most_frequent) - most_frequent)
