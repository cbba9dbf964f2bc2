"""Which clients a picture or a table shows if it cannot show all of them, and numbers that stand for all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats

Places = NDArray[np.int64]

QUANTILES = {"all: 95 %": 0.95, "all: median": 0.5, "all: 5 %": 0.05}
"""The quantiles over all clients that stand beside the shown clients, by their names there."""


def shown_clients(deviations: Sequence[Floats], failures: Places, most: int, first: Sequence[int] = ()) -> Places:
    """Returns the places of the clients to show: all K if K is at most `most`.

    1. The clients in `first`, in their order.
    2. Clients that failed, the most often first; at most half of the places that are left.
    3. The clients with the largest deviation. Several measures take turns: the largest of each, then the second
       largest of each.

    Clients of 2. and 3. are in the order of their places.

    Args:
        deviations: each (K,), how far a client is from the others by one measure; NaN: not known.
        failures: (K,) how often each client failed.
        most: most places.
        first: places of clients.
    """
    leading = list(dict.fromkeys(first))[:most]
    left = most - len(leading)
    failed = np.argsort(-failures, kind="stable")[: np.count_nonzero(failures)]
    failed = failed[~np.isin(failed, leading)][: (left + 1) // 2]
    ranks = [np.argsort(np.argsort(-np.nan_to_num(each, nan=-np.inf), kind="stable")) for each in deviations]
    best = np.min(ranks, axis=0) if ranks else np.arange(len(failures))
    others = np.argsort(best, kind="stable")
    others = others[~np.isin(others, [*leading, *failed])][: left - len(failed)]
    return np.array([*leading, *np.sort([*failed, *others])], dtype=np.int64)


def quantiles(values: Floats) -> Floats:
    """Returns (len(QUANTILES), ...) the quantiles of `values` (K, ...) over the clients; NaN where none has a value."""
    flat = values.reshape(len(values), -1)
    known, found = np.isfinite(flat).any(axis=0), np.full((len(QUANTILES), flat.shape[1]), np.nan)
    finite = np.where(np.isfinite(flat[:, known]), flat[:, known], np.nan)
    found[:, known] = np.nanquantile(finite, list(QUANTILES.values()), axis=0)
    return found.reshape(len(QUANTILES), *values.shape[1:])


def mean_of_known(values: Floats) -> Floats:
    """Returns (K,) the mean of the known values in each row of `values` (K, R); NaN for a row without one."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
