"""A hold-out of whole groups, such as patients: none is in training and hold-out both."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tasks.errors import DataError

ORDERS = 20
"""Orders of the groups that are tried, fewer where there are more than VISITS / ORDERS groups."""

VISITS = 20_000
"""Groups looked at over all orders, about a fifth of a second."""


def whole_groups(
    y: NDArray[np.int32], groups: NDArray[np.str_], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Returns which examples are held out, (N,): whole groups, near `fraction` of all and of each class.

    In a random order, a group is held out if that brings the hold-out nearer to its share, the sum of
    (held - fraction · n)² / n over the n examples of each class and of all classes together, and if every class keeps
    a training example. Of ORDERS orders the nearest counts. scikit-learn's GroupShuffleSplit takes a fraction of the
    groups, not of the examples, and StratifiedGroupKFold knows only fractions 1/k; neither keeps a class in training.

    Raises:
        DataError: no group can be held out: of each, some class has no example elsewhere.
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
            f"two groups must have examples of one class for one to be held out, got {len(names)} groups that each "
            "have all examples of a class: leave data.group_column empty, or give the data a group more"
        )
    return np.asarray(best[group])


def _draw(
    counts: csr_array, total: NDArray[np.int64], fraction: float, order: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], float]:
    """Returns which groups are held out, (G,), and how far they are from their share."""
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
        # Every group is more than twice the share: the smallest step beyond it is nearer to what was asked than none.
        group = fallback[0]
        taken[group] = True
        row = slice(counts.indptr[group], counts.indptr[group + 1])
        held[counts.indices[row]] += counts.data[row]
    return taken, float(((held - target) ** 2 / total).sum()) if taken.any() else np.inf
