"""The server's own computations of a round: its first state, what it broadcasts, and its step."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.local.architecture import Architecture
from tasks.local.descent import LocalTraining
from tasks.local.tff_names import Computation, TffType, Traced


def build_initialize(broadcast_type: TffType, training: LocalTraining, optimizer: Computation) -> Computation:
    """Returns the TFF computation (what is sent at first) -> the state of the server before the first round."""

    @tff.tensorflow.computation(broadcast_type)
    def initialize(broadcast: Traced) -> Traced:
        specs = tf.TensorSpec(broadcast["params"].shape, tf.float32)
        state = OrderedDict(broadcast, optimizer=optimizer.initialize(specs))
        if training.algorithm.shared:
            state["shared"] = tf.zeros_like(broadcast["params"])
        return state

    return initialize


def build_select(server_type: TffType, names: Sequence[str]) -> Computation:
    """Returns the TFF computation (state of the server) -> its vectors `names`, which are broadcast."""

    @tff.tensorflow.computation(server_type)
    def select(server: Traced) -> Traced:
        return OrderedDict((name, server[name]) for name in names)

    return select


def build_apply(
    server_type: TffType,
    vector: TffType,
    sums_type: TffType,
    architectures: Sequence[Architecture],
    training: LocalTraining,
    optimizer: Computation,
    masked: bool,
) -> Computation:
    """Returns the TFF computation (state, combined update (P,), sums over the clients) -> the next state."""
    algorithm = training.algorithm
    held = [np.zeros(training.num_params, np.float32) for _ in architectures]
    for architecture, holds in zip(architectures, held, strict=True):
        holds[slice(None) if architecture.held is None else architecture.held] = 1

    @tff.tensorflow.computation(server_type, vector, sums_type)
    def apply_update(server: Traced, update: Traced, sums: Traced) -> Traced:
        changed = {}
        if algorithm.normalized:
            update *= tf.math.divide_no_nan(sums["normalizer"], sums["weight"])
        if len(architectures) > 1:
            # HeteroFL (Diao 2021, arXiv 2010.01264, Algorithm 1) averages a parameter over the clients that hold it.
            weight = tf.linalg.matvec(np.stack(held), sums["held"], transpose_a=True)
            update = tf.math.divide_no_nan(update * sums["weight"], weight)
        if algorithm.shared:
            message = sums["message"] if algorithm.kept else tf.math.divide_no_nan(sums["message"], sums["weight"])
            shared = algorithm.next_shared(server["shared"], message)
            # A round without a usable client changes nothing.
            changed["shared"] = tf.where(sums["weight"] > 0, shared, server["shared"])
            update = tf.where(sums["weight"] > 0, algorithm.server_update(update, changed["shared"]), update)
        # TFF's optimisers step against a gradient, so they get the negative update.
        optimizer_state, params = optimizer.next(server["optimizer"], server["params"], -update)
        if masked:
            params *= server["mask"]
        return OrderedDict(server, params=params, optimizer=optimizer_state, **changed)

    return apply_update
