"""The share of a rise that a change removes, and its confidence: the losses of two replays side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.thresholds import LOWEST_SHARE, PROVEN, SURE, WORST

_T95 = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132}
"""One-sided 95 % quantiles of Student's t by the number of seeds; degrees of freedom one less."""


@dataclass(frozen=True)
class Effect:
    """The share of a rise that a change takes away.

    Attributes:
        by_seed: (S,) share by seed: 0 no effect, 1 the loss stays at its level before the rise, above 1 it falls.
    """

    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds, each share at most 1.

        Above 1 the loss falls on as it did before the rise. That is no reason to doubt the effect.
        """
        return float(np.mean(self._capped))

    @property
    def low(self) -> float:
        """Lower one-sided 95 % bound of the mean by Student's t; minus infinity with one seed, which has no spread."""
        number = len(self.by_seed)
        if number < 2:
            return -np.inf
        return float(self.mean - _T95[number] * self._capped.std(ddof=1) / np.sqrt(number))

    @property
    def proven(self) -> bool:
        """Whether the change removes the rise: the mean is at least PROVEN, and its lower bound at least SURE."""
        return bool(self.by_seed) and self.mean >= PROVEN and self.low >= SURE

    @property
    def _capped(self) -> Floats:
        return np.clip(np.array(self.by_seed), LOWEST_SHARE, 1.0)


def ln(loss: float) -> float:
    """Returns the logarithm of a loss that counts as at most WORST and at least 1 over it, also if it is not finite."""
    return float(np.log(np.clip(loss if np.isfinite(loss) else WORST, 1 / WORST, WORST)))


def height(losses: Sequence[float], level: float) -> float:
    """Returns the mean of ln(loss / level), each loss at most 10,000 times the level; losses and level > 0.

    A logarithm, since a loss that explodes is otherwise brought back by anything that keeps it from exploding twice.
    """
    values = np.array([loss if np.isfinite(loss) else np.inf for loss in losses], np.float64)
    return float(np.log(np.clip(values / level, 1 / WORST, WORST)).mean())


def removed(without: Sequence[float], with_change: Sequence[float], level: float) -> float:
    """Returns 1 - height(with the change) / height(without); NaN where the losses without it are not above `level`."""
    rise = height(without, level)
    return 1 - height(with_change, level) / rise if rise > 0 else float("nan")
