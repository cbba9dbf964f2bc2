"""Distances of the clients' labels, sizes and features from the whole, the data of all clients together.

K clients, C classes, N examples. All measures are finite for all data. An IID client of n examples is not at 0 either,
because it is a sample: its distances are of the order of 1/sqrt(n), and its Jensen-Shannon divergence of 1/n. Only the
maximum mean discrepancy has no such bias.
"""

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.arrays import Features, Floats, Ints
from tasks.partition.discrepancy import maximum_mean_discrepancies, moment_distances, whole_moments, whole_sample
from tasks.skew import earth_mover, gini

BATCH_VALUES = 2**18
"""Values of small clients that are measured together: 2 MB in float64."""


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Returns the Jensen-Shannon divergence along the last axis, in bits: from 0 (equal) to 1 (no class in common).

    It is (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 and logarithms to base 2 (Lin 1991). The Jensen-Shannon
    distance is the square root of this divergence.
    """
    middle = (p + q) / 2
    # Rounding can leave -1e-17 for nearly equal distributions.
    return np.asarray(np.maximum((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0))


def _relative_entropy(p: Floats, middle: Floats) -> Floats:
    held = p > 0
    ratio = np.divide(p, middle, out=np.ones(np.broadcast_shapes(p.shape, middle.shape)), where=held)
    return np.asarray((p * np.log2(ratio)).sum(axis=-1))


def hellinger(p: Floats, q: Floats) -> Floats:
    """Returns sqrt(sum_c (sqrt p(c) - sqrt q(c))^2 / 2) over the last axis: 0 (equal) to 1 (no class in common)."""
    return np.asarray(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=-1) / 2))


def coefficient_of_variation(sizes: Ints) -> float:
    """Returns the standard deviation (over K, not K - 1) of the sizes, divided by their mean; 0 if all are equal."""
    return float(sizes.std() / sizes.mean())


def skew_by_client(
    xs: Sequence[Features], counts: Ints, images: bool, rng: np.random.Generator
) -> list[dict[str, float]]:
    """Returns how much each client's data differ from the whole.

    Args:
        xs: K arrays (n_k, ...), n_k >= 1. A sequence can read each when it is needed: at most BATCH_VALUES values, or
            one client more, are in use at a time.
        counts: (K, C) number of examples of each class.
        images: whether all features share one unit (see `discrepancy`).
        rng: draws the examples of the maximum mean discrepancy.

    Returns:
        For each client `earth_mover`, `jensen_shannon`, `hellinger`, `missing_classes` (number of classes that the
        whole has but the client has not), `mean_distance`, `variance_distance` and `mmd_squared`.
    """
    sizes, mix = counts.sum(axis=1), counts.sum(axis=0) / counts.sum()
    mixes = counts / sizes[:, None]
    starts = np.cumsum(sizes) - sizes
    whole = whole_moments(xs, images)
    # One thread: a client's products are small, so a second thread mostly waits, and longer if the cores are busy.
    with threadpool_limits(1, "blas"):
        sample = whole_sample(xs, sizes, whole, rng)
        of_moments, mmd_squared = [], []
        for places in _batches(sizes, max(1, BATCH_VALUES // whole.mean.size)):
            some = [xs[place] for place in places.tolist()]
            of_moments += [moment_distances(x, whole) for x in some]
            mmd_squared += maximum_mean_discrepancies(some, starts[places], sample, rng)
    mean_distance, variance_distance = np.array(of_moments).T
    measures: dict[str, Floats | Ints] = {
        "earth_mover": earth_mover(mixes, mix),
        "jensen_shannon": jensen_shannon(mixes, mix),
        "hellinger": hellinger(mixes, mix),
        "missing_classes": ((counts == 0) & (mix > 0)).sum(axis=1),
        "mean_distance": mean_distance,
        "variance_distance": variance_distance,
        "mmd_squared": np.array(mmd_squared),
    }
    return [{name: values[k].item() for name, values in measures.items()} for k in range(len(counts))]


def _batches(sizes: Ints, most: int) -> list[Ints]:
    """Returns the places of all clients in groups of neighbours, which begin within `most` examples of each other."""
    groups = (np.cumsum(sizes) - sizes) // most
    return np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(groups)) + 1)


def summary(by_client: Sequence[dict[str, float]], sizes: Ints) -> dict[str, float]:
    """Returns `size_gini`, `size_cv`, and each measure's `_mean` (unweighted) and `_max` over the clients."""
    summarised = {"size_gini": gini(sizes), "size_cv": coefficient_of_variation(sizes)}
    for name in by_client[0]:
        values = [measures[name] for measures in by_client]
        summarised |= {f"{name}_mean": float(np.mean(values)), f"{name}_max": float(max(values))}
    return summarised
