"""How far each client's features are from the whole: means, variances, and the maximum mean discrepancy.

Features are compared in units of a scale. Those of a table have units of their own, so each is scaled by its standard
deviation over the whole, and one that never varies is left out. The pixels of images share a unit, so all are scaled
by the root of their mean variance: a pixel at the rim that is lit once in a thousand images counts no more than others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.partition.features import Features

CLIENT_SAMPLE = 100
"""Most examples of a client that its maximum mean discrepancy is computed on."""

WHOLE_SAMPLE = 300
"""Most examples of the whole for the same."""


@dataclass(frozen=True, eq=False)
class ClientMoments:
    """Means and variances (over n, not n - 1) of the features: (K, F) by client, (F,) of the whole; the scale (F,)."""

    means: Floats
    variances: Floats
    mean: Floats
    variance: Floats
    scale: Floats


def client_moments(xs: Sequence[Features], images: bool) -> ClientMoments:
    """Returns the moments of the K clients' features `xs`, each (n_k, ...) with n_k >= 1, and of the whole.

    A feature that never varies has variance 0 exactly; the scale is 0 where a feature is to be left out.
    """
    rows = [x.reshape(len(x), -1) for x in xs]
    means = np.array([x.mean(axis=0, dtype=np.float64) for x in rows])
    variances = np.array([x.var(axis=0, dtype=np.float64) for x in rows])
    shares = np.array([len(x) for x in rows], dtype=np.float64)
    shares /= shares.sum()
    mean = shares @ means
    variance = shares @ (variances + (means - mean) ** 2)
    # Rounding gives a constant feature a variance of about 1e-34, by which others would be divided.
    lowest = np.min([x.min(axis=0) for x in rows], axis=0)
    highest = np.max([x.max(axis=0) for x in rows], axis=0)
    variance = np.where(lowest == highest, 0, variance)
    scale = np.sqrt(np.full_like(variance, variance.mean()) if images else variance)
    return ClientMoments(means, variances, mean, variance, scale)


def moment_distances(of: ClientMoments) -> tuple[Floats, Floats]:
    """Returns (K,) distances of the clients' means, and of their variances, to those of the whole.

    Over the features f whose scale s_f is not 0: sqrt(mean_f ((mean_kf - mean_f) / s_f)^2) and
    sqrt(mean_f ((var_kf - var_f) / s_f^2)^2). A mean distance of 1 is one standard deviation of the whole; a client
    of a table with twice the whole's variances has a variance distance of 1. 0 where nothing varies.
    """
    used = of.scale > 0
    if not used.any():
        return np.zeros(len(of.means)), np.zeros(len(of.means))
    means = (of.means - of.mean)[:, used] / of.scale[used]
    variances = (of.variances - of.variance)[:, used] / of.scale[used] ** 2
    return np.sqrt((means**2).mean(axis=1)), np.sqrt((variances**2).mean(axis=1))


def maximum_mean_discrepancies(xs: Sequence[Features], of: ClientMoments, rng: np.random.Generator) -> Floats:
    """Returns (K,) squared maximum mean discrepancies between each client's features and the whole's.

    The unbiased estimator of MMD^2 (Gretton et al. 2012, JMLR 13, equation 3), with k(a, b) = exp(-|a - b|^2 / (2 w^2))
    on scaled features, w the median distance between two different examples of the whole: 0 on average, and at times
    below, for a client that is like the whole, whatever its size; at most 2. It is computed on at most CLIENT_SAMPLE
    examples of the client and WHOLE_SAMPLE of the whole. The whole holds the client's examples too: pairs of an
    example with itself are left out of the cross term as well. A client with a single example gets 0, since one
    example has no distribution.
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
    """Returns the (M, N) squared distances between the rows of a (M, F) and b (N, F); exactly 0 between equal rows.

    Also 0 are distances whose square is below 1e-10 of the rows' squared norms, or below the smallest normal float.
    """
    norms = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    squares = norms - 2 * a @ b.T
    # What the subtraction leaves of equal rows is of the order of the norms' last bits. Of norms below the smallest
    # normal float those are no fraction any more, but a fixed 5e-324.
    return np.where(squares > np.maximum(1e-10 * norms, np.finfo(np.float64).tiny), squares, 0)


def _scaled(x: Features, chosen: NDArray[np.int64], of: ClientMoments) -> Floats:
    used = of.scale > 0
    rows = x[chosen].reshape(len(chosen), -1)[:, used]
    return np.asarray((rows - of.mean[used]) / of.scale[used])


def _kernel(squares: Floats, width: float) -> Floats:
    return np.asarray(np.exp(-squares / (2 * width**2)))


def _mean_of_pairs(kernel: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Returns the mean of the kernel over the pairs of two different examples, of which there is one at least."""
    different = rows[:, None] != columns
    return float(kernel[different].mean())
