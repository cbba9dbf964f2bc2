"""Distances of each client's features from the whole: of means, of variances, and the maximum mean discrepancy.

The whole is the data of all clients together. Features are divided by a scale:

1. Each feature of a table has its own unit, so its scale is its standard deviation over the whole. A constant feature
   is left out.
2. The pixels of images share a unit, so all have one scale, the root of their mean variance. With scales of their own,
   a pixel at the edge that is lit in one of a thousand images would count as much as the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Features, Floats, Ints, as_float32
from tasks.local.moments import BLOCK_VALUES, Moments, merged, moments

CLIENT_SAMPLE = 100
"""Most examples of a client in its maximum mean discrepancy."""

WHOLE_SAMPLE = 300
"""Most examples of the whole in a maximum mean discrepancy."""

PRODUCT_FEATURES = 128
"""Features whose products are summed in float32. With fewer features in all, float32 would save no time."""

PRODUCT_ERROR = 2e-5
"""Largest error that products in float32 may add to a squared maximum mean discrepancy. A bound for all roundings.

The errors of 10,000 clients of 20 images were below 1e-8.
"""


@dataclass(frozen=True, eq=False)
class Whole:
    """Means, variances (over n, not n - 1) and scales of the whole's features, each (F,)."""

    mean: Floats
    variance: Floats
    scale: Floats


def whole_moments(xs: Iterable[Features], images: bool) -> Whole:
    """Returns the moments of the whole, from the features `xs` of K clients, each (n_k, ...) with n_k >= 1.

    One client's features are in memory at a time. The variance of a constant feature is exactly 0. The scale of a
    feature that is left out is 0.
    """
    total = merged(map(_moments, xs))
    variance = total.m2 / total.count
    return Whole(total.mean, variance, np.sqrt(np.full_like(variance, variance.mean()) if images else variance))


def moment_distances(x: Features, whole: Whole) -> tuple[float, float]:
    """Returns the distance of the means of one client's features `x` from the whole's, and the same of the variances.

    They are sqrt(mean_f ((mean_kf - mean_f) / s_f)^2) and sqrt(mean_f ((var_kf - var_f) / s_f^2)^2) over the features f
    whose scale s_f is not 0. A mean distance of 1 is one standard deviation of the whole. In a table, a client with
    twice the whole's variances has a variance distance of 1. Both distances are 0 if no feature varies.
    """
    used = whole.scale > 0
    if not used.any():
        return 0.0, 0.0
    own, scale = _moments(x), whole.scale[used]
    means = (own.mean - whole.mean)[used] / scale
    variances = (own.m2 / own.count - whole.variance)[used] / scale**2
    return float(np.sqrt((means**2).mean())), float(np.sqrt((variances**2).mean()))


