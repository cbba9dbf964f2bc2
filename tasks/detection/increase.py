"""Whether the loss rose, from which round and until which, with a known probability of a false claim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.arrays import Floats
from tasks.detection.dating import first_alarm, last_risen, onset_of
from tasks.detection.noise import FEWEST, series
from tasks.detection.scan import scan_curve
from tasks.detection.windows import KINDS, NEAR
from tasks.finite import LARGEST

Rounds = NDArray[np.int64]


@dataclass(frozen=True)
class Increase:
    """A rise of the loss, or none.

    Attributes:
        detected: whether the loss rose.
        round: the first round of the rise.
        until: the last round of the rise. It is the last round of the run if the loss did not come halfway back.
        loss_before: mean loss of the rounds right before the rise: B rounds (2 to 16), or at most 4 rounds if the loss
            becomes not finite without a climb; None if the first loss is not finite.
        loss_after: mean loss of the rounds in which the rise is clearest; None if the loss is not finite.
        confidence: 1 - the probability that noise alone rises as clearly anywhere on the curve; 1 if the loss is not
            finite; 0 if there are too few losses.
        alarm: the first round after which the claim was possible. A live guard would have acted after this round.
        kind: `level` for a rise beyond noise, `not_finite` for a loss that is NaN, infinite or beyond 1e100.
        noise: standard deviation of a round's noise around the level, as a fraction of the loss.
        correlation: lag-1 correlation of the noise that the test assumes.
        visible: the smallest lasting rise that the test could have claimed, as a fraction of the loss; None if it could
            have claimed none.
        relative: false if some loss is not positive. Then `noise` and `visible` are in units of the loss.
    """

    detected: bool
    round: int | None = None
    until: int | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    confidence: float = 0.0
    alarm: int | None = None
    kind: Literal["none", "level", "not_finite"] = "none"
    noise: float | None = None
    correlation: float | None = None
    visible: float | None = None
    relative: bool = True


def find_increase(
    rounds: ArrayLike, losses: ArrayLike, significance: float, onsets: Sequence[int] | None = None
) -> Increase:
    """Returns the clearest rise of the losses (N,) at `rounds` (N,), ascending.

    If it is known from elsewhere when a rise can begin, `onsets` are these rounds. The test is then sharper, because it
    looks nowhere else. They must not be chosen by these losses.

    **Null hypothesis.** loss = level · noise, and the level never rises. `significance` is the probability that a curve
    without a rise is claimed anywhere, over all windows together.

    **Test.** Five kinds of statistics of the log loss compare the A losses after a split with losses before it. Each
    takes its largest value over all splits and pairs of windows (`windows.py` has the exact definitions):

    1. `spike` (A = 1) and 2. `lasting` (A = 2 … 32): the level after the split minus the lowest mean of B losses in a
       row before it, over the noise scale. The level is a mean or an upper quartile. The noise scale is the mean of the
       smaller half of the curve's absolute second differences: neither a steady descent nor a rise that disturbs less
       than half of the curve changes it much.
    3. `beside`: Student's t of the A losses after the split against the B losses right before it, with the spread
       within the two windows.
    4. `past`: the same, with the spread of the losses before the split only. It finds an erratic loss.
    5. `jump`: Student's t of the jump between two lines, one on either side of the split. It finds a rise in a loss
       that falls all the time.

    Each pair of windows is standardised by its own null law, and each kind has a p-value. The smallest of the five
    p-values has a law of its own, which gives the confidence. A falling level lowers every statistic but `jump` and
    raises the noise, so a flat level is the least favourable case of the null hypothesis. Its law is simulated:
    Student-t(5) noise with the correlation that is estimated from this curve. `jump` is limited by what the losses rose
    in fact (see `kink` below).

    **Assumptions.** (1) The noise is proportional to the loss and has the same law in all rounds. (2) Its lag-1
    correlation is at most 0.6 (0.8 from 60 losses on). (3) Its tails are no heavier than t(5). A spike far above the
    noise of its own run is a rise, even if only the draw of the clients caused it.

    **Limiting cases.** No claim if (1) there are fewer than 6 losses, (2) all losses are equal, (3) the losses only
    fall, (4) `significance` is below 2 / 40,001, which the simulation cannot resolve, or (5) the mean loss of the rise
    is not above the loss before, by more than their noise and in three digits. A loss that is not finite (or beyond
    1e100) is a rise from that round on, or from the start of the climb that leads to it. If some loss is not positive,
    the losses are tested without the logarithm.

    **False alarms measured** at significance 0.01 (`tests/benchmarks/detection.py`; 500 curves per case; noise of 5 %;
    N = 8, 12, 30 and 100; the worst N). "Falling" is an exponential, a power law, or `kink`: a steep line, then flat.
    Percent of the curves, flat / falling: Gaussian noise 0.2 / 0.2; t(5) 0.8 / 0.4; AR(1) with ρ = 0.5: 4.2 / 1.6. Up
    to N = 12, at most 0.6 % of any case.

    **Power measured** at significance 0.01 (the same script; 100 curves per case; noise of 5 %, Gaussian or AR(1) with
    ρ = 0.5; rise in any round from the fourth on). Percent of the rises that were found, on a loss that falls by 55 %
    over the run / on a power law that falls by 94 % in 30 rounds; in parentheses if the round is known (`onsets`):

    - 0.42 → 0.60, lasting: N = 30: 74-76 (98-100) / 16-25 (46-52); N = 12: 4-13 (15-35) / 0 (0-5).
    - 0.28 → 0.39-0.66 for eight rounds: N = 30: 86-87 (100) / 43-50 (80-90); N = 12: 21-38 (46-60) / 7-12 (21-32).
    - Twice the loss for one round: N = 30: 41-72 (100) / 13-38 (87-97); N = 12: 14-42 (73-97) / 0-5 (25-53).
    - 0.39 → 0.81 → 2.1 in the last rounds: N = 30: 100; N = 12: 96-100; N = 8: 40-90 (69-98).

    **Live.** The function can be called after every round with the losses so far. These are many tests, so false alarms
    add up.

    Raises:
        ValueError: `rounds` and `losses` are not two arrays (N,) of the same length.
    """
    at, values = np.asarray(rounds, dtype=np.int64), np.asarray(losses, dtype=np.float64)
    if at.shape != values.shape or at.ndim != 1:
        raise ValueError(f"rounds and losses must be two arrays (N,), got {at.shape} and {values.shape}")
    broken = np.flatnonzero(~(np.abs(values) <= LARGEST))
    if not len(broken):
        return _rise(at, values, significance, onsets)
    first = int(broken[0])
    climb = _rise(at[:first], values[:first], significance)
    return _not_finite(at, values, first, climb)


def _not_finite(at: Rounds, values: Floats, first: int, climb: Increase) -> Increase:
    later = np.flatnonzero(np.abs(values[first:]) <= LARGEST)
    last = first + int(later[0]) - 1 if len(later) else len(values) - 1
    broken = replace(climb, detected=True, until=int(at[last]), loss_after=None, confidence=1.0, kind="not_finite")
    if climb.detected and climb.until == at[first - 1]:
        return broken
    before = values[max(0, first - 4) : first]
    return replace(
        broken, round=int(at[first]), alarm=int(at[first]), loss_before=float(before.mean()) if len(before) else None
    )


def _rise(at: Rounds, values: Floats, significance: float, onsets: Sequence[int] | None = None) -> Increase:
    splits = None if onsets is None else tuple(np.unique(np.searchsorted(at, onsets)).tolist())
    if len(values) < FEWEST:
        return Increase(detected=False)
    z = series(values)
    scanned = scan_curve(z, significance, splits)
    if not len(scanned.excess):
        return Increase(detected=False)
    noise, law, cells, excess = scanned.noise, scanned.law, scanned.cells, scanned.excess
    top = int(np.argmax(excess))
    highest = {kind: float(cells.height[cells.kind == kind].max()) for kind in np.unique(cells.kind).tolist()}
    least = law.least_rise(significance, noise.sd, noise.scale)
    calm = Increase(
        detected=False,
        confidence=1 - min(law.p_value(height, kind) for kind, height in highest.items()),
        noise=noise.sd,
        correlation=noise.correlation,
        visible=_visible(values, least),
        relative=bool((values > 0).all()),
    )
    if not excess[top] > 0:
        return calm
    start = first_alarm(z, cells, excess, top, significance, splits)
    onset = onset_of(z, cells, start, noise.sd) if onsets is None else int(cells.split[top])
    last = last_risen(z, cells, top)
    before = values[max(0, onset - int(cells.before[start])) : onset]
    begin, end = max(onset, int(cells.split[top])), int(cells.end[top])
    after = values[begin : min(end, begin + NEAR) if KINDS[cells.kind[top]] == "jump" else end]
    if not is_higher(after, before, noise.sd):
        return calm
    return replace(
        calm,
        detected=True,
        round=int(at[onset]),
        until=int(at[last]),
        loss_before=float(before.mean()),
        loss_after=float(after.mean()),
        alarm=int(at[cells.end[start] - 1]),
        kind="level",
    )


def is_higher(after: Floats, before: Floats, sd: float) -> bool:
    """Returns whether the mean of `after` is above the mean of `before`, by more than the noise and in three digits.

    `sd` is the standard deviation of a loss, as a fraction (in units of the loss if a mean is not positive). The test
    can compare other losses than the ones that are given as the loss before and after the rise.
    """
    if not len(after) or not len(before):
        return False
    high, low = float(after.mean()), float(before.mean())
    gap = math.log(high / low) if min(high, low) > 0 else high - low
    return gap > sd * math.sqrt(1 / len(after) + 1 / len(before)) and float(f"{high:.3g}") > float(f"{low:.3g}")


def _visible(values: Floats, least: float) -> float | None:
    if not (values > 0).all():
        return least if math.isfinite(least) else None
    return math.expm1(least) if least < 10 else None  # exp(10) is a factor of 22,000: no loss rises so far
