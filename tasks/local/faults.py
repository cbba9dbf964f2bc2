"""Broken clients, simulated (`federate.faults`), to see whether guard, aggregator and diagnosis stand them.

Two faults are of the data, as in Fang 2020 (arXiv 1911.11815) and FedDebug (Gill 2023, arXiv 2301.03553): wrong
labels, and noise for features. The client trains on them honestly, so all that it says of itself (losses,
SCAFFOLD's and FedDyn's vectors, MimeLite's gradient) is of what it has. The others are of what it sends: its update
alone, after the training. Where nothing is simulated, neither the clients' input nor their graph differs.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.clients import Examples
from tasks.local.client_update import NamedTensors
from tasks.settings import FaultSettings

OF_DATA = ("flipped_labels", "noisy_features")
"""The faults of what a client has; the others are of what it sends."""

# First word of the seed of the noise; federate/schedule.py has 1 to 3, cohort.py 4.
_NOISE = 5


def input_types(settings: FaultSettings) -> OrderedDict[str, Any]:
    """Returns the types of a client's inputs for the fault; none with kind none."""
    types: OrderedDict[str, Any] = OrderedDict()
    if settings.kind != "none":
        types["faulty"] = np.bool_
    if settings.kind == "noisy_features":
        types["noise_seed"] = tff.TensorType(np.int32, [2])
    return types


def inputs(settings: FaultSettings, seed: int, round_num: int, client: str) -> OrderedDict[str, Any]:
    """Returns the values of `input_types` for one client and round; the seed of its noise is the same in all rounds."""
    values: OrderedDict[str, Any] = OrderedDict()
    if settings.kind != "none":
        values["faulty"] = np.bool_(client in settings.clients and round_num >= settings.from_round)
    if settings.kind == "noisy_features":
        words = np.random.SeedSequence([_NOISE, seed, *client.encode()]).generate_state(2)
        values["noise_seed"] = words.astype(np.uint32).view(np.int32)
    return values


def with_fault(settings: FaultSettings, seed: int, client: str, examples: Examples, num_classes: int) -> Examples:
    """Returns the client's examples as its fault leaves them, once it has begun; `seed` is the run's."""
    if client not in settings.clients:
        return examples
    x, y = map(tf.constant, examples)
    x, y = faulty_examples(settings, inputs(settings, seed, settings.from_round, client), x, y, num_classes)
    return x.numpy(), y.numpy()


def faulty_examples(
    settings: FaultSettings, client: NamedTensors, x: tf.Tensor, y: tf.Tensor, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what a client has for its own x (N, ...) and y (N,), in the graph.

    flipped_labels: y becomes C − 1 − y. noisy_features: x becomes Gaussian noise with the mean and the sd of all the
    client's features together, so that its scale gives nothing away.
    """
    if settings.kind == "flipped_labels":
        y = tf.where(client["faulty"], num_classes - 1 - y, y)
    if settings.kind == "noisy_features":

        def noise() -> tf.Tensor:
            drawn = tf.random.stateless_normal(tf.shape(x), client["noise_seed"])
            return tf.reduce_mean(x) + tf.math.reduce_std(x) * drawn

        x = tf.ensure_shape(tf.cond(client["faulty"], noise, lambda: x), x.shape)
    return x, y


def faulty_update(settings: FaultSettings, client: NamedTensors, update: tf.Tensor) -> tf.Tensor:
    """Returns what a client sends for its update (P,), in the graph."""
    match settings.kind:
        case "scaled_update":
            return _if_faulty(client, settings.factor * update, update)
        case "reversed_update":
            return _if_faulty(client, -settings.factor * update, update)
        case "not_finite":
            return _if_faulty(client, tf.concat([[np.float32(np.nan)], update[1:]], 0), update)
    return update


def _if_faulty(client: NamedTensors, faulty: tf.Tensor, honest: tf.Tensor) -> tf.Tensor:
    return tf.where(client["faulty"], faulty, honest)
