"""Statistics of a round's updates that measure drift, from the Gram matrix of the updates.

Notation: Δ_k = local − global of client k as a vector (P,), p_k its share of the average (Σ p_k = 1), Δ̄ = Σ p_k Δ_k.
Every norm, cosine and distance below is a combination of the K×K inner products G_kl = ⟨Δ_k, Δ_l⟩, so the P-sized
vectors are read once.

The same updates give the same bits on any number of cores if BLAS is limited to one thread (runtime/kinds.py).
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Values (clients × parameters) that are converted to float64 at a time. From 2^16 to 2^21 values, none is faster. A
# smaller block costs more to hand to a thread than it saves.
_BLOCK = 1 << 20
# Fewest parameters of a block: the products of many small blocks cost more to add up.
_LEAST = 1 << 11
# With fewer clients, one core is as fast as two. At 1.2 million parameters, a second core saves nothing of 18 ms with
# 10 clients, and half of 0.5 s with 100.
_FEW = 16


@dataclass(frozen=True)
class UpdateStatistics:
    """One entry per client (K,), or one number for the round."""

    norm: Vector
    """‖Δ_k‖, in units of the parameters."""
    cosine: Vector
    """cos(Δ_k, Δ̄); NaN if either is zero."""
    cosine_robust: Vector
    """Cosine to the geometric median of the updates. A minority of clients cannot move it far, unlike the mean."""
    distance: Vector
    """‖Δ_k − Δ̄‖: how far the client's model is from the average of the clients' models."""
    drift: float
    """√(Σ p_k ‖Δ_k − Δ̄‖²), in units of the parameters; 0 if all clients agree."""
    gradient_diversity: float
    """Σ ‖Δ_k‖² / ‖Σ Δ_k‖² (Yin 2018, definition 1); 1/K if all agree, 1 if orthogonal, NaN if they cancel."""


def gram(updates: Sequence[NDArray[np.float32]]) -> Vector:
    """Returns the inner products (K, K) of K updates (P,), in float64.

    The reason for float64: a distance is a small difference of inner products, and float32 loses a drift below 1e-3 of
    the updates. The rejected alternative is float32 of the differences to a centre. It keeps such a drift, but a centre
    near huge updates loses the small ones, and a centre near the others loses the tiny ones. It takes as long for 10
    clients, and two thirds of the time for 100.

    Instead, all cores share the work. K and P alone decide how the parameters are divided into blocks, one thread
    multiplies a block, and the blocks are added up in their order.
    """
    size = len(updates[0])
    num_blocks = -(-size // max(_LEAST, _BLOCK // len(updates)))
    ends = [size * i // num_blocks for i in range(num_blocks + 1)]

    def products(begin: int, end: int) -> Vector:
        part = np.stack([update[begin:end] for update in updates], dtype=np.float64)
        inner: Vector = part @ part.T
        return inner

    if num_blocks == 1 or len(updates) < _FEW:
        return reduce(np.add, map(products, ends[:-1], ends[1:]))
    with ThreadPoolExecutor(min(num_blocks, len(os.sched_getaffinity(0)))) as pool:
        return reduce(np.add, pool.map(products, ends[:-1], ends[1:]))


def update_statistics(inner: Vector, share: Vector) -> UpdateStatistics:
    """Returns the statistics of a round from the Gram matrix (K, K) of its updates and the shares (K,)."""
    square = np.maximum(np.diag(inner), 0.0)
    median = geometric_median_shares(inner)
    to_mean, to_median = inner @ share, inner @ median
    square_distance = _square_distance(square, to_mean, share)
    together = float(inner.sum())
    return UpdateStatistics(
        norm=np.sqrt(square),
        cosine=_cosine(square, to_mean, share),
        cosine_robust=_cosine(square, to_median, median),
        distance=np.sqrt(square_distance),
        drift=math.sqrt(share @ square_distance),
        gradient_diversity=float(square.sum()) / together if together > 0 else np.nan,
    )


def geometric_median_shares(
    inner: Vector, iterations: int = 100, tolerance: float = 1e-5, weights: Vector | None = None
) -> Vector:
    """Returns shares a (K,), Σ a_k = 1, such that Σ a_k Δ_k is the geometric median argmin_z Σ w_k ‖Δ_k − z‖.

    It is Weiszfeld's iteration with the smoothing of RFA (Pillutla 2022, Algorithm 2): a_k ∝ w_k / max(ν, ‖Δ_k − z‖).
    Without `weights` (K,) each client has one vote. Clients with less than half of the votes can send any values while
    the result stays bounded. So these clients must not decide (1) where the iteration begins, (2) where it ends, or
    (3) ν. It therefore begins at the mean of the majority that is closest to the medoid. The radius of this majority is
    the unit of ν, and of the tolerance at which the iteration ends.
    """
    votes = np.ones(len(inner)) if weights is None else weights
    square = np.maximum(np.diag(inner), 0.0)
    apart = np.sqrt(np.maximum(square[:, None] + square - 2 * inner, 0.0))
    from_medoid = apart[(apart @ votes).argmin()]
    nearest = np.argsort(from_medoid, kind="stable")
    majority = np.searchsorted(np.cumsum(votes[nearest]), votes.sum() / 2, side="right")
    radius = float(from_medoid[nearest[min(majority, len(inner) - 1)]])
    a: Vector = votes * (from_medoid <= radius)
    a /= a.sum()
    if radius == 0:
        return a
    to_z = inner @ a
    for _ in range(iterations):
        closeness = votes / np.sqrt(_square_distance(square, to_z, a, (1e-6 * radius) ** 2))
        before, to_before = a, to_z
        a = closeness / closeness.sum()
        to_z = inner @ a
        if (a - before) @ (to_z - to_before) < (tolerance * radius) ** 2:
            break
    return a


def _square_distance(square: Vector, to_z: Vector, a: Vector, least: float = 0.0) -> Vector:
    """Returns ‖Δ_k − z‖² (K,) from ‖Δ_k‖² and ⟨Δ_k, z⟩, z = Σ a_l Δ_l; at least `least`, as rounding can go below 0."""
    distance: Vector = np.maximum(square - 2 * to_z + a @ to_z, least)
    return distance


def _cosine(square: Vector, to_z: Vector, a: Vector) -> Vector:
    """Returns cos(Δ_k, z) (K,); NaN if Δ_k or z is zero. See `_square_distance`."""
    length = np.sqrt(square * max(float(a @ to_z), 0.0))
    cosine = np.full(len(square), np.nan)
    np.divide(to_z, length, out=cosine, where=length > 0)
    return cosine.clip(-1, 1)
