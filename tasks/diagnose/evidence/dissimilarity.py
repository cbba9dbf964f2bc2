"""How far the clients' gradients disagree."""

from collections.abc import Collection

import numpy as np

from tasks.arrays import Floats


def dissimilarity(gradients: Collection[Floats], shares: Floats) -> float:
    """Returns B = sqrt(sum p_k ||g_k||^2 / ||sum p_k g_k||^2) (FedProx, Li 2020, definition 3).

    1 where all gradients agree; infinite where they cancel.
    """
    mean, squares = np.zeros(len(next(iter(gradients)))), []
    for share, g in zip(shares, gradients, strict=True):
        mean += share * g
        squares.append(share * (g @ g))
    length = float(mean @ mean)
    return float(np.sqrt(float(np.sum(squares)) / length)) if length > 0 else np.inf
