import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tasks.federate.aggregators import aggregator
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.round import build_round
from tasks.federate.schedule import client_rng, visits
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.federate.state import ServerState
from tasks.local.architecture import whole
from tasks.local.descent import LocalTraining
from tasks.models import build, num_params
from tasks.parameters import assign, flatten
from tasks.runtime.failed import Failed
from tasks.settings import AggregatorSettings, ClientSettings, ServerOptimizerSettings
from tests.rounds import next_round

SHAPE, CLASSES, RATE = (3, 3, 1), 3, 0.1


@pytest.fixture(scope="module", autouse=True)
def in_this_process(one_thread):
    with one_thread():
        yield


@pytest.fixture(scope="module")
def clients(make_clients, tmp_path_factory):
    made = make_clients(sizes=(9, 4, 13, 6))
    folder = made.write(tmp_path_factory.mktemp("round"))
    return made, folder / "data" / "clients"


@pytest.fixture
def client_inputs(clients, client_input):
    """(round, epochs) -> the round's clients."""
    made = clients[0]

    def inputs(round_num=1, num_epochs=1):
        given = {}
        for client in made.ids:
            num = len(made.data[client][1])
            order = visits(num, num_epochs, client_rng(0, round_num, client))
            rate, weight = np.float32(RATE), np.float32(num)
            given[client] = client_input(*made.data[client], order, weight=weight, learning_rate=rate)
        return given

    return inputs


def make_round(model, masked=False, server=None, **changes):
    client = ClientSettings(**changes)
    training = LocalTraining(
        input_shape=SHAPE,
        num_classes=CLASSES,
        num_params=num_params(model),
        batch_size=4,
        algorithm=CLIENT_UPDATES[client.kind](client),
    )
    server = server or ServerOptimizerSettings()
    optimizer = SERVER_OPTIMIZERS[server.kind](server)
    return build_round([whole("mlp", model)], training, aggregator(AggregatorSettings(), 4), optimizer, masked)


@pytest.fixture(scope="module")
def logistic():
    model = build("logistic", SHAPE, CLASSES, seed=0)
    # Biases of zero would hide a bias that is lost.
    assign(model, flatten(model) + np.linspace(-0.5, 0.5, 30, dtype=np.float32))
    return model, make_round(model)


def test_round_is_the_weighted_mean_of_the_local_updates(clients, logistic, logistic_reference, client_inputs):
    model, computations = logistic
    inputs, params = client_inputs(), flatten(model)
    state, results = next_round(computations, computations.initialize(params), list(inputs.values()))
    expected = {}
    for client, given in inputs.items():
        x, y = clients[0].data[client]
        local = logistic_reference(
            params, x, y, given["order"], num_classes=CLASSES, batch_size=4, learning_rate=RATE
        ).params
        expected[client] = local - params
    for result, update in zip(results, expected.values(), strict=True):
        np.testing.assert_allclose(result.update, update, atol=1e-5)
    sizes = np.array([len(clients[0].data[client][1]) for client in inputs], np.float64)
    average = sizes / sizes.sum() @ np.stack(list(expected.values()))
    np.testing.assert_allclose(state.params, params + average, atol=1e-5)


def test_order_of_the_clients_changes_only_the_rounding(client_inputs, logistic):
    model, computations = logistic
    start = computations.initialize(flatten(model))
    inputs = list(client_inputs().values())
    there, results = next_round(computations, start, inputs)
    back, reversed_results = next_round(computations, start, inputs[::-1])
    np.testing.assert_allclose(there.params, back.params, atol=1e-6)
    for one, other in zip(results, reversed_results[::-1], strict=True):
        np.testing.assert_array_equal(one.update, other.update)


def test_client_that_fails_is_left_out_of_the_average(client_inputs, logistic):
    model, computations = logistic
    start = computations.initialize(flatten(model))
    inputs = client_inputs()
    without, _ = next_round(computations, start, [given for client, given in inputs.items() if client != "02"])
    inputs["02"] = None  # its examples cannot be read
    found, results = next_round(computations, start, list(inputs.values()))
    assert [isinstance(result, Failed) for result in results] == [False, False, True, False]
    np.testing.assert_array_equal(found.params, without.params)


def test_client_whose_update_is_not_finite_is_left_out_of_the_average(client_inputs, logistic):
    model, computations = logistic
    start = computations.initialize(flatten(model))
    inputs = client_inputs()
    without, _ = next_round(computations, start, [given for client, given in inputs.items() if client != "02"])
    inputs["02"]["learning_rate"] = np.float32(np.inf)
    found, results = next_round(computations, start, list(inputs.values()))
    assert [bool(result.finite) for result in results] == [True, True, False, True]
    np.testing.assert_allclose(found.params, without.params, atol=1e-7)


