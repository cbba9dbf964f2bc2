"""What a log remembers of a client's data: the loss that they once had under a model that is still known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.thresholds import AS_TRAINED, SAME_ABSOLUTE, SAME_RELATIVE

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Memory:
    """A loss that a client logged before the rise, and the same with the data of today.

    The model, the batch and the augmentation are the same. So if the data of the batch have not changed, the two losses
    agree to the digits of float32. Examples outside the batch do not enter either loss.

    Attributes:
        round: that logged it.
        logged: loss of the round's first batch, nats.
        now: the same with the data of today.
        relabelling: (C,) for each label of today the one that it had then, where changing them back gives every loss
            that was compared again; None where the data are the same or nothing as simple explains the difference.
    """

    round: int
    logged: float
    now: float
    relabelling: tuple[int, ...] | None = None

    @property
    def difference(self) -> float:
        """How far the losses are apart, over the one that was logged."""
        return abs(self.now - self.logged) / (self.logged + SAME_ABSOLUTE)

    @property
    def changed(self) -> bool:
        """Whether the data of today are others."""
        return not same(self.now, self.logged)


def same(loss: float, other: float) -> bool:
    """Returns whether two losses are the same measurement, up to the digits of float32."""
    return bool(abs(loss - other) <= SAME_ABSOLUTE + SAME_RELATIVE * abs(other))


def as_trained(ratio: float) -> bool:
    """Returns whether a client sent what training on its data gives; see ClientFinding.sent_over_trained."""
    return bool(abs(ratio - 1) <= AS_TRAINED)


def relabellings(num_classes: int) -> Iterator[Labels]:
    """Yields (C,) how labels get mixed up in practice, each as the label then of every label of today.

    1. Reversed: y to C - 1 - y (Fang 2020, arXiv 1911.11815).
    2. Shifted: y to y + k modulo C, for each k.
    3. Two labels swapped, for each pair.
    """
    labels = np.arange(num_classes)
    yield labels[::-1].copy()
    for by in range(1, num_classes):
        yield (labels - by) % num_classes
    for first in range(num_classes):
        for second in range(first + 1, num_classes):
            swapped = labels.copy()
            swapped[[first, second]] = second, first
            yield swapped


def relabelling_in_words(then: Sequence[int]) -> str:
    """Returns a relabelling in words; `then` is (C,), for each label of today the one that it had."""
    num = len(then)
    if list(then) == list(range(num))[::-1]:
        return f"y to {num - 1} - y"
    moved = [label for label in range(num) if then[label] != label]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} swapped"
    return f"y to y + {then[0]} modulo {num}"
