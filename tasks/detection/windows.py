"""The statistics of pairs of windows: how much higher the losses are after a split than before it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.detection.noise import SMALLER_HALF

Level = Literal["mean", "upper", "beside", "past", "jump"]
Pair = tuple[int, int, Level]
"""A, B, and the statistic:

- `mean`, `upper`: the mean or the upper quartile of the A losses after the split, minus the lowest mean of B losses in
  a row before the split, in units of the noise scale of the whole curve.
- `beside`: the mean of the A losses after the split, minus the mean of the B losses right before it, in units of the
  spread within these two windows.
- `past`: the mean of the A losses after the split, minus the mean of the later half of the B losses right before it, in
  units of the spread of the B losses around a line.
- `jump`: the start of a line through the A losses after the split, minus the end of a line through the B losses
  before it, in units of the spread around the two lines.
"""

KINDS = ("spike", "lasting", "beside", "past", "jump")
"""The kinds of pairs: one loss after the split, several losses (both `mean` or `upper`), and the other statistics. Each
kind has a law of its own. One loss has the heaviest tail, and in a common law it would hide the rises that last."""


def kind_of(pair: Pair) -> int:
    """Returns the place in `KINDS` of a pair of windows."""
    after, _, level = pair
    if level in KINDS:
        return KINDS.index(level)
    return KINDS.index("spike" if after == 1 else "lasting")


PRIOR_SPREAD = 3
"""Weight of the whole curve's noise in the spread within two windows, in degrees of freedom. Windows of 2 and 4 losses
can have a very small spread by chance."""
NEAR = 4
"""Most losses beside a split that show the level where the loss falls all the time."""
PRIOR_PAST = 2
"""The same for `past` and `jump`: the noise of the whole curve can be that of the rise itself."""


@dataclass(frozen=True)
class Line:
    """The line through each W losses in a row, by least squares: (draws, N - W + 1) each; of two losses, their mean.

    Attributes:
        mean: of the losses, which is the line's value in the middle.
        slope: per round.
        rest: the sum of squares that the line does not explain.
    """

    mean: Floats
    slope: Floats
    rest: Floats


Lines = dict[int, Line]
"""W -> the lines through each W losses in a row."""


def lines_along(curves: Floats) -> Lines:
    """Returns W -> its lines, for W = 2, 4, 8 and 16 up to N.

    Sums over 2W losses are those of two neighbours of W. So the cost does not grow with W, and the sums lose no digits
    to losses that are far away, as differences of cumulative sums would.
    """
    level = curves.mean(axis=1, keepdims=True)
    total = curves - level
    first, square = np.zeros_like(total), total**2  # Σ t z_t with t = 0 … W - 1, and Σ z_t²
    found, width = {}, 1
    while 2 * width <= min(16, curves.shape[1]):
        first = first[:, :-width] + first[:, width:] + width * total[:, width:]
        total, square = total[:, :-width] + total[:, width:], square[:, :-width] + square[:, width:]
        width *= 2
        centred = first - (width - 1) / 2 * total
        slope = centred / (width * (width**2 - 1) / 12) if width > 2 else np.zeros_like(total)
        rest = np.maximum(square - total**2 / width - slope * centred, 0.0)
        found[width] = Line(total / width + level, slope, rest)
    return found


def _widths(n: int, most: int) -> list[int]:
    return [width for width in (1, 2, 4, 8, 16, 32) if width <= max(2, min(most, n // 3))]


def freedom_of(pair: Pair) -> int:
    """Returns the degrees of freedom of a statistic that is Student's t; 0 for `mean` and `upper`, which are not."""
    a, b, level = pair
    if level == "beside":
        return a + b - 2 + PRIOR_SPREAD
    if level == "past":
        return b - 2 + PRIOR_PAST
    if level == "jump":
        return a + b - (4 if a > 2 else 3) + PRIOR_PAST
    return 0


