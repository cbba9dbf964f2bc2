"""What a round's updates say about drift: NumPy on the Gram matrix of the updates.

Notation: Δ_k = local − global of client k as a vector (P,), p_k its share of the average (Σ p_k = 1), Δ̄ = Σ p_k Δ_k.
Every norm, cosine and distance below is a combination of the K×K inner products G_kl = ⟨Δ_k, Δ_l⟩, so the P-sized
vectors are read once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Parameters that are turned into float64 at a time.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class UpdateStatistics:
    """One entry per client (K,), or one number for the round."""

    norm: Vector
    """‖Δ_k‖, in units of the parameters."""
    cosine: Vector
    """cos(Δ_k, Δ̄); NaN where either is zero."""
    cosine_robust: Vector
    """Cosine to the geometric median of the updates, which a minority of clients cannot move far, unlike the mean."""
    distance: Vector
    """‖Δ_k − Δ̄‖: how far the client's model is from the average of the clients' models."""
    drift: float
    """√(Σ p_k ‖Δ_k − Δ̄‖²), in units of the parameters; 0 if all clients agree."""
    gradient_diversity: float
    """Σ ‖Δ_k‖² / ‖Σ Δ_k‖² (Yin 2018, definition 1); 1/K if all agree, 1 if orthogonal, NaN if they cancel."""


def gram(updates: list[NDArray[np.float32]]) -> Vector:
    """Returns the inner products (K, K) of K updates (P,).

    In float64: a distance is a small difference of inner products, and float32 loses a drift below 1e-3 of the updates.
    """
    inner: Vector = np.zeros((len(updates), len(updates)))
    block = np.empty((len(updates), min(_BLOCK, len(updates[0]))))
    for begin in range(0, len(updates[0]), _BLOCK):
        part = block[:, : len(updates[0]) - begin]
        for row, update in zip(part, updates, strict=True):
            row[:] = update[begin : begin + _BLOCK]
        inner += part @ part.T
    return inner


def update_statistics(inner: Vector, share: Vector) -> UpdateStatistics:
    """Returns the statistics of a round from the Gram matrix (K, K) of its updates and the shares (K,)."""
    square = np.maximum(np.diag(inner), 0.0)
    distance = np.sqrt(_square_distance(inner, square, share))
    uniform = np.ones_like(share)
    together = float(uniform @ inner @ uniform)
    return UpdateStatistics(
        norm=np.sqrt(square),
        cosine=_cosine(inner, square, share),
        cosine_robust=_cosine(inner, square, geometric_median(inner)),
        distance=distance,
        drift=float(np.sqrt(share @ distance**2)),
        gradient_diversity=float(square.sum() / together) if together > 0 else np.nan,
    )


def geometric_median(
    inner: Vector, iterations: int = 100, tolerance: float = 1e-5, weights: Vector | None = None
) -> Vector:
    """Returns shares a (K,), Σ a_k = 1, such that Σ a_k Δ_k is the geometric median argmin_z Σ w_k ‖Δ_k − z‖.

    Weiszfeld's iteration with the smoothing of RFA (Pillutla 2022, Algorithm 2): a_k ∝ w_k / max(ν, ‖Δ_k − z‖), each
    client one vote if there are no `weights` (K,). Clients with less than half of the votes can send anything without
    moving the result without bound. For that to hold of the iteration too, its start, ν and its end must not be theirs
    to choose: it starts at the mean of the closest majority, and the radius of that majority is the unit of the others.
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
    for _ in range(iterations):
        closeness = votes / np.maximum(1e-6 * radius, np.sqrt(_square_distance(inner, square, a)))
        before, a = a, closeness / closeness.sum()
        if (a - before) @ inner @ (a - before) < (tolerance * radius) ** 2:
            break
    return a


def _square_distance(inner: Vector, square: Vector, a: Vector) -> Vector:
    """‖Δ_k − Σ a_l Δ_l‖² for each k; rounding can take it below zero where the updates agree."""
    distance: Vector = np.maximum(square - 2 * (inner @ a) + a @ inner @ a, 0.0)
    return distance


def _cosine(inner: Vector, square: Vector, a: Vector) -> Vector:
    length = np.sqrt(square * max(float(a @ inner @ a), 0.0))
    cosine = np.full(len(inner), np.nan)
    np.divide(inner @ a, length, out=cosine, where=length > 0)
    return cosine.clip(-1, 1)
