"""Whether a client's labels follow from its features: trained on one half of its data, tested on the other half."""

import numpy as np

from tasks.clients import Examples
from tasks.local.probe import Probe
from tasks.parameters import Params

_EPOCHS = 20
"""Passes over the first half."""
_FEWEST = 8
"""Fewest examples of a client. Half of them train the model."""


def learnable(
    probe: Probe, params: Params, examples: Examples, learning_rate: float, batch: int
) -> tuple[float, float]:
    """Returns (accuracy on the second half after training on the first, share of the second half's commonest label).

    If the data are unusual but consistent, training on one half helps on the other half. On noise it does not help.
    The result is (0, 1) for fewer than 8 examples.
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
