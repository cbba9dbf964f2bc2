"""What counts as a run that trains: plain numbers in, a decision out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.thresholds import HALF_AS_GOOD, STILL_SOUND

_FINAL = 3
"""Most rounds at the end of a replay whose mean val_loss is its final loss: one round alone is noisy."""


@dataclass(frozen=True)
class Course:
    """The rounds of one replay.

    Attributes:
        losses: val_loss after each round, nats per example; infinite where it is not finite, or no round was run.
        failures: clients that failed in these rounds, each round counted.
        ended: whether the run's settings would have ended it in these rounds.
    """

    losses: tuple[float, ...]
    failures: int
    ended: bool

    @property
    def final(self) -> float:
        """Mean val_loss of the last rounds; infinite if the replay ended."""
        return float("inf") if self.ended else float(np.mean(self.losses[-final_rounds(len(self.losses)) :]))


def final_rounds(num_rounds: int) -> int:
    """Returns over how many rounds the final loss is the mean: the last quarter, at least 1 and at most 3."""
    return max(1, min(_FINAL, num_rounds // 4))


def bar(chance_loss: float, start_loss: float) -> float:
    """Returns the loss below which a replay trains: chance, and about the loss of the model that it starts from."""
    return min(chance_loss, STILL_SOUND * start_loss) if np.isfinite(start_loss) else chance_loss


def early_bar(chance_loss: float, start_loss: float) -> float:
    """Returns the loss below which a replay trains that stops before the last round of the run.

    A model that starts above chance learns the class frequencies first. If the classes are unequal, that takes it many
    rounds. So the bar is half of the way from the first loss to chance. From a model below chance it is that of `bar`.
    """
    if not np.isfinite(start_loss) or start_loss <= chance_loss:
        return bar(chance_loss, start_loss)
    return (start_loss + chance_loss) / 2


def trains(course: Course, below: float) -> bool:
    """Returns whether a replay trains: it does not end, no client fails, and its final loss is lower than `below`."""
    return not course.ended and not course.failures and course.final < below


def effect_of(unchanged: Sequence[Course], changed: Sequence[Course], below: float) -> Effect:
    """Returns in which seeds the change lets the run train: 1 or 0 for each seed that does not train without it."""
    pairs = zip(unchanged, changed, strict=True)
    return Effect(tuple(float(trains(after, below)) for before, after in pairs if not trains(before, below)))


def good_enough(final: float, best: float, below: float) -> bool:
    """Returns whether a replay gets at least half as far below `below` as the best replay does.

    A change that only keeps the run alive would otherwise come before the change that lets it learn.
    """
    return below - final >= HALF_AS_GOOD * (below - best)
