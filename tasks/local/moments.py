"""Count, mean and sum of squared deviations of a client's values. Nothing else leaves the client."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 2**22
"""Values that are converted to float64 at a time: 32 MB, however many a client has."""


@dataclass(frozen=True)
class Moments:
    """What a client sends the server about its values, for C channels of images or C features of a table.

    Rejected: count, sum and sum of squares. They hold the same information, but the variance cancels: for values of
    1e6 ± 1 the sum of squares has no digit left for it.
    """

    count: int
    """values per channel (N·H·W), or per feature (N)"""
    mean: NDArray[np.float64]
    """(C,)"""
    m2: NDArray[np.float64]
    """(C,) sum of squared deviations from the mean"""


def moments(x: NDArray[np.float32] | NDArray[np.uint8], block_values: int = BLOCK_VALUES) -> Moments:
    """Returns the moments of one client's x (N, ..., C) over all axes except the last; N > 0.

    The first value of each channel is subtracted before anything is summed. So a constant channel has exactly its value
    as mean, and exactly 0 as m2. A pixel v of uint8 has the value v / 255, rounded to float32.
    """
    rows = x.reshape(-1, x.shape[-1])
    size = max(1, block_values // rows.shape[1])
    return merged(_block_moments(rows[start : start + size]) for start in range(0, len(rows), size))


def merged(parts: Iterable[Moments]) -> Moments:
    """Returns the moments of the union, from the moments of the parts (Chan, Golub & LeVeque 1983, equations 2.1)."""
    return reduce(_merge, parts)


def _block_moments(rows: NDArray[np.float32] | NDArray[np.uint8]) -> Moments:
    if rows.dtype == np.uint8:
        rows = rows / np.float32(255)
    first = rows[0].astype(np.float64)
    shifted = rows - first
    shift = shifted.mean(axis=0)
    return Moments(len(rows), first + shift, np.square(shifted - shift).sum(axis=0))


def _merge(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    delta = b.mean - a.mean
    return Moments(
        count, a.mean + delta * (b.count / count), a.m2 + b.m2 + np.square(delta) * (a.count * b.count / count)
    )
