"""Partitions that do not use the labels: with equal sizes, and with unequal sizes."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.partition.shares import Indices, cut, dirichlet_shares


def iid(y: NDArray[np.int32], num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Returns equal parts of the shuffled examples; the sizes differ by at most 1."""
    return [np.sort(part) for part in np.array_split(rng.permutation(len(y)), num_clients)]


def quantity(
    y: NDArray[np.int32],
    num_clients: int,
    law: Literal["dirichlet", "power"],
    alpha: float,
    exponent: float,
    rng: np.random.Generator,
) -> list[Indices]:
    """Returns parts of the shuffled examples with unequal sizes (quantity skew of NIID-Bench, arXiv 2102.02079).

    With the law `dirichlet`, the sizes are N · Dir(alpha) over the K clients; alpha -> inf: equal sizes. With `power`,
    client i = 1..K has N · i^-exponent / sum_j j^-exponent examples, within 1; exponent -> 0: equal sizes.
    """
    if law == "dirichlet":
        shares, offset = dirichlet_shares(alpha, num_clients, rng), rng.random()
    else:
        weights = np.arange(1, num_clients + 1, dtype=np.float64) ** -exponent
        shares, offset = weights / weights.sum(), 0.5
    return [np.sort(part) for part in cut(rng.permutation(len(y)), shares, offset)]
