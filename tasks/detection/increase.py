"""Did the loss rise, from which round, until which: a claim with a known probability of being false."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.arrays import Floats
from tasks.detection.dating import first_alarm, last_risen, onset_of
from tasks.detection.noise import FEWEST, series
from tasks.detection.scan import scan_curve
from tasks.finite import LARGEST

Rounds = NDArray[np.int64]


@dataclass(frozen=True)
class Increase:
    """A rise of the loss, or none.

    Attributes:
        detected: whether the loss rose.
        round: the first round of the rise.
        until: its last round: the last of the run where the loss did not come halfway back.
        loss_before: mean loss of the last rounds before it, as many as the window that gave the level (1 to 16).
        loss_after: mean loss where the rise shows most clearly; None where the loss is not finite.
        confidence: 1 - the probability that noise alone rises as clearly anywhere on the curve; 1 for not finite.
        alarm: the round whose loss first made the claim possible, which is when a live guard would have fired.
        kind: `level` for a rise beyond noise, `not_finite` for a loss that is NaN or infinite.
        noise: sd of a round's noise around the level, as a fraction of the loss.
        correlation: lag-1 correlation of the noise that the claim allows for.
        visible: the least lasting rise that could have been claimed, as a fraction of the loss; None if there is none.
        relative: false where the losses are not all positive: `noise` and `visible` are in their units then.
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


def find_increase(rounds: ArrayLike, losses: ArrayLike, significance: float) -> Increase:
    """Returns the clearest rise of the losses (N,) at `rounds` (N,), ascending.

    **Test.** H0: loss = level · noise, and the level never rises. Two statistics of the log loss, each with half of the
    significance. The first is the largest, over all splits and pairs of windows, of (level of the A losses after the
    split - least mean of B losses in a row before it) / noise scale, A in 1 … 32 and B in 2 … 16 by doubling, at most
    N / 3, the level a mean or an upper quartile. The noise scale is taken from the smaller half of the curve's second
    differences, which neither a steady descent nor a rise reaches while it disturbs less than half of the curve. The
    second is Student's t of the A losses after a split against the B right before it, A in 2 … 16 and B in 4 … 16, at
    most N / 2, with the spread within these windows: it finds lasting rises after which the loss goes up and down. Each
    pair is standardised by its own null law. Under H0 a falling level only lowers every numerator and raises the noise,
    so that a flat level is the least favourable case, and its law is simulated: Student-t(5) noise, with the
    correlation estimated from this curve. `significance` is thus the probability of any claim on the whole curve, all
    windows together.

    **Assumptions.** Noise in proportion to the loss and alike in all rounds; lag-1 correlation at most 0.6 (0.8 from 60
    losses on); tails no heavier than t(5). A spike far beyond the noise of its own run is a rise, also if nothing but
    the draw of the clients caused it.

    **Limiting cases.** Fewer than 8 losses, equal losses, falling losses: no claim. A loss that is not finite (or
    beyond 1e100) is a rise from that round, or from the start of the climb that leads there. significance below
    1 / 40,001 is not resolved: no claim. Losses that are not all positive are tested without the logarithm.

    **False alarms measured** at significance 0.01 (500 curves a cell, N = 10 … 200, the worst N; falling: exponential
    or power law down to 1/8): Gaussian 0.4 % flat and 0.0 % falling, t(5) 0.8 and 0.2 %, AR(1) 0.5 5.6 and 0.2 %; so
    it is strict with independent noise. Outside of the assumptions: exponential (skewed) noise 5.8 and 3.2 %, AR(1)
    0.8 18.8 and 7.8 %, noise that stays while the loss falls to 1/8: Gaussian 0.6, t(5) 3.2, AR(1) 0.5 4.6,
    skewed 12.8 %. Most of these grow with N: up to N = 30, falling curves were claimed in at most 0.8 %, flat ones in
    0.8 % with independent noise, 2.4 % with skewed and 4.2 % with AR(1) 0.5 noise.

    **Power measured** (800 curves a cell, Gaussian to AR(1) 0.5; heights in sd of the noise; rise at 60 % of N = 30 /
    100 rounds): step of 20 found in 100 / 100 %, of 10 in 99 / 100 %, of 5 in 39-45 / 70-98 %; spike of one round of
    20 in 77-98 / 97-100 %; three rounds of 10 in 60-76 / 73-98 %; climb to 10 in 64-70 / 80-99 %, to 20 in 99-100 /
    100 %; oscillation that grows to 20 in 48-87 / 97-100 %. With N = 10, a step of 20 in 60-80 % only. Found steps of
    10 and more and spikes of 20 were dated to their very round in 99 %; 95 % of the climbs at most 5 / 11 rounds late;
    an oscillation is dated where it leaves the noise.

    **Live.** May be called after every round with the losses so far, which is many tests, so false alarms add up: over
    runs of 30 rounds (150 curves a cell) flat and falling: Gaussian 0 and 0 %, t(5) 1 and 0 %, AR(1) 0.5 8 and 0 %,
    skewed 4 and 0 %. Of 40 steps of 20 after 18 of 30 rounds, half were claimed in their very round and 95 % at most 1
    round later; of 10, half at most 1 and 95 % at most 3 rounds later.

    Raises:
        ValueError: rounds and losses are not two arrays of one length.
    """
    at, values = np.asarray(rounds, dtype=np.int64), np.asarray(losses, dtype=np.float64)
    if at.shape != values.shape or at.ndim != 1:
        raise ValueError(f"rounds and losses must be two arrays (N,), got {at.shape} and {values.shape}")
    broken = np.flatnonzero(~(np.abs(values) <= LARGEST))
    if not len(broken):
        return _rise(at, values, significance)
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


def _rise(at: Rounds, values: Floats, significance: float) -> Increase:
    if len(values) < FEWEST:
        return Increase(detected=False)
    z = series(values)
    scanned = scan_curve(z, significance)
    noise, law, cells, excess = scanned.noise, scanned.law, scanned.cells, scanned.excess
    top = int(np.argmax(excess))
    highest = [float(cells.height[cells.beside == beside].max()) for beside in (False, True)]
    least = law.least_rise(significance, noise.sd, noise.scale)
    calm = Increase(
        detected=False,
        confidence=1 - min(law.p_value(highest[beside], beside) for beside in (False, True)),
        noise=noise.sd,
        correlation=noise.correlation,
        visible=_visible(values, least),
        relative=bool((values > 0).all()),
    )
    if not excess[top] > 0:
        return calm
    start = first_alarm(z, cells, excess, top, significance)
    onset, last = onset_of(z, cells, start, noise.sd), last_risen(z, cells, top)
    before = values[max(0, onset - int(cells.before[start])) : onset]
    after = values[max(onset, int(cells.split[top])) : int(cells.end[top])]
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


def _visible(values: Floats, least: float) -> float | None:
    if not (values > 0).all():
        return least if math.isfinite(least) else None
    return math.expm1(least) if least < 10 else None  # a factor beyond 22,000 is none that a loss could show
