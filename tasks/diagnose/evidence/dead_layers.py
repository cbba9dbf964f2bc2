"""Layers that no training can move: their weights start at zero, and no gradient ever reaches them."""

import numpy as np
import tensorflow as tf

from tasks.clients import Examples
from tasks.local.probe import Probe
from tasks.parameters import flatten, kernels

_STEP = 0.1
"""Standard deviation of the random numbers that stand for what training makes of a parameter. Any one will do: a
gradient that is not zero everywhere is zero by chance with probability 0."""


def dead_layers(model: tf.keras.Model, examples: Examples, seed: int) -> tuple[str, ...]:
    """Returns the layers whose weights are all zero and stay so, by name, in the model's order; none in a sound model.

    A parameter can move if the gradient of the loss is not zero in it, now or after others have moved. Those that can
    are given random values, until no further one can. A last layer of zeros moves at once; so does a bias. A hidden
    layer of zeros with the rectifier and the layer of zeros behind it do not: each gets its gradient by the other.

    Args:
        model: the first global model.
        examples: from which the gradient is taken.
        seed: of the random values.
    """
    probe, params, rng = Probe(model), flatten(model), np.random.default_rng(seed)
    zero = [kernel for kernel in kernels(model) if not params[kernel.begin : kernel.end].any()]
    moves = np.zeros(len(params), np.bool_)
    while zero:
        values = np.where(moves, params + _STEP * rng.standard_normal(len(params)), params).astype(np.float32)
        further = (probe.gradient(values, examples)[1] != 0) & ~moves
        if not further.any():
            break
        moves |= further
    return tuple(dict.fromkeys(kernel.layer for kernel in zero if not moves[kernel.begin : kernel.end].any()))
