"""Simulated faults of clients (`federate.faults`), to test the guard, the aggregator and the diagnosis.

Two faults change a client's data, as in Fang 2020 (arXiv 1911.11815) and FedDebug (Gill 2023, arXiv 2301.03553): wrong
labels, and noise instead of the features. The client trains on these data as usual. So all that it reports (losses,
SCAFFOLD's and FedDyn's vectors, MimeLite's gradient) belongs to them. Three faults change only the update that the
client sends after its training. An absent client is drawn and takes no part. If no fault is simulated, or clients are
absent, the clients' inputs and graphs are as without this module.
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
"""The faults that change a client's data."""

_WITHOUT_INPUTS = ("none", "absent")

# First word of the seed of the noise, so that it shares no draws: schedule.py and public.py of federate have 1 to 4.
_NOISE = 5


def acts(settings: FaultSettings, round_num: int) -> bool:
    """Returns whether some clients are faulty in a round."""
    begun, ended = round_num >= settings.from_round, 0 < settings.until_round < round_num
    return settings.kind != "none" and begun and not ended


def absent(settings: FaultSettings, round_num: int) -> frozenset[str]:
    """Returns the clients that stay away from a round."""
    return frozenset(settings.clients if settings.kind == "absent" and acts(settings, round_num) else ())


def of_graph(settings: FaultSettings) -> dict[str, Any]:
    """Returns the settings on which a client's graph depends; the other settings come with its inputs."""
    if settings.kind in _WITHOUT_INPUTS:
        return {}
    return settings.model_dump(mode="json", include={"kind", "factor"})


def input_types(settings: FaultSettings) -> OrderedDict[str, Any]:
    """Returns the types of the inputs that a client needs for the fault; none if `kind` is none or absent."""
    types: OrderedDict[str, Any] = OrderedDict()
    if settings.kind not in _WITHOUT_INPUTS:
        types["faulty"] = np.bool_
    if settings.kind == "noisy_features":
        types["noise_seed"] = tff.TensorType(np.int32, [2])
    return types


def inputs(settings: FaultSettings, seed: int, round_num: int, client: str) -> OrderedDict[str, Any]:
    """Returns the values of `input_types` for one client and round. Its noise has the same seed in all rounds."""
    values: OrderedDict[str, Any] = OrderedDict()
    if settings.kind not in _WITHOUT_INPUTS:
        values["faulty"] = np.bool_(client in settings.clients and acts(settings, round_num))
    if settings.kind == "noisy_features":
        words = np.random.SeedSequence([_NOISE, seed, *client.encode()]).generate_state(2)
        values["noise_seed"] = words.astype(np.uint32).view(np.int32)
    return values


def with_fault(
    settings: FaultSettings, seed: int, round_num: int, client: str, examples: Examples, num_classes: int
) -> Examples:
    """Returns the examples on which the client trains in a round. `seed` is the seed of the run."""
    if settings.kind not in OF_DATA or client not in settings.clients or not acts(settings, round_num):
        return examples
    x, y = map(tf.constant, examples)
    x, y = faulty_examples(settings, inputs(settings, seed, round_num, client), x, y, num_classes)
    return x.numpy(), y.numpy()


def faulty_examples(
    settings: FaultSettings, client: NamedTensors, x: tf.Tensor, y: tf.Tensor, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the x (N, ...) and y (N,) on which a client trains, from its own `x` and `y`, in the graph.

    flipped_labels: y becomes C − 1 − y. noisy_features: x becomes Gaussian noise with the mean and the standard
    deviation of all of the client's features together, so that the scale does not show the fault.
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
    """Returns the update (P,) that a client sends, from its own `update`, in the graph."""
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
