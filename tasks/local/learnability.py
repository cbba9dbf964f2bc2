"""Whether a client's labels follow from its features: one half of its data is learnt, the other half is predicted."""

import numpy as np

from tasks.clients import Examples
from tasks.local.probe import Probe
from tasks.parameters import Params

_EPOCHS = 20
_FEWEST = 8
"""Examples below which nothing is learnt."""


def learnable(
    probe: Probe, params: Params, examples: Examples, learning_rate: float, batch: int
) -> tuple[float, float]:
    """Returns (accuracy on the second half after training on the first, share of its most frequent label).

    Data that are odd but make sense are learnt from one half for the other; noise is not. (0, 1) for fewer than 8.
    """
    x, y = examples
    if len(y) < _FEWEST:
        return 0.0, 1.0
    order = np.random.default_rng(0).permutation(len(y))
    first, second = order[: len(y) // 2], order[len(y) // 2 :]
    at = params.astype(np.float64)
    for epoch in range(_EPOCHS):
        turn = np.random.default_rng(epoch).permutation(len(first))
        for i in range(0, len(first), batch):
            visits = first[turn[i : i + batch]]
            at -= learning_rate * probe.gradient(at.astype(np.float32), (x[visits], y[visits]))[1]
    accuracy = probe.fit(at.astype(np.float32), (x[second], y[second])).accuracy
    return accuracy, float(np.bincount(y[second]).max() / len(second))
