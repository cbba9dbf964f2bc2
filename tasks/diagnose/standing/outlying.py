"""Which clients stand apart from the others, by one number each."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from tasks.arrays import Floats

FEWEST = 4
"""Fewest clients of which one can stand apart: of three, the spread of the other two says nothing."""

_NORMAL = 1e3
"""Above this ratio of the whole variance to that over the clients, Student's t is the normal distribution."""


def heights(values: Sequence[float] | Floats, own_variance: Sequence[float] | Floats, significance: float) -> Floats:
    """Returns (K,) how far values are above their median, in units of the limit: above 1, a client stands apart.

    The height is (x - median) / sqrt(s^2 + v), where s is 1.4826 times the median distance from the median, and v the
    variance of the client's own value. So a minority of clients cannot hide itself by its own spread, and a client with
    few examples must be farther out. The limit is the quantile of Student's t at `significance` / K. Its degrees of
    freedom are Welch's (1947), (s^2 + v)^2 / (s^4 / (K - 1)): with few clients, their spread is hardly known, but v is.

    A value that is not known (NaN) has the height NaN; with fewer than FEWEST known values, all have.

    Args:
        values: (K,) one per client.
        own_variance: (K,) variance of each value around the client's true one, >= 0. Where it is 0 and most values are
            equal, nothing is known of the spread: the heights are NaN.
        significance: the probability that any of K equal clients stands apart.
    """
    x, variance = np.asarray(values, np.float64), np.asarray(own_variance, np.float64)
    known = np.isfinite(x)
    num = int(known.sum())
    if num < FEWEST:
        return np.full(len(x), np.nan)
    middle = float(np.median(x[known]))
    spread = (1.4826 * float(np.median(np.abs(x[known] - middle)))) ** 2
    freedom = (num - 1) * np.minimum((spread + variance) / max(spread, 1e-100), _NORMAL) ** 2
    limit = student.isf(significance / num, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(known, (x - middle) / np.sqrt(spread + variance) / limit, np.nan), np.float64)
