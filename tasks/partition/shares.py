"""Random shares, and how a list of examples is cut by them."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

Indices: TypeAlias = NDArray[np.int64]
"""Positions of a client's examples in the training data, ascending."""


def dirichlet_logits(concentration: ArrayLike, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns logits whose softmax over the last axis of `shape` is a draw of Dir(concentration).

    A Dirichlet draw is independent Gamma(a) draws over their sum. They are kept as logarithms, by
    Gamma(a) = Gamma(a + 1) · U^(1/a): the draws of a small a are below the smallest float, and their ratio, which says
    who gets the share when the larger ones are taken away, would be lost. The softmax over a part of the last axis is
    a draw of the Dirichlet distribution of that part.
    """
    a = np.broadcast_to(np.asarray(concentration, dtype=np.float64), shape)
    # Below 1e-300 the quotient would overflow; there as here, one share is 1 and the others are 0.
    a = np.maximum(a, 1e-300)
    return np.asarray(np.log(rng.standard_gamma(a + 1)) - rng.standard_exponential(shape) / a)


def dirichlet_shares(alpha: float, num_shares: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns one draw of the symmetric Dir(alpha): `num_shares` shares >= 0 with sum 1; alpha -> inf: all equal."""
    return np.asarray(softmax(dirichlet_logits(alpha, (num_shares,), rng)))


def cut(indices: Indices, shares: NDArray[np.float64], offset: float = 0.5) -> list[Indices]:
    """Returns `indices` cut into consecutive parts, the j-th of about len(indices) · shares[j].

    The cuts are floor(n · (shares[0] + .. + shares[j]) + offset), so that each part is within 1 of n · shares[j]. With
    `offset` 0.5 they are rounded; with an offset drawn from U(0, 1) the expected size of each part is exactly
    n · shares[j], so that no client is favoured by rounding. A share of 0 gives no example.
    """
    ends = np.floor(len(indices) * np.cumsum(shares)[:-1] + offset).astype(np.int64)
    return np.split(indices, np.minimum(ends, len(indices)))


def gather(parts: list[list[Indices]]) -> list[Indices]:
    """Returns for each client its parts as one ascending array."""
    return [np.sort(np.concatenate([np.empty(0, np.int64), *own])) for own in parts]
