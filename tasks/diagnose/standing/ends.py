"""How runs end, and whether one ends lower beyond its noise: plain numbers in, a decision out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.replay.effect import Effect, ln
from tasks.diagnose.standing.suspicion import Option
from tasks.diagnose.thresholds import AS_GOOD, ENDING, TAKEN_BACK, TUNED


@dataclass(frozen=True)
class Ends:
    """How a run ends with a change and without it, by seed.

    Attributes:
        without: (S,) hold-out loss at the end with nothing changed, nats per example.
        with_change: (S,) the same with the change.
    """

    without: tuple[float, ...]
    with_change: tuple[float, ...]

    @property
    def falls(self) -> tuple[float, ...]:
        """ln(loss without the change / loss with it), by seed."""
        return tuple(ln(a) - ln(b) for a, b in zip(self.without, self.with_change, strict=True))

    @property
    def fall(self) -> float:
        """Its mean over the seeds."""
        return float(np.mean(self.falls))

    @property
    def noise(self) -> float:
        """Standard deviation of the log loss over the seeds with nothing changed; NaN with one seed."""
        return noise_of(self.without)

    @property
    def effect(self) -> Effect:
        """The share of the excess that the change takes away, by seed: the fall over the mean fall."""
        return Effect(tuple(fall / self.fall for fall in self.falls)) if self.fall > 0 else Effect(())

    def beyond_noise(self, least: float) -> bool:
        """Whether the loss ends lower in every respect.

        1. By more than `least`, and by more than the noise of seeds.
        2. The mean over the seeds passes the test of every cause (`Effect.proven`), or every run with the change ends
           lower by more than TUNED than every run without it. Where the runs without it end anywhere, no share of
           their excess is certain, and yet all of them end higher.
        """
        apart = len(self.without) > 1 and ln(min(self.without)) - ln(max(self.with_change)) > TUNED
        return self.fall > max(least, self.noise) and (apart or self.effect.proven)


def noise_of(losses: Sequence[float]) -> float:
    """Returns the standard deviation of the log losses over the seeds; NaN with one seed."""
    return float(np.std([ln(loss) for loss in losses], ddof=1)) if len(losses) > 1 else np.nan


def ending_of(last: int) -> range:
    """Returns the rounds at the end of a run up to round `last`."""
    return range(max(1, last - ENDING + 1), last + 1)


def mean_loss(losses: Mapping[int, float], rounds: range) -> float:
    """Returns the geometric mean of the losses in some rounds, as far as they were measured; infinite if none was."""
    known = [ln(losses[at]) for at in rounds if at in losses]
    return float(np.exp(np.mean(known))) if known else np.inf


def mean_at_end(losses: Mapping[int, float]) -> float:
    """Returns the geometric mean of the last losses of a run, from its loss by round; infinite if there is none."""
    return mean_loss(losses, ending_of(max(losses, default=0)))


def needed(choice: bool) -> float:
    """Returns by how much the log loss must end lower at least, apart from its noise."""
    return TUNED if choice else AS_GOOD


def best_of(falls: Sequence[tuple[Option, float]]) -> Option:
    """Returns the most fitting of the options whose fall is at least TAKEN_BACK of the best; the best if none falls."""
    best = max(fall for _, fall in falls)
    return next(option for option, fall in falls if fall == best or fall >= TAKEN_BACK * best > 0)
