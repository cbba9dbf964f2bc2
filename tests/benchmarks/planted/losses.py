"""Compares the losses of runs, in units of ln(loss)."""

import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

REAL = 0.1
"""ln of the ratio of two losses from which on a planted cause did harm. See `measure.py`."""
WORST = 1e6
"""The loss that is used if a loss is not finite, so that the mean of the logarithms is finite."""
LAST = 5
"""Rounds at the end of a run whose mean loss is compared."""


def finite(loss: float) -> float:
    """Returns the loss, or WORST if it is larger or not a number."""
    return WORST if math.isnan(loss) else min(loss, WORST)


def at_end(losses: Sequence[float]) -> float:
    """Returns the mean of the last LAST losses."""
    return float(np.mean(losses[-LAST:]))


def end_gap(losses: Sequence[float], twin: Sequence[float]) -> float:
    """Returns ln of the ratio of the two means at the end."""
    ours, twins = (max(at_end([finite(loss) for loss in each]), 1e-9) for each in (losses, twin))
    return math.log(ours / twins)


def gap(losses: Sequence[float], twin: Sequence[float]) -> float:
    """Returns the mean over the rounds of ln(loss / the twin's loss). A loss that is missing or over WORST is WORST."""
    return float(np.mean([log_of(a) - log_of(b) for a, b in zip_longest(losses, twin)]))


def log_of(loss: float | None) -> float:
    """Returns ln(loss); of WORST, if the loss is missing or not finite."""
    known = loss is not None and math.isfinite(loss)
    return math.log(max(finite(loss), 1e-9) if known else WORST)


def highest_over_lowest(losses: Sequence[float | None]) -> float:
    """Returns ln of the largest ratio of a mean of 3 losses to a mean of 3 earlier ones; 0 if the loss only falls.

    Hard healthy runs, such as momentum on few examples, can rise with nothing planted.
    """
    known = [finite(loss) for loss in losses if loss is not None]
    means = np.log(np.maximum([np.mean(known[at : at + 3]) for at in range(len(known) - 2)], 1e-9))
    return float(np.max(means - np.minimum.accumulate(means))) if len(means) else 0.0
