"""How far the clients' gradients disagree."""

from collections.abc import Sequence

import numpy as np

from tasks.arrays import Floats


def dissimilarity(gradients: Sequence[Floats], shares: Floats) -> float:
    """Returns B = sqrt(sum p_k ||g_k||^2 / ||sum p_k g_k||^2) (FedProx, Li 2020, definition 3).

    1 where all gradients agree; infinite where they cancel.
    """
    mean = np.zeros(len(gradients[0]))
    for share, g in zip(shares, gradients, strict=True):
        mean += share * g
    squares = float(np.sum([share * (g @ g) for share, g in zip(shares, gradients, strict=True)]))
    length = float(mean @ mean)
    return float(np.sqrt(squares / length)) if length > 0 else np.inf
