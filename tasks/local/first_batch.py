"""The loss of a client's first batch in a round, under the model at the start of the round."""

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.local.probe import Probe
from tasks.parameters import Params


def first_batch_loss(probe: Probe, params: Params, examples: Examples, visits: NDArray[np.int32]) -> float:
    """Returns the mean loss, in nats, of the examples with the indices `visits` (B,)."""
    losses, labels = _losses(probe, params, examples, visits)
    return float(losses[np.arange(len(labels)), labels].mean())


def loss_by_other_label(probe: Probe, params: Params, examples: Examples, visits: NDArray[np.int32]) -> Floats:
    """Returns (C, C): entry (y, c) is the part of the batch's mean loss from the examples of label y, if c were right.

    The batch is the examples with the indices `visits` (B,). The sum of the entries (y, r(y)) over y is the batch's
    mean loss, in nats, with each label y changed to r(y).
    """
    losses, labels = _losses(probe, params, examples, visits)
    table = np.zeros((losses.shape[1], losses.shape[1]))
    np.add.at(table, labels, losses / len(labels))
    return table


def _losses(
    probe: Probe, params: Params, examples: Examples, visits: NDArray[np.int32]
) -> tuple[Floats, NDArray[np.int32]]:
    """Returns each example's loss (B, C) if label c were right, in nats, and the labels (B,)."""
    x, y = examples
    logits = probe.logits(params, x[visits]).astype(np.float64)
    with np.errstate(all="ignore"):
        return np.logaddexp.reduce(logits, axis=1, keepdims=True) - logits, y[visits]
