"""One federated round as one TFF computation: broadcast, local updates, aggregation, server optimiser."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.federate.local_update import CLIENT_TYPE, LocalTraining, Predict, build_local_update


@dataclass(frozen=True)
class Round:
    """The computations of one run; call them inside a runtime's context."""

    initialize: Any
    """({params (P,)}, with the mask (P,) if pruning) -> state of the server, the optimiser and the aggregator."""
    next: Any
    """(server state, clients) -> (server state, the clients' results in their order)."""


def build_round(model: tf.keras.Model, training: LocalTraining, aggregator: Any, optimizer: Any, masked: bool) -> Round:
    """Returns the computations of a run.

    Args:
        model: gives the architecture; its parameters are not looked at.
        training: the local work.
        aggregator: a `tff.aggregators.WeightedAggregationFactory` on flat updates (P,).
        optimizer: a `tff.learning.optimizers.Optimizer` of the server.
        masked: whether the state carries pruning masks, which clients and server keep at zero.
    """
    local_update = build_local_update(_build_predict(model, training.input_shape), training, masked)
    vector = tff.TensorType(np.float32, [training.num_params])
    aggregation = aggregator.create(vector, tff.TensorType(np.float32))
    initialize_server = _build_initialize(local_update.type_signature.parameter[1], optimizer)
    server_type = initialize_server.type_signature.result
    apply_update = _build_apply(server_type, vector, optimizer, masked)
    select = _build_broadcast(server_type, masked)

    @tff.federated_computation(tff.FederatedType(initialize_server.type_signature.parameter, tff.SERVER))
    def initialize(broadcast: Any) -> Any:
        server = tff.federated_map(initialize_server, broadcast)
        return tff.federated_zip(OrderedDict(server=server, aggregator=aggregation.initialize()))

    state_type = initialize.type_signature.result

    @tff.federated_computation(state_type, tff.FederatedType(CLIENT_TYPE, tff.CLIENTS))
    def next_round(state: Any, clients: Any) -> Any:
        broadcast = tff.federated_broadcast(tff.federated_map(select, state.server))
        results = tff.federated_map(local_update, (clients, broadcast))
        aggregated = aggregation.next(state.aggregator, results.update, results.weight)
        server = tff.federated_map(apply_update, (state.server, aggregated.result))
        return tff.federated_zip(OrderedDict(server=server, aggregator=aggregated.state)), results

    # Keras swaps its classes for those of TensorFlow 1 when a layer is made in a graph, as TFF does above, and every
    # model made before is then refused; making one outside of a graph swaps them back.
    tf.keras.models.clone_model(model)
    return Round(initialize, next_round)


def _build_predict(model: tf.keras.Model, input_shape: tuple[int, ...]) -> Predict:
    """Returns the architecture of `model` as a function of its parameters, in the order of its `trainable_weights`."""
    numbered = tf.keras.models.clone_model(model)
    numbered.set_weights(model.get_weights())
    for number, variable in enumerate(numbered.trainable_weights):
        variable.assign(tf.fill(variable.shape, float(number)))
    functional = tff.learning.models.functional_model_from_keras(
        numbered,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (tf.TensorSpec((None, *input_shape), tf.float32), tf.TensorSpec((None,), tf.int32)),
    )
    # TFF takes parameters in the order in which the layers create them; a layer of layers may list them in another.
    created, constants = functional.initial_weights
    places = [int(parameter.flat[0]) for parameter in created]

    def predict(params: Sequence[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return functional.predict_on_batch((tuple(params[place] for place in places), constants), x, training=True)

    return predict


def _build_initialize(broadcast_type: Any, optimizer: Any) -> Any:
    @tff.tensorflow.computation(broadcast_type)
    def initialize(broadcast: Any) -> Any:
        specs = tf.TensorSpec(broadcast["params"].shape, tf.float32)
        return OrderedDict(broadcast, optimizer=optimizer.initialize(specs))

    return initialize


def _build_broadcast(server_type: Any, masked: bool) -> Any:
    @tff.tensorflow.computation(server_type)
    def select(server: Any) -> Any:
        return OrderedDict((name, server[name]) for name in (("params", "mask") if masked else ("params",)))

    return select


def _build_apply(server_type: Any, vector: Any, optimizer: Any, masked: bool) -> Any:
    @tff.tensorflow.computation(server_type, vector)
    def apply_update(server: Any, update: Any) -> Any:
        # TFF's optimisers walk down a gradient: the opposite of the update.
        optimizer_state, params = optimizer.next(server["optimizer"], server["params"], -update)
        if masked:
            params *= server["mask"]
        return OrderedDict(server, params=params, optimizer=optimizer_state)

    return apply_update
