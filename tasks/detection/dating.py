"""When a rise began, which round raised the alarm first, and when the rise was over."""

import math

import numpy as np

from tasks.arrays import Floats
from tasks.detection.noise import FEWEST
from tasks.detection.scan import Cells, scan_curve

_PATIENCE = 3
"""Losses without an alarm that may lie inside one rise: an oscillation comes down in between."""


def first_alarm(z: Floats, cells: Cells, excess: Floats, top: int, significance: float) -> int:
    """Returns the index of the clearest cell at the first alarm of the rise that the cell `top` belongs to.

    An alarm is the end of a claimed cell, whose `excess` is above 0. Going back from `top`, alarms with at most
    `_PATIENCE` losses between them are one rise. Its first alarm is the earliest that the losses up to it raise by
    themselves: a curve that ends as flat as a model that has broken down makes its noise look small.
    """
    claimed = excess > 0
    ends = [int(cells.end[top])]
    for end in np.unique(cells.end[claimed & (cells.end < ends[0])])[::-1]:
        if ends[-1] - int(end) > _PATIENCE + 1:
            break
        ends.append(int(end))
    earlier = (end for end in ends[:0:-1] if end >= FEWEST)
    start = next((end for end in earlier if scan_curve(z[:end], significance).excess.max() > 0), ends[0])
    at_start = np.where(claimed & (cells.end == start), excess, -np.inf)
    return int(np.argmax(at_start))


def onset_of(z: Floats, cells: Cells, start: int, sd: float) -> int:
    """Returns the index of the first risen loss.

    It is the least-squares change point between the best level and the first alarm.
    Two shapes compete, with two parameters each: a step, and a line that leaves the level. A climb that ends in a spike
    is like neither: the losses before the change point belong to the rise too, if they lie clearly above the level, (1)
    each by more than an `sd` of the noise and (2) their mean by more than three of its standard errors.
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
    """Returns the index of the last risen loss.

    It is the last of the curve if the mean over A losses never comes back below half of the rise.
    """
    after, split, before = int(cells.after[top]), int(cells.split[top]), int(cells.before[top])
    level = np.convolve(z[:split], np.ones(before) / before, "valid").min()
    half = (level + z[split : split + after].mean()) / 2
    for end in range(split + after + 1, len(z) + 1):
        if z[end - after : end].mean() < half:
            return split + int(np.flatnonzero(z[split:end] > half)[-1])
    return len(z) - 1
