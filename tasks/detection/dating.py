"""The dates of a rise: its first loss, its first alarm, its last loss."""

import math

import numpy as np

from tasks.arrays import Floats
from tasks.detection.noise import FEWEST
from tasks.detection.scan import Cells, scan_curve

_PATIENCE = 3
"""Most losses in a row without an alarm inside one rise. An oscillation comes down between its alarms."""


def first_alarm(
    z: Floats, cells: Cells, excess: Floats, top: int, significance: float, splits: tuple[int, ...] | None = None
) -> int:
    """Returns the index of the cell with the largest `excess` at the first alarm of the rise that contains `top`.

    A cell is claimed if its `excess` is above 0. The end of a claimed cell is an alarm. Going back from the end of the
    cell `top`, two alarms belong to the same rise if at most `_PATIENCE` losses lie between them. The first alarm is
    the earliest of them for which a scan of only the losses up to it also claims a rise. If there is none, the first
    alarm is the end of `top`.

    Without this condition an alarm can be too early. A model that has broken down ends the curve with a flat line. Then
    the noise of the whole curve looks small, and ordinary losses before the rise look like a rise. `splits` as for
    `scan_curve`.
    """
    claimed = excess > 0
    ends = [int(cells.end[top])]
    for end in np.unique(cells.end[claimed & (cells.end < ends[0])])[::-1]:
        if ends[-1] - int(end) > _PATIENCE + 1:
            break
        ends.append(int(end))
    earlier = (end for end in ends[:0:-1] if end >= FEWEST)
    start = next((end for end in earlier if _claims(z[:end], significance, splits)), ends[0])
    at_start = np.where(claimed & (cells.end == start), excess, -np.inf)
    return int(np.argmax(at_start))


def _claims(z: Floats, significance: float, splits: tuple[int, ...] | None) -> bool:
    return bool((scan_curve(z, significance, splits).excess > 0).any())


def onset_of(z: Floats, cells: Cells, start: int, sd: float) -> int:
    """Returns the index of the first risen loss, given the cell `start` of the first alarm.

    1. The level is the lowest mean of B losses in a row before the split of `start` (of equal means, the last).
    2. A change point is fitted by least squares to the losses from this level to the first alarm. Two shapes compete,
       with two parameters each: a step, and a line that leaves the level. If no fitted shape rises, the change point is
       the last loss of `start`.
    3. A climb that ends in a spike fits neither shape. So earlier losses belong to the rise too if (1) each is above
       the level by more than `sd`, the standard deviation of the noise, and (2) their mean is above the level by more
       than three of its standard errors.
    """
    before, end = int(cells.before[start]), int(cells.end[start])
    levels = np.convolve(z[: cells.split[start]], np.ones(before) / before, "valid")
    reference = len(levels) - 1 - int(np.argmin(levels[::-1]))
    span = z[reference:end]
    best, onset = np.inf, end - 1
    for change in range(before, len(span)):
        since = np.maximum(0, np.arange(len(span)) - change + 1)
        for shape in (np.minimum(since, 1), since):
            slope, level = np.polyfit(shape, span, 1)
            misfit = float(((span - level - slope * shape) ** 2).sum())
            if slope > 0 and misfit < best * (1 - 1e-9):
                best, onset = misfit, reference + change
    level, earliest = float(levels[reference]), onset
    for first in range(onset - 1, reference + before - 1, -1):
        above = z[first:onset] - level
        if above[0] <= sd:
            break
        if above.mean() > 3 * sd * math.sqrt(1 / len(above) + 1 / before):
            earliest = first
    return earliest


def last_risen(z: Floats, cells: Cells, top: int) -> int:
    """Returns the index of the last risen loss of the rise that the cell `top` shows.

    Half of the rise is the middle between the lowest level before the split and the mean of the A losses after it. The
    rise ends when the mean of A losses in a row falls below this middle; the result is the last loss above it until
    then. If the mean never falls so low, the result is the last loss of the curve.
    """
    after, split, before = int(cells.after[top]), int(cells.split[top]), int(cells.before[top])
    level = np.convolve(z[:split], np.ones(before) / before, "valid").min()
    half = (level + z[split : split + after].mean()) / 2
    for end in range(split + after + 1, len(z) + 1):
        if z[end - after : end].mean() < half:
            above = np.flatnonzero(z[split:end] > half)
            return split + int(above[-1]) if len(above) else split + after - 1
    return len(z) - 1
