"""Two runs beside each other: how they end, whether one is worse beyond the noise of seeds, what each replay showed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.replay.effect import Effect, ln
from tasks.diagnose.standing.ends import noise_of

NOT_REPLAYED = "the budget ended before its replay"
TOO_LITTLE = "less than half of the difference of the losses goes away"
NOT_CONFIRMED = "other seeds do not confirm it"
NO_SEEDS = "the budget ended before other seeds confirmed it"


@dataclass(frozen=True)
class Outcome:
    """What taking back one or several differences showed.

    Attributes:
        differences: that were taken back together.
        by_seed: hold-out loss at the end by seed, nats per example, beyond the causes that were proven before.
        curve: hold-out loss by round, mean over the seeds, nats per example.
        beyond: the differences that were taken back before.
        effect: the share of the gap that goes away.
        why: why it is no cause; empty if it is one.
    """

    differences: tuple[Difference, ...]
    by_seed: tuple[float, ...]
    curve: tuple[float, ...]
    beyond: tuple[Difference, ...]
    effect: Effect
    why: str = ""

    @property
    def ends_at(self) -> float:
        """Geometric mean over the seeds."""
        return mean_over_seeds(self.by_seed)


@dataclass(frozen=True)
class Comparison:
    """This run beside another one.

    Attributes:
        this: hold-out loss at the end by seed, nats per example: geometric mean of the last rounds.
        other: the same of the other run, with the hold-out data of this one.
        curve: hold-out loss by round of this run, mean over the seeds.
        worse: whether this run ends higher beyond the noise of seeds.
        rounds: at the end of this run, first and last.
        causes: proven, the first one first.
        ruled_out: taken back in a replay, and no cause.
        not_finished: of which it is not known, each with its reason.
        spent: rounds of replays.
        allowed: rounds that they may take.
    """

    this: tuple[float, ...]
    other: tuple[float, ...]
    curve: tuple[float, ...]
    worse: bool
    rounds: tuple[int, int]
    causes: tuple[Outcome, ...] = ()
    ruled_out: tuple[Outcome, ...] = ()
    not_finished: tuple[Outcome, ...] = ()
    spent: int = 0
    allowed: int = 0

    @property
    def loss(self) -> float:
        """Of this run, geometric mean over the seeds."""
        return mean_over_seeds(self.this)

    @property
    def reference(self) -> float:
        """Of the other run, geometric mean over the seeds."""
        return mean_over_seeds(self.other)

    @property
    def noise(self) -> float:
        """Standard deviation of the other run's log loss over its seeds, times its loss: nats per example."""
        return noise_of(self.other) * self.reference


def mean_over_seeds(losses: Sequence[float]) -> float:
    """Returns the geometric mean."""
    return float(np.exp(np.mean([ln(loss) for loss in losses])))


def is_worse(this: Sequence[float], other: Sequence[float], significance: float) -> bool:
    """Returns whether a run ends with a higher loss than another one, beyond the noise of seeds.

    One-sided t-test of Welch (1947) of the log losses over the seeds. A run with one known loss is taken to vary like
    the other one. If no seed differs from another, any higher loss is worse.

    Args:
        this: losses at the end by seed, nats per example.
        other: the same of the other run.
        significance: the probability that one of two equal runs is called worse.
    """
    a, b = ([ln(loss) for loss in losses] for losses in (this, other))
    gap = float(np.mean(a) - np.mean(b))
    of_both = [float(np.var(each, ddof=1)) for each in (a, b) if len(each) > 1]
    va, vb = (
        (float(np.var(each, ddof=1)) if len(each) > 1 else max(of_both, default=0.0)) / len(each) for each in (a, b)
    )
    if gap <= 0 or va + vb == 0:
        return gap > 0
    parts = [(v, len(each) - 1) for v, each in ((va, a), (vb, b)) if v > 0 and len(each) > 1]
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / degrees for v, degrees in parts)
    return bool(gap / np.sqrt(va + vb) > student.isf(significance, freedom))