def _moments(x: Features) -> Moments:
    rows = x.reshape(len(x), -1)
    size = max(1, BLOCK_VALUES // rows.shape[1])
    return merged(moments(as_float32(rows[start : start + size])) for start in range(0, len(rows), size))


@dataclass(frozen=True, eq=False)
class WholeSample:
    """At most WHOLE_SAMPLE examples of the whole, with which each client's examples are compared.

    Attributes:
        ids: ascending numbers of the M examples, if the examples of all clients are counted one client after the other.
        rows: their scaled features, (M, F), `single` the same as float32, and `norms` their squared norms, (M,).
        width: w of the kernel, the median distance; 0 if all examples are equal.
        within: mean of the kernel over the pairs of different examples.
    """

    moments: Whole
    ids: Ints
    rows: Floats
    single: NDArray[np.float32]
    norms: Floats
    width: float
    within: float


def whole_sample(xs: Sequence[Features], sizes: Ints, moments: Whole, rng: np.random.Generator) -> WholeSample:
    """Returns examples of the whole that `rng` draws; `sizes` (K,) are the numbers of examples of the K clients."""
    starts = np.cumsum(sizes) - sizes
    ids = np.sort(rng.choice(sizes.sum(), min(WHOLE_SAMPLE, sizes.sum()), replace=False))
    owners = np.searchsorted(starts, ids, side="right") - 1
    rows = np.concatenate([_scaled(xs[k], ids[owners == k] - starts[k], moments) for k in np.unique(owners).tolist()])
    norms, single = _squared_norms(rows), rows.astype(np.float32)
    distances = squared_distances(rows, norms, rows, norms)
    apart = distances[distances > 0]
    if not len(apart):
        return WholeSample(moments, ids, rows, single, norms, 0.0, 1.0)
    width = float(np.median(np.sqrt(apart)))
    return WholeSample(moments, ids, rows, single, norms, width, _mean_of_pairs(distances, width, len(ids)))


def maximum_mean_discrepancies(
    xs: Sequence[Features], starts: Ints, whole: WholeSample, rng: np.random.Generator
) -> list[float]:
    """Returns the squared maximum mean discrepancy between each client's features and the whole's.

    This is the unbiased estimator of MMD^2 (Gretton et al. 2012, JMLR 13, equation 3) on scaled features, with
    k(a, b) = exp(-|a - b|^2 / (2 w^2)). w is the median distance between two different examples of the whole. For a
    client that is like the whole it is 0 on average, for any size of the client, and can be negative. It is at most 2.

    It uses at most CLIENT_SAMPLE examples of a client, which `rng` draws. The whole includes the client's examples,
    so the cross term leaves out the pairs of an example with itself, too. A client with one example gets 0, because one
    example has no distribution.

    Args:
        xs: the features of some clients, each (n, ...). Small clients take less time together than one by one.
        starts: number of each client's first example, counted as in `WholeSample.ids`.
        whole: sample of the whole.
        rng: draws the examples.
    """
    found, measured = [0.0] * len(xs), [k for k, x in enumerate(xs) if len(x) > 1]
    if not measured or not whole.width:
        return found
    chosen = [np.sort(rng.choice(len(xs[k]), min(CLIENT_SAMPLE, len(xs[k])), replace=False)) for k in measured]
    shared = [_num_shared(whole.ids, its + starts[k]) for k, its in zip(measured, chosen, strict=True)]
    rows = np.concatenate([_scaled(xs[k], its, whole.moments) for k, its in zip(measured, chosen, strict=True)])
    ends = np.cumsum([len(its) for its in chosen])
    norms = _squared_norms(rows)
    from_whole = _distances_from_whole(rows, norms, ends, whole, np.array(shared))
    for k, start, end, same in zip(measured, [0, *ends[:-1]], ends, shared, strict=True):
        own, of_own = rows[start:end], norms[start:end]
        within = _mean_of_pairs(squared_distances(own, of_own, own, of_own), whole.width, len(own))
        found[k] = within - 2 * _mean_of_pairs(from_whole[start:end], whole.width, same) + whole.within
    return found


def _num_shared(ids: Ints, others: Ints) -> int:
    """Returns how many of the ascending numbers `others` are among the ascending `ids`."""
    places = np.searchsorted(ids, others)
    return int(np.count_nonzero(ids[np.minimum(places, len(ids) - 1)] == others))


def _distances_from_whole(rows: Floats, norms: Floats, ends: Ints, whole: WholeSample, shared: Ints) -> Floats:
    """Returns the squared distances (n, M) between the `rows` (n, F) of some clients and those of `whole`.

    `ends` are the ends of the clients' rows, and `shared` their numbers of examples that are in `whole`, too.

    These products take most of the time of the step partition, and float32 halves it. They are used if they cannot
    change a client's result by more than PRODUCT_ERROR: sums of K = PRODUCT_FEATURES products are wrong by at most
    (K + 2) u |a| |b|, with u = 2^-24, because each row is rounded once and each sum K times, in any order (Higham 2002,
    section 3.1). A squared distance has twice this error, and the kernel's slope is at most 1 / (2 w^2). The mean of
    the kernels counts twice in MMD^2. Rows that are far from the mean and near each other need float64.
    """
    num_features = rows.shape[1]
    if num_features >= PRODUCT_FEATURES:
        starts = np.array([0, *ends[:-1]])
        pairs = (ends - starts) * len(whole.rows) - shared
        lengths = (np.add.reduceat(np.sqrt(norms), starts) * np.sqrt(whole.norms).sum() / pairs).max()
        if 2 * (PRODUCT_FEATURES + 2) * 2**-24 * lengths <= PRODUCT_ERROR * whole.width**2:
            single, products = rows.astype(np.float32), np.zeros((len(rows), len(whole.rows)))
            for start in range(0, num_features, PRODUCT_FEATURES):
                some = slice(start, start + PRODUCT_FEATURES)
                products += single[:, some] @ whole.single[:, some].T
            return np.maximum(norms[:, None] + whole.norms - 2 * products, 0)
    return squared_distances(rows, norms, whole.rows, whole.norms)


def squared_distances(a: Floats, norms_a: Floats, b: Floats, norms_b: Floats) -> Floats:
    """Returns the squared distances (M, N) between the rows of a (M, F) and b (N, F); exactly 0 for equal rows.

    A squared distance also becomes 0 if it is below 1e-10 of the sum of the rows' squared norms, or below the smallest
    normal float.

    Args:
        a: rows.
        norms_a: their squared norms, (M,).
        b: rows.
        norms_b: their squared norms, (N,).
    """
    norms = norms_a[:, None] + norms_b
    squares = norms - 2 * (a @ b.T)
    # For equal rows, rounding leaves a difference as large as the norms' last bits. For norms below the smallest
    # normal float, this difference is 5e-324, however small the norm is.
    return np.where(squares > np.maximum(1e-10 * norms, np.finfo(np.float64).tiny), squares, 0)


def _squared_norms(rows: Floats) -> Floats:
    return np.asarray(np.einsum("nf,nf->n", rows, rows))


def _scaled(x: Features, chosen: Ints, whole: Whole) -> Floats:
    used = whole.scale > 0
    rows = as_float32(x[chosen]).reshape(len(chosen), -1)
    if used.all():
        return np.asarray((rows - whole.mean) / whole.scale)
    return np.asarray((rows[:, used] - whole.mean[used]) / whole.scale[used])


def _mean_of_pairs(squares: Floats, width: float, num_same: int) -> float:
    """Returns the mean of the kernel over all pairs of different examples, from the squared distances of all pairs.

    In `num_same` of the pairs, an example is paired with itself. Its distance is exactly 0 and its kernel 1. There is
    at least one pair of different examples.
    """
    kernel = np.exp(squares * (-1 / (2 * width**2)))
    return float((kernel.sum() - num_same) / (kernel.size - num_same))
