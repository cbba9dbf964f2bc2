"""Hold-out data of whole groups, such as patients: no group is in both training and hold-out data."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tasks.errors import DataError

ORDERS = 20
"""Most random orders of the groups that are tried; fewer if there are more than VISITS / ORDERS groups."""

VISITS = 20_000
"""Most visits of a group, over all orders together: 20,000 visits take about 0.2 s."""


def whole_groups(
    y: NDArray[np.int32], groups: NDArray[np.str_], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Returns which examples are held out, (N,): whole groups, close to `fraction` of all examples and of each class.

    The distance from this fraction is the sum of (held - fraction · n)² / n, over the n examples of each class and over
    all n = N examples. The groups are visited in a random order. A group is held out if (1) this makes the distance
    smaller, and (2) each class keeps a training example. Up to ORDERS orders are tried, and the one with the smallest
    distance is used.

    Rejected: scikit-learn's GroupShuffleSplit takes a fraction of the groups, not of the examples;
    StratifiedGroupKFold has only fractions 1/k; neither keeps a training example of each class.

    Raises:
        DataError: no group can be held out, because each has all examples of some class.
    """
    names, group = np.unique(groups, return_inverse=True)
    label = np.unique(y, return_inverse=True)[1]
    everything = int(label.max()) + 1
    places = np.concatenate([group, group]), np.concatenate([label, np.full(len(y), everything)])
    counts = csr_array((np.ones(2 * len(y), dtype=np.int64), places), shape=(len(names), everything + 1))
    total = np.asarray(counts.sum(axis=0))
    best, nearest = np.zeros(len(names), dtype=np.bool_), np.inf
    for _ in range(int(np.clip(VISITS // len(names), 1, ORDERS))):
        taken, distance = _draw(counts, total, fraction, rng.permutation(len(names)))
        if distance < nearest:
            best, nearest = taken, distance
    if not best.any():
        raise DataError(
            f"a group can be held out only if other groups have examples of all its classes, got {len(names)} groups "
            "that each have all examples of some class: leave data.group_column empty, or add a group to the data"
        )
    return np.asarray(best[group])


def _draw(
    counts: csr_array, total: NDArray[np.int64], fraction: float, order: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], float]:
    """Returns which groups are held out, (G,), and their distance (see `whole_groups`)."""
    taken, held, target = np.zeros(len(order), dtype=np.bool_), np.zeros(len(total)), fraction * total
    fallback = -1, np.inf
    for group in order.tolist():
        row = slice(counts.indptr[group], counts.indptr[group + 1])
        of, own = counts.indices[row], counts.data[row]
        if (held[of] + own >= total[of]).any():
            continue
        change = float((own * (2 * (held[of] - target[of]) + own) / total[of]).sum())
        if change < 0:
            taken[group] = True
            held[of] += own
        elif change < fallback[1]:
            fallback = group, change
    if not taken.any() and fallback[0] >= 0:
        # No group makes the distance smaller, but one must be held out: the one with the smallest increase.
        group = fallback[0]
        taken[group] = True
        row = slice(counts.indptr[group], counts.indptr[group + 1])
        held[counts.indices[row]] += counts.data[row]
    return taken, float(((held - target) ** 2 / total).sum()) if taken.any() else np.inf
