"""Distances of each client's features from the whole: of means, of variances, and the maximum mean discrepancy.

The whole is the data of all clients together. Features are divided by a scale:

1. Each feature of a table has its own unit, so its scale is its standard deviation over the whole. A constant feature
   is left out.
2. The pixels of images share a unit, so all have one scale, the root of their mean variance. With scales of their own,
   a pixel at the edge that is lit in one of a thousand images would count as much as the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.partition.features import Features

CLIENT_SAMPLE = 100
"""Most examples of a client in its maximum mean discrepancy."""

WHOLE_SAMPLE = 300
"""Most examples of the whole in a maximum mean discrepancy."""


@dataclass(frozen=True, eq=False)
class ClientMoments:
    """Means and variances (over n, not n - 1) of the features: (K, F) of the clients, (F,) of the whole; scale (F,)."""

    means: Floats
    variances: Floats
    mean: Floats
    variance: Floats
    scale: Floats


def client_moments(xs: Sequence[Features], images: bool) -> ClientMoments:
    """Returns the moments of the features `xs` of K clients, each (n_k, ...) with n_k >= 1, and of the whole.

    The variance of a constant feature is exactly 0. The scale of a feature that is left out is 0.
    """
    rows = [x.reshape(len(x), -1) for x in xs]
    means = np.array([x.mean(axis=0, dtype=np.float64) for x in rows])
    variances = np.array([x.var(axis=0, dtype=np.float64) for x in rows])
    shares = np.array([len(x) for x in rows], dtype=np.float64)
    shares /= shares.sum()
    mean = shares @ means
    variance = shares @ (variances + (means - mean) ** 2)
    # By rounding, a constant feature has a variance of about 1e-34, and the distances are divided by it.
    lowest = np.min([x.min(axis=0) for x in rows], axis=0)
    highest = np.max([x.max(axis=0) for x in rows], axis=0)
    variance = np.where(lowest == highest, 0, variance)
    scale = np.sqrt(np.full_like(variance, variance.mean()) if images else variance)
    return ClientMoments(means, variances, mean, variance, scale)


def moment_distances(of: ClientMoments) -> tuple[Floats, Floats]:
    """Returns the distances (K,) of the clients' means from the whole's means, and the same (K,) of the variances.

    They are sqrt(mean_f ((mean_kf - mean_f) / s_f)^2) and sqrt(mean_f ((var_kf - var_f) / s_f^2)^2) over the features f
    whose scale s_f is not 0. A mean distance of 1 is one standard deviation of the whole. In a table, a client with
    twice the whole's variances has a variance distance of 1. Both distances are 0 if no feature varies.
    """
    used = of.scale > 0
    if not used.any():
        return np.zeros(len(of.means)), np.zeros(len(of.means))
    means = (of.means - of.mean)[:, used] / of.scale[used]
    variances = (of.variances - of.variance)[:, used] / of.scale[used] ** 2
    return np.sqrt((means**2).mean(axis=1)), np.sqrt((variances**2).mean(axis=1))


def maximum_mean_discrepancies(xs: Sequence[Features], of: ClientMoments, rng: np.random.Generator) -> Floats:
    """Returns the squared maximum mean discrepancies (K,) between each client's features and the whole's.

    This is the unbiased estimator of MMD^2 (Gretton et al. 2012, JMLR 13, equation 3) on scaled features, with
    k(a, b) = exp(-|a - b|^2 / (2 w^2)). w is the median distance between two different examples of the whole. For a
    client that is like the whole it is 0 on average, for any size of the client, and can be negative. It is at most 2.

    It uses at most CLIENT_SAMPLE examples of the client and WHOLE_SAMPLE of the whole. The whole includes the client's
    examples, so the cross term leaves out the pairs of an example with itself, too. A client with one example gets 0,
    because one example has no distribution.
    """
    sizes = np.array([len(x) for x in xs])
    starts = np.cumsum(sizes) - sizes
    whole_ids = np.sort(rng.choice(sizes.sum(), min(WHOLE_SAMPLE, sizes.sum()), replace=False))
    owners = np.searchsorted(starts, whole_ids, side="right") - 1
    whole = np.concatenate(
        [_scaled(xs[k], whole_ids[owners == k] - starts[k], of) for k in range(len(xs)) if (owners == k).any()]
    )
    distances = squared_distances(whole, whole)
    apart = distances[distances > 0]
    if not len(apart):
        return np.zeros(len(xs))
    width = float(np.median(np.sqrt(apart)))

    squares = np.zeros(len(xs))
    within_whole = _mean_of_pairs(_kernel(distances, width), whole_ids, whole_ids)
    for k, x in enumerate(xs):
        if sizes[k] < 2:
            continue
        chosen = np.sort(rng.choice(sizes[k], min(CLIENT_SAMPLE, sizes[k]), replace=False))
        own, own_ids = _scaled(x, chosen, of), chosen + starts[k]
        within = _mean_of_pairs(_kernel(squared_distances(own, own), width), own_ids, own_ids)
        across = _mean_of_pairs(_kernel(squared_distances(own, whole), width), own_ids, whole_ids)
        squares[k] = within - 2 * across + within_whole
    return squares


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Returns the squared distances (M, N) between the rows of a (M, F) and b (N, F); exactly 0 for equal rows.

    A squared distance also becomes 0 if it is below 1e-10 of the sum of the rows' squared norms, or below the smallest
    normal float.
    """
    norms = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    squares = norms - 2 * a @ b.T
    # For equal rows, rounding leaves a difference as large as the norms' last bits. For norms below the smallest
    # normal float, this difference is 5e-324, however small the norm is.
    return np.where(squares > np.maximum(1e-10 * norms, np.finfo(np.float64).tiny), squares, 0)


def _scaled(x: Features, chosen: NDArray[np.int64], of: ClientMoments) -> Floats:
    used = of.scale > 0
    rows = x[chosen].reshape(len(chosen), -1)[:, used]
    return np.asarray((rows - of.mean[used]) / of.scale[used])


def _kernel(squares: Floats, width: float) -> Floats:
    return np.asarray(np.exp(-squares / (2 * width**2)))


def _mean_of_pairs(kernel: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Returns the mean of the kernel over all pairs of different examples; there is at least one pair."""
    different = rows[:, None] != columns
    return float(kernel[different].mean())
