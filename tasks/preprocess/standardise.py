"""Mean and sd from federated sums: moments of each client's own values leave it, and nothing else does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.files import TEST

_BLOCK_VALUES = 2**22
"""Values turned to float64 at a time: 32 MB, whatever a client holds."""


@dataclass(frozen=True)
class Moments:
    """All that a client tells the server about its values; C channels of images, or C features of a table.

    Count, mean and m2 say the same as count, sum and sum of squares, but do not cancel: for values 1e6 ± 1 the sum of
    squares has no digit left for the variance.
    """

    count: int
    """values per channel (N·H·W), or per feature (N)"""
    mean: NDArray[np.float64]
    """(C,)"""
    m2: NDArray[np.float64]
    """(C,) sum of squared deviations from the mean"""


@dataclass(frozen=True)
class Standardisation:
    """x becomes (x - mean) / sd, each (C,)."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


def moments(x: NDArray[np.float32]) -> Moments:
    """Returns the moments of one client's x (N, ..., C) over all axes but the last; N > 0.

    Deviations are taken from the first value of a channel before anything is summed, so that a constant channel has
    exactly its value as mean and exactly 0 as m2.
    """
    rows = x.reshape(-1, x.shape[-1])
    size = max(1, _BLOCK_VALUES // rows.shape[1])
    return merged(_block_moments(rows[start : start + size]) for start in range(0, len(rows), size))


def merged(parts: Iterable[Moments]) -> Moments:
    """Returns the moments of the union, without its values (Chan, Golub & LeVeque 1983, equations 2.1)."""
    return reduce(_merge, parts)


def standardisations(
    normalize: Literal["none", "global", "client"], sites: Mapping[str, Moments]
) -> dict[str, Standardisation]:
    """Returns what each site (client id, or `test`) does to its own values.

    `global`: mean and sd of all clients' values together, from their moments; the test set takes them over and never
    adds to them. `client`: each site's own; the test set is one more site, as a hospital that joins after training
    would be. `none`: mean 0 and sd 1.
    """
    match normalize:
        case "none":
            return {site: _identity(len(own.mean)) for site, own in sites.items()}
        case "client":
            return {site: _from_moments(own) for site, own in sites.items()}
        case "global":
            shared = _from_moments(merged(own for site, own in sites.items() if site != TEST))
            return dict.fromkeys(sites, shared)


def standardise(x: NDArray[np.float32], by: Standardisation) -> NDArray[np.float32]:
    """Returns (x - mean) / sd over the last axis of x (N, ..., C), computed in float64 and stored as float32."""
    rows = x.reshape(-1, x.shape[-1])
    result = np.empty(rows.shape, dtype=np.float32)
    size = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, len(rows), size):
        result[start : start + size] = (rows[start : start + size] - by.mean) / by.sd
    return result.reshape(x.shape)


def _block_moments(rows: NDArray[np.float32]) -> Moments:
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


def _from_moments(own: Moments) -> Standardisation:
    """Population sd (divided by the count, as `np.std`); 1 where it is 0, so that a constant becomes 0."""
    sd = np.sqrt(own.m2 / own.count)
    return Standardisation(own.mean, np.where(sd > 0, sd, 1.0))


def _identity(channels: int) -> Standardisation:
    return Standardisation(np.zeros(channels), np.ones(channels))
