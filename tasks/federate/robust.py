"""Rules that need every update at once, each as its paper has it.

Notation: K updates Δ_k (P,) with weights w_k > 0, all finite. A rule's breakdown point is the largest share of clients
that can send anything at all without moving the result without bound. Ties go to the client that comes first.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.federate import statistics
from tasks.federate.statistics import Vector, gram

_log = logging.getLogger(__name__)

Updates = Sequence[NDArray[np.float32]]

# Of 2^10 to 2^17 parameters at a time the fastest: blocks of 100 clients fit into the cache, calls are not too many.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Combined:
    """What a rule makes of the updates."""

    update: NDArray[np.float32]
    """(P,)"""
    influence: Vector | None
    """(K,) share of each client in `update`, summing to 1; None where the rule works entry by entry."""


Rule = Callable[[Updates, Vector], Combined]
"""(K updates (P,), weights (K,)) -> Combined."""


def median(updates: Updates, weights: Vector) -> Combined:
    """Returns the median of each entry (Yin 2018, arXiv 1803.01498, Definition 1); each client has one vote.

    For even K the mean of the two in the middle. Breakdown point (⌈K/2⌉ − 1)/K, close to a half. Where honest clients
    differ, as under label skew, it is far from their mean: a change that only a minority's data ask for is voted down.
    """
    del weights
    return Combined(_middle(updates, (len(updates) - 1) // 2), None)


def trimmed_mean(updates: Updates, weights: Vector, trim: float) -> Combined:
    """Returns the mean of each entry without its b = ⌊trim·K⌋ lowest and b highest (Yin 2018, Definition 2).

    0 ≤ trim < ½, so that someone is always left. Breakdown point b/K. trim = 0 is the unweighted mean.
    """
    del weights
    return Combined(_middle(updates, num_trimmed(len(updates), trim)), None)


def num_trimmed(num_clients: int, trim: float) -> int:
    """Returns b, the clients that the trimmed mean leaves out at each end."""
    # 0.29 · 100 is 28.999999999999996.
    return math.floor(trim * num_clients + 1e-9)


def geometric_median(updates: Updates, weights: Vector) -> Combined:
    """Returns argmin_z Σ w_k ‖Δ_k − z‖ (RFA: Pillutla 2022, arXiv 1912.13445, equation 4).

    Breakdown point: less than half of the weight; a client with more than half of it is the result. The influence is
    what Weiszfeld's iteration converges to (statistics.py); RFA's own three steps stop short of it.
    """
    share = statistics.geometric_median_shares(gram(list(updates)), weights=weights)
    return Combined(_combine(updates, share), share)


def multi_krum(updates: Updates, weights: Vector, num_faulty: int, num_selected: int) -> Combined:
    """Returns the mean of the m updates with the best scores (Blanchard 2017, arXiv 1703.02757, section 4).

    A client's score is the sum of its squared distances to the K − f − 2 updates closest to it. m = 1 is Krum, m = 0
    stands for K − f, m = K is the unweighted mean. Up to f clients can send anything if K ≥ 2f + 3 and m ≤ K − f; if
    clients failed and fewer are left, at least the closest one is looked at, the promise is gone, and the log says so.
    """
    del weights
    num = len(updates)
    if num < 2 * num_faulty + 3:
        _log.warning(
            "%d updates are left: fewer than 2 * num_faulty + 3 = %d, Krum may select one of the faulty",
            num,
            2 * num_faulty + 3,
        )
    scores = krum_scores(gram(list(updates)), num_faulty)
    best = np.argsort(scores, kind="stable")[: num_selected or max(num - num_faulty, 1)]
    share = np.zeros(num)
    share[best] = 1 / len(best)
    return Combined(_combine(updates, share), share)


def krum_scores(inner: Vector, num_faulty: int) -> Vector:
    """Returns the scores (K,) from the Gram matrix (K, K); see `multi_krum`."""
    square = np.diag(inner)
    distance = np.maximum(square[:, None] + square - 2 * inner, 0.0)
    np.fill_diagonal(distance, np.inf)
    num_closest = min(max(len(inner) - num_faulty - 2, 1), len(inner) - 1)
    scores: Vector = np.sort(distance, axis=1)[:, :num_closest].sum(axis=1)
    return scores


def _combine(updates: Updates, share: Vector) -> NDArray[np.float32]:
    """Σ share_k Δ_k, summed in float64: the share of a huge update may be smaller than float32 can hold."""
    combined = np.empty(len(updates[0]), np.float32)
    used = [(update, part) for update, part in zip(updates, share, strict=True) if part > 0]
    for begin in range(0, len(combined), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        total = np.zeros(len(combined[block]))
        for update, part in used:
            total += np.multiply(update[block], part, dtype=np.float64)
        combined[block] = total
    return combined


def _middle(updates: Updates, cut: int) -> NDArray[np.float32]:
    """Returns the mean of each entry without its `cut` lowest and `cut` highest.

    By a sorting network, whose comparators work on whole rows: 2 to 3 times as fast as np.partition on each entry's K
    values (100 clients of 230,000 parameters: 0.2 s on one core; more threads gain nothing, for memory is the limit).
    """
    num, size = len(updates), len(updates[0])
    middle, rows = np.empty(size, np.float32), np.empty((num + 1, min(_BLOCK, size)), np.float32)
    for begin in range(0, size, _BLOCK):
        *values, spare = rows[:, : size - begin]
        for value, update in zip(values, updates, strict=True):
            value[:] = update[begin : begin + _BLOCK]
        for low, high, low_used, high_used in _network(num, cut):
            smaller, larger = values[low], values[high]
            if not high_used:
                np.minimum(smaller, larger, out=smaller)
            elif not low_used:
                np.maximum(smaller, larger, out=larger)
            else:
                np.minimum(smaller, larger, out=spare)
                np.maximum(smaller, larger, out=larger)
                values[low], spare = spare, smaller
        total = values[cut]
        for value in values[cut + 1 : num - cut]:
            total += value
        np.divide(total, np.float32(num - 2 * cut), out=middle[begin : begin + _BLOCK])
    return middle


@lru_cache(maxsize=8)
def _network(num: int, cut: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Returns comparators (i, j, is i used after, is j used after) that part the middle ranks from `cut` at each end.

    Batcher's odd-even merge sort (Knuth, volume 3, 5.2.2, Algorithm M) without what only orders the middle, or only the
    ends, among themselves.
    """
    lines = ["end"] * cut + ["middle"] * (num - 2 * cut) + ["end"] * cut
    kept = []
    for low, high in reversed(_batcher(num)):
        if lines[low] == lines[high] != "ordered":
            continue
        kept.append((low, high, lines[low] != "end", lines[high] != "end"))
        lines[low] = lines[high] = "ordered"
    return tuple(reversed(kept))


def _batcher(num: int) -> list[tuple[int, int]]:
    """Returns the comparators (i, j), i < j, that sort `num` values, in their order."""
    comparators = []
    top = 1 << max(num - 1, 1).bit_length() - 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(num - d) if i & p == r]
            if q == p:
                break
            q, r, d = q // 2, p, q - p
        p //= 2
    return comparators