def test_round_without_any_result_leaves_the_model_alone(client_inputs, logistic):
    model, computations = logistic
    start = computations.initialize(flatten(model))
    inputs = client_inputs()
    state, results = next_round(computations, start, [None] * len(inputs))
    assert all(isinstance(result, Failed) for result in results)
    np.testing.assert_array_equal(state.params, flatten(model))


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adagrad", "adam", "yogi"])
def test_masks_hold_through_local_training_and_the_server_optimizer(kind, client_inputs):
    model = build("logistic", SHAPE, CLASSES, seed=0)
    server = ServerOptimizerSettings(kind=kind, learning_rate=1.0 if kind in ("sgd", "momentum") else 0.1)
    computations = make_round(model, masked=True, server=server, momentum=0.9, weight_decay=0.1)
    params = flatten(model)
    state = computations.initialize(params)
    state, _ = next_round(computations, state, list(client_inputs().values()))
    assert np.count_nonzero(state.params) == params.size
    # The model is pruned after a round without masks, so the server's moments of the pruned parameters are not zero.
    mask = (np.arange(params.size) % 3 != 0).astype(np.float32)
    state = replace(state, mask=mask, params=state.params * mask)
    for round_num in (2, 3):
        state, results = next_round(computations, state, list(client_inputs(round_num, 2).values()))
        for result in results:
            np.testing.assert_array_equal(result.update[mask == 0], 0)
        np.testing.assert_array_equal(state.params[mask == 0], 0)
        assert (state.params[mask == 1] != 0).all()
        np.testing.assert_array_equal(state.mask, mask)


def eager_sgd(model, params, x, y, order, batch_size):
    """The parameters after one epoch of Keras' own SGD, outside of any federation."""
    assign(model, params)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf.keras.optimizers.legacy.SGD(RATE)
    for begin in range(0, len(y), batch_size):
        batch = order[begin : begin + batch_size]
        with tf.GradientTape() as tape:
            loss = loss_of(y[batch], model(x[batch], training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_weights), model.trainable_weights, strict=True)
        )
    return flatten(model)


OWN_MODEL = """
import numpy as np
from tensorflow.keras import Sequential, layers

class Twice(layers.Layer):
    # Lists its parameters in another order than it creates them.
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.second, self.first = layers.Dense(9), layers.Dense(9, activation="tanh")

    def call(self, x):
        return self.second(self.first(x))

def twisted(input_shape, num_classes):
    normalise = layers.Normalization()
    normalise.adapt(np.arange(90.0).reshape(10, 9))
    return Sequential([layers.Input(input_shape), layers.Flatten(), normalise, Twice(), layers.Dense(num_classes)])
"""


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", pytest.param("resnet8", marks=pytest.mark.slow), "our_round_model:twisted"]
)
def test_every_model_trains_as_keras_does(name, clients, tmp_path, monkeypatch, client_inputs):
    (tmp_path / "our_round_model.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    model = build(name, SHAPE, CLASSES, seed=3)
    sys.modules.pop("our_round_model", None)
    params, computations = flatten(model), make_round(model)
    inputs = client_inputs()
    _, results = next_round(computations, computations.initialize(params), list(inputs.values()))
    for (client, given), result in zip(inputs.items(), results, strict=True):
        expected = eager_sgd(model, params, *clients[0].data[client], given["order"], 4)
        # Relative to the largest entry of the update: convolutions add up in another order.
        np.testing.assert_allclose(result.update, expected - params, atol=2e-4 * np.abs(expected - params).max())


def test_state_can_be_cut_and_put_together_again(client_inputs, logistic):
    # As a checkpoint does: the leaves in their order, and back into the structure of a fresh state.
    model, _ = logistic
    computations = make_round(model, server=ServerOptimizerSettings(kind="yogi", learning_rate=0.1))
    fresh = computations.initialize(flatten(model))
    inputs = [list(client_inputs(round_num).values()) for round_num in (1, 2)]
    after_one, _ = next_round(computations, fresh, inputs[0])
    leaves = [np.array(leaf) for leaf in tf.nest.flatten(after_one.nested)]
    copied = ServerState.of(**tf.nest.pack_sequence_as(fresh.nested, leaves))
    expected, _ = next_round(computations, after_one, inputs[1])
    found, _ = next_round(computations, copied, inputs[1])
    assert found.params.tobytes() == expected.params.tobytes()


def test_keras_models_can_still_be_made_after_a_round_was_built(logistic):
    # Keras swaps its classes when a layer is made in a graph, and TFF makes layers in graphs.
    assert build("logistic", SHAPE, CLASSES, seed=0)(np.zeros((1, *SHAPE), np.float32)).shape == (1, CLASSES)
    assert isinstance(logistic[0], tf.keras.Model)


def test_uneven_rounds_need_no_other_computation(clients, logistic, tmp_path, logistic_reference, client_inputs):
    # Other numbers of clients, examples and epochs through the same compiled round.
    model, computations = logistic
    params = flatten(model)
    start = computations.initialize(params)
    for num, num_epochs in ((1, 1), (2, 3), (21, 2)):
        rng = np.random.default_rng(num)
        x, y = rng.random((num, *SHAPE), dtype=np.float32), rng.integers(0, CLASSES, num).astype(np.int32)
        given = client_inputs()["00"]
        order = visits(num, num_epochs, rng)
        given |= {"x": x, "y": y, "num_examples": np.int32(num), "order": order}
        state, _ = next_round(computations, start, [given])
        local = logistic_reference(params, x, y, order, num_classes=CLASSES, batch_size=4, learning_rate=RATE)
        np.testing.assert_allclose(state.params, local.params, atol=1e-5)
