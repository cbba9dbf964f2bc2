"""Standardisation by mean and sd, computed from the clients' moments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.local.moments import BLOCK_VALUES, Moments, merged, moments


@dataclass(frozen=True)
class Standardisation:
    """x becomes (x - mean) / sd; mean and sd are (C,), for the C features or channels."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


Normalize = Literal["none", "global", "client"]


def standardisations(normalize: Normalize, sites: Iterable[tuple[str, NDArray[Any]]]) -> dict[str, Standardisation]:
    """Returns the mean and sd with which each site (client id, or `test`) standardises its own values.

    `sites` has each site's x (N, ..., C), float32 or pixels of uint8; one x is needed at a time.

    `global`: mean and sd of all clients' values, from their moments. The test set uses them and does not contribute.
    `client`: each site's own. The test set uses its own, as a hospital that joins after training would.
    `none`: mean 0 and sd 1.
    """
    match normalize:
        case "none":
            return {site: _identity(x.shape[-1]) for site, x in sites}
        case "client":
            return {site: _from_moments(moments(x)) for site, x in sites}
        case "global":
            names: list[str] = []

            def of_clients() -> Iterator[Moments]:
                for site, x in sites:
                    names.append(site)
                    if site != TEST:
                        yield moments(x)

            shared = _from_moments(merged(of_clients()))
            return dict.fromkeys(names, shared)


def standardise(x: NDArray[np.float32], by: Standardisation, block_values: int = BLOCK_VALUES) -> NDArray[np.float32]:
    """Returns (x - mean) / sd along the last axis of x (N, ..., C), computed in float64, as float32."""
    rows = x.reshape(-1, x.shape[-1])
    result = np.empty(rows.shape, dtype=np.float32)
    size = max(1, block_values // rows.shape[1])
    for start in range(0, len(rows), size):
        result[start : start + size] = (rows[start : start + size] - by.mean) / by.sd
    return result.reshape(x.shape)


def _from_moments(own: Moments) -> Standardisation:
    """Uses the population sd (over the count, as `np.std`). An sd of 0 becomes 1, so that a constant becomes 0."""
    sd = np.sqrt(own.m2 / own.count)
    return Standardisation(own.mean, np.where(sd > 0, sd, 1.0))


def _identity(channels: int) -> Standardisation:
    return Standardisation(np.zeros(channels), np.ones(channels))
