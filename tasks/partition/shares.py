"""Random shares of the clients, and the division of examples by them."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

Indices: TypeAlias = NDArray[np.int64]
"""Ascending positions of a client's examples in the training data."""


def dirichlet_logits(concentration: ArrayLike, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns logits whose softmax over the last axis of `shape` is a draw of Dir(concentration).

    A Dirichlet draw is a vector of independent Gamma(a) draws, divided by their sum. The draws are kept as logarithms,
    by Gamma(a) = Gamma(a + 1) · U^(1/a): with a small a, they are below the smallest float, and their ratios would be
    lost. The ratios are needed, because the softmax over a part of the last axis is a draw of the Dirichlet
    distribution of that part.
    """
    a = np.broadcast_to(np.asarray(concentration, dtype=np.float64), shape)
    # Below 1e-300 the quotient would overflow. At 1e-300, too, one share is 1 and the others are 0.
    a = np.maximum(a, 1e-300)
    return np.asarray(np.log(rng.standard_gamma(a + 1)) - rng.standard_exponential(shape) / a)


def dirichlet_shares(alpha: float, num_shares: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns a draw of the symmetric Dir(alpha): `num_shares` shares >= 0 with sum 1; alpha -> inf: all equal."""
    return np.asarray(softmax(dirichlet_logits(alpha, (num_shares,), rng)))


def cut(indices: Indices, shares: NDArray[np.float64], offset: float = 0.5) -> list[Indices]:
    """Returns `indices`, of length n, cut into consecutive parts; part j has about n · shares[j] elements.

    The cuts are at floor(n · (shares[0] + .. + shares[j]) + offset), so each part is within 1 of n · shares[j]. The
    default offset 0.5 rounds the cuts. With an offset from U(0, 1), the expected size of a part is exactly
    n · shares[j], so rounding favours no client. A share of 0 gives no example.
    """
    ends = np.floor(len(indices) * np.cumsum(shares)[:-1] + offset).astype(np.int64)
    return np.split(indices, np.minimum(ends, len(indices)))


def gather(parts: list[list[Indices]]) -> list[Indices]:
    """Returns each client's parts as one ascending array."""
    return [np.sort(np.concatenate([np.empty(0, np.int64), *own])) for own in parts]
