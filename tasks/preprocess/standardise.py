"""Standardisation by mean and sd, which follow from the clients' moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.local.moments import BLOCK_VALUES, Moments, merged


@dataclass(frozen=True)
class Standardisation:
    """x becomes (x - mean) / sd, each (C,)."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


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


def standardise(x: NDArray[np.float32], by: Standardisation, block_values: int = BLOCK_VALUES) -> NDArray[np.float32]:
    """Returns (x - mean) / sd over the last axis of x (N, ..., C), computed in float64 and stored as float32."""
    rows = x.reshape(-1, x.shape[-1])
    result = np.empty(rows.shape, dtype=np.float32)
    size = max(1, block_values // rows.shape[1])
    for start in range(0, len(rows), size):
        result[start : start + size] = (rows[start : start + size] - by.mean) / by.sd
    return result.reshape(x.shape)


def _from_moments(own: Moments) -> Standardisation:
    """Population sd (divided by the count, as `np.std`); 1 where it is 0, so that a constant becomes 0."""
    sd = np.sqrt(own.m2 / own.count)
    return Standardisation(own.mean, np.where(sd > 0, sd, 1.0))


def _identity(channels: int) -> Standardisation:
    return Standardisation(np.zeros(channels), np.ones(channels))