def variance_of(pair: Pair) -> float:
    """Returns the variance of the rise in a statistic that is Student's t, over the variance of one loss.

    The rise is the difference of two means, or, for `jump`, of the ends of two lines. At the end of a line through W
    losses, the variance is 1 / W + (W / 2)² / (W (W² - 1) / 12).
    """
    a, b, level = pair
    if level == "jump":
        return sum(1 / width + (3 * width / (width**2 - 1) if width > 2 else 0) for width in (a, b))
    return 1 / a + 1 / (b // 2 if level == "past" else b)


def as_normal(pair: Pair, found: Floats) -> Floats:
    """Returns values of the statistic of `pair` as normal deviates: Student's t is converted, the others are kept."""
    freedom = freedom_of(pair)
    return deviate(found, freedom) if freedom else found


def statistics(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields each pair, its first split, and its statistic (draws, splits) from there on, for curves (draws, N).

    Those of `beside`, `past` and `jump` are Student's t. `as_normal` increases with t, so that only the largest of
    many needs to be converted: to convert all takes as long as all else.
    """
    lines = lines_along(curves)
    yield from rises(curves, scale)
    yield from beside(curves, scale)
    yield from past(curves, scale, lines)
    yield from jumps(curves, scale, lines)


def rises(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields the statistics `mean` and `upper` in the form of `statistics`."""
    n = curves.shape[1]
    total = np.pad(np.cumsum(curves, axis=1), ((0, 0), (1, 0)))
    best = {
        b: np.minimum.accumulate((total[:, b:] - total[:, :-b]) / b, axis=1)  # column i: windows within z_1 … z_(i+b)
        for b in _widths(n, 16)
        if b > 1
    }
    levels: dict[tuple[int, Level], Floats] = {(a, "mean"): (total[:, a:] - total[:, :-a]) / a for a in _widths(n, 32)}
    levels |= {(a, "upper"): _upper_quartiles(curves, a) for a in _widths(n, 16) if a >= 4}
    for (a, level_after), after in levels.items():
        for b, level in best.items():
            first = max(3, b)
            if first <= n - a:
                rise = after[:, first:] - level[:, first - b : n - a - b + 1]
                yield (a, b, level_after), first, rise / scale[:, None]


def beside(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields the statistic `beside` in the form of `statistics`: Student's t.

    The noise of the whole curve counts as `PRIOR_SPREAD` more degrees of freedom. After a rise the losses often vary
    more, so a noise scale of the whole curve hides the rise; 8 losses on either side of a split still show it.
    """
    n = curves.shape[1]
    sd = scale / (SMALLER_HALF * math.sqrt(6))
    # Minus the curve's mean, so that the sums of squares lose no digits.
    around = curves - curves.mean(axis=1, keepdims=True)
    total, square = (np.pad(np.cumsum(part, axis=1), ((0, 0), (1, 0))) for part in (around, around**2))
    for a in (2, 4, 8, 16):
        for b in (4, 8, 16):
            if max(a, b) > n // 2:
                continue
            split = np.arange(b, n - a + 1)
            after = (total[:, split + a] - total[:, split]) / a
            before = (total[:, split] - total[:, split - b]) / b
            inner = square[:, split + a] - square[:, split - b] - a * after**2 - b * before**2
            pair: Pair = (a, b, "beside")
            variance = (np.maximum(inner, 0.0) + PRIOR_SPREAD * sd[:, None] ** 2) / freedom_of(pair)
            yield pair, b, (after - before) / np.sqrt(variance * variance_of(pair))


def past(curves: Floats, scale: Floats, lines: Lines) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields the statistic `past` in the form of `statistics`: Student's t.

    The noise is the spread of the B losses before the split around a line that is fitted to them, so neither an erratic
    loss after the rise nor a steady descent before it counts as noise. The noise of the whole curve counts as
    `PRIOR_PAST` more degrees of freedom. A level that falls lowers the statistic, whatever the shape of the descent.
    """
    n = curves.shape[1]
    sd = scale / (SMALLER_HALF * math.sqrt(6))
    total = np.pad(np.cumsum(curves, axis=1), ((0, 0), (1, 0)))
    for b, line in lines.items():
        if not 4 <= b <= n - 2:
            continue
        later = b // 2
        spread = line.rest + PRIOR_PAST * sd[:, None] ** 2  # column i: the losses i … i + b - 1
        for a in (1, 2, 4, 8):
            if a > min(max(1, n // 3), n - b):
                continue
            split = np.arange(b, n - a + 1)
            rise = (total[:, split + a] - total[:, split]) / a - (total[:, split] - total[:, split - later]) / later
            pair: Pair = (a, b, "past")
            yield pair, b, rise / np.sqrt(spread[:, split - b] / freedom_of(pair) * variance_of(pair))


def jumps(curves: Floats, scale: Floats, lines: Lines) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields the statistic `jump` in the form of `statistics`: Student's t.

    A loss that falls from round to round falls within the windows, too, and this hides a rise from all other
    statistics. So this one has a line on either side of the split (a mean, of 2 losses). Where a descent slows down,
    lines jump too. So a jump counts only if the losses rise by at least half as much, from the mean of the up to NEAR
    losses before the split to the mean of the up to NEAR losses after it. The noise of the whole curve counts as
    `PRIOR_PAST` more degrees of freedom.
    """
    n = curves.shape[1]
    sd = scale / (SMALLER_HALF * math.sqrt(6))
    for a in (2, 4, 8, 16):
        for b in (4, 8, 16):
            if max(a, b) > 2 * n // 3 or a + b > n:
                continue
            pair: Pair = (a, b, "jump")
            before, after, num = lines[b], lines[a], n - a - b + 1  # column i: the split after loss i + b - 1
            near_before, near_after = lines[min(b, NEAR)], lines[min(a, NEAR)]
            inner = before.rest[:, :num] + after.rest[:, b:]
            jump = (after.mean - after.slope * (a / 2))[:, b:] - (before.mean + before.slope * (b / 2))[:, :num]
            spread = (inner + PRIOR_PAST * sd[:, None] ** 2) / freedom_of(pair)
            t = jump / np.sqrt(spread * variance_of(pair))
            first = b - min(b, NEAR)
            own = near_after.mean[:, b : b + num] - near_before.mean[:, first : first + num]
            yield pair, b, np.where(own >= jump / 2, t, np.minimum(t, 0.0))


def deviate(t: Floats, freedom: int | NDArray[np.int64]) -> Floats:
    """Returns the normal deviate that is as improbable as Student's t (Wallace 1959).

    The error is at most 0.03 for deviates up to 4 and 7 or more degrees of freedom.
    """
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    found: Floats = shrink * np.sign(t) * np.sqrt(freedom * np.log1p(t**2 / freedom))
    return found


def student(deviate: float, freedom: int) -> float:
    """Returns Student's t of a normal deviate above 0: the inverse of `deviate`."""
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    return math.sqrt(freedom * math.expm1(min(500.0, (deviate / shrink) ** 2 / freedom)))


def _upper_quartiles(curves: Floats, width: int) -> Floats:
    """Returns the (width / 4 + 1)-th largest of every `width` losses in a row.

    It is high for the peaks of an oscillation, but one outlier does not change it.
    """
    kth = width - width // 4 - 1
    return np.partition(np.lib.stride_tricks.sliding_window_view(curves, width, axis=1), kth, axis=2)[:, :, kth]
