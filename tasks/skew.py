"""How unevenly labels and sizes are spread over the clients, for partition.json and the diagnosis."""

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats


def earth_mover(p: Floats, q: Floats) -> Floats:
    """Returns sum_c |p(c) - q(c)| along the last axis: from 0 (equal) to 2 (no class in common).

    This is the earth mover's distance between label distributions of Zhao et al. (arXiv 1806.00582, section 3.2), in
    which all pairs of classes are equally far apart. It is twice the total variation distance.
    """
    return np.asarray(np.abs(p - q).sum(axis=-1))


def entropy(counts: NDArray[np.int64]) -> float:
    """Returns -sum_c q_c ln q_c, nats, with q_c the share of class c in the `counts` (C,), of which one is above 0.

    It is the lowest loss that one answer for all examples can have: the loss of chance. It is 0 if all examples are of
    one class.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def gini(sizes: NDArray[np.int64]) -> float:
    """Returns the Gini coefficient of the sizes (K,): 0 if all are equal, 1 - 1/K if one client has all examples.

    It is sum_i sum_j |n_i - n_j| / (2 K N), or sum_i (2 i - K - 1) n_(i) / (K N) over the ascending sizes, i = 1..K.
    """
    ordered = np.sort(sizes)
    ranks = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float((ranks * ordered).sum() / (len(ordered) * ordered.sum()))
