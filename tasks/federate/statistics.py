"""Statistics of a round's updates that measure drift.

Notation: Δ_k = local − global of client k as a vector (P,), p_k its share of the average (Σ p_k = 1), Δ̄ = Σ p_k Δ_k.
Every norm, cosine and distance below is a combination of ‖Δ_k‖², ⟨Δ_k, Δ̄⟩ and ⟨Δ_k, z⟩, with z the geometric median.

With few clients and parameters (`few`), the updates stay in memory, and all follows from the K×K inner products
G_kl = ⟨Δ_k, Δ_l⟩: the P-sized vectors are read once. With more, memory and time must not grow with K·P and K². Then
updates.py adds up what follows from one update at a time, and this module takes the geometric median's shares from
sketches (P → SKETCH numbers).

The same updates give the same bits on any number of cores if BLAS is limited to one thread (runtime/kinds.py).
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Vector = NDArray[np.float64]

# Values (clients × parameters) that are converted to float64 at a time. From 2^16 to 2^21 values, none is faster on one
# core. A larger block leaves a core idle at the end, a smaller one costs more to hand to a thread than it saves.
_BLOCK = 1 << 19
# Fewest parameters of a block: the products of many small blocks cost more to add up.
_LEAST = 1 << 11
# With fewer clients, one core is as fast as two. At 1.2 million parameters, a second core saves nothing of 18 ms with
# 10 clients, and half of 0.5 s with 100.
_FEW = 16

_MOST_PAIRED = 128
"""Most clients whose updates are multiplied pair by pair. This costs K²·P; local training costs K·P and more."""
_MOST_VALUES = 1 << 27
"""Most values of updates (clients × parameters) in memory: 512 MB."""
_COLUMNS = 64
"""Entries of all sketches whose medians are computed at a time: each such block is copied."""
SKETCH = 512
"""Length of a sketch, m. A squared distance of two updates has a relative standard error of at most √(2/m) = 6 %."""


def few(num_clients: int, num_params: int) -> bool:
    """Returns whether the updates of a round stay in memory, and are multiplied pair by pair."""
    return num_clients <= _MOST_PAIRED and num_clients * num_params <= _MOST_VALUES


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


def no_statistics() -> UpdateStatistics:
    """Returns the statistics of a round without an update: K = 0, and NaN for the round."""
    none: Vector = np.zeros(0)
    return UpdateStatistics(none, none, none, none, math.nan, math.nan)


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
    """Returns the statistics from the Gram matrix (K, K) of K >= 1 updates and their shares of the average (K,)."""
    median = geometric_median_shares(inner)
    square, to_mean, to_median = np.maximum(np.diag(inner), 0.0), inner @ share, inner @ median
    return combined(
        square,
        share,
        _square_distance(square, to_mean, share, 0.0),
        (to_mean, float(share @ to_mean)),
        (to_median, float(median @ to_median)),
        float(inner.sum()),
    )


def combined(
    square: Vector,
    share: Vector,
    square_distance: Vector,
    mean: tuple[Vector, float],
    median: tuple[Vector, float],
    together: float,
) -> UpdateStatistics:
    """Returns the statistics from inner products.

    Args:
        square: (K,) ‖Δ_k‖².
        share: (K,) p_k.
        square_distance: (K,) ‖Δ_k − Δ̄‖².
        mean: (K,) ⟨Δ_k, Δ̄⟩, and ‖Δ̄‖².
        median: (K,) ⟨Δ_k, z⟩, and ‖z‖², with z the geometric median.
        together: ‖Σ Δ_k‖².
    """
    return UpdateStatistics(
        norm=np.sqrt(square),
        cosine=_cosine(square, *mean),
        cosine_robust=_cosine(square, *median),
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
    return _weiszfeld(square, from_medoid, lambda a: inner @ a, votes, iterations, tolerance)


def sketched_median_shares(sketches: NDArray[np.float32], iterations: int = 100, tolerance: float = 1e-5) -> Vector:
    """Returns the shares (K,) of `geometric_median_shares` from the updates' sketches (K, m); each has one vote.

    It takes K·m steps an iteration, not K². The iteration begins at the majority that is closest to the median of each
    entry, which, like the medoid, less than half of the clients cannot move far. `sketches` is changed: their centre is
    moved to zero, so that float32 does not lose small differences of large updates.
    """
    for begin in range(0, sketches.shape[1], _COLUMNS):
        columns = slice(begin, begin + _COLUMNS)
        sketches[:, columns] -= np.median(sketches[:, columns], axis=0)
    square = np.array([np.dot(one, one) for one in sketches], np.float64)
    votes = np.ones(len(sketches))
    return _weiszfeld(square, np.sqrt(square), lambda a: _products(sketches, a), votes, iterations, tolerance)


def _products(sketches: NDArray[np.float32], a: Vector) -> Vector:
    """Returns the inner products (K,) of the sketches with their sum of shares a (K,)."""
    z = a.astype(np.float32) @ sketches
    return (sketches @ z).astype(np.float64)


def _weiszfeld(
    square: Vector,
    from_centre: Vector,
    inner_product: Callable[[Vector], Vector],
    votes: Vector,
    iterations: int,
    tolerance: float,
) -> Vector:
    nearest = np.argsort(from_centre, kind="stable")
    majority = np.searchsorted(np.cumsum(votes[nearest]), votes.sum() / 2, side="right")
    radius = float(from_centre[nearest[min(majority, len(votes) - 1)]])
    a: Vector = votes * (from_centre <= radius)
    a /= a.sum()
    if radius == 0:
        return a
    to_z = inner_product(a)
    for _ in range(iterations):
        closeness = votes / np.sqrt(_square_distance(square, to_z, a, (1e-6 * radius) ** 2))
        before, to_before = a, to_z
        a = closeness / closeness.sum()
        to_z = inner_product(a)
        if (a - before) @ (to_z - to_before) < (tolerance * radius) ** 2:
            break
    return a


def _square_distance(square: Vector, to_z: Vector, a: Vector, least: float) -> Vector:
    """Returns ‖Δ_k − z‖² (K,) from ‖Δ_k‖² and ⟨Δ_k, z⟩, z = Σ a_l Δ_l; at least `least`, as rounding can go below 0."""
    distance: Vector = np.maximum(square - 2 * to_z + a @ to_z, least)
    return distance


def _cosine(square: Vector, to_z: Vector, square_z: float) -> Vector:
    """Returns cos(Δ_k, z) (K,) from ‖Δ_k‖², ⟨Δ_k, z⟩ and ‖z‖²; NaN if Δ_k or z is zero."""
    length = np.sqrt(square * max(square_z, 0.0))
    cosine = np.full(len(square), np.nan)
    np.divide(to_z, length, out=cosine, where=length > 0)
    return cosine.clip(-1, 1)


@lru_cache(maxsize=2)
def _buckets(num_params: int) -> sparse.csr_array:
    """Returns the matrix (SKETCH, P) with one +1 or −1 in each column, at a random row; always the same for P."""
    rng = np.random.default_rng(num_params)
    rows = rng.integers(SKETCH, size=num_params, dtype=np.int32)
    signs = rng.integers(2, size=num_params, dtype=np.int8) * np.float32(2) - np.float32(1)
    columns = np.arange(num_params + 1, dtype=np.int32)
    # By rows: sums of scattered values take half as long as scattered sums.
    return sparse.csc_array((signs, rows, columns), (SKETCH, num_params)).tocsr()


def sketch(updates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns sketches (K, SKETCH) of updates (K, P): a random projection that keeps inner products and distances.

    It is the count sketch (Charikar, Chen and Farach-Colton 2002), a sparse Johnson–Lindenstrauss transform: entry j is
    the sum of ±Δ_i over the parameters i that a random draw puts into bucket j of m. The inner product of two sketches
    is on average ⟨a, b⟩, with a variance of at most (‖a‖²‖b‖² + ⟨a, b⟩²)/m over the draws (Weinberger 2009, arXiv
    0902.2206, Lemma 2). So a squared norm or distance has a relative standard error of at most √(2/m). The draws depend
    on P only, so that sketches of all rounds and clients can be compared.
    """
    return np.ascontiguousarray((_buckets(updates.shape[1]) @ np.ascontiguousarray(updates.T)).T)
