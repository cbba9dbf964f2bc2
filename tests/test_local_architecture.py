"""Clients with narrower models: each holds the first units of each layer, and an average is over the holders."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tasks.errors import SettingsError
from tasks.federate import federate
from tasks.federate.aggregators import mean
from tasks.federate.round import build_round
from tasks.federate.schedule import client_rng, visits
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.files import read_rows
from tasks.local.architecture import narrower, whole
from tasks.local.client_update import ClientUpdate
from tasks.local.descent import LocalTraining
from tasks.models import build, num_params
from tasks.parameters import assign, flatten
from tasks.settings import AggregatorSettings, ClientSettings, ServerOptimizerSettings
from tests.rounds import next_round

SHAPE, CLASSES = (4, 4, 1), 3


@pytest.fixture(scope="module", autouse=True)
def in_this_process(one_thread):
    with one_thread():
        yield


def held_of(name, width):
    """Returns the full model, the narrow one, its architecture, and by parameter a mask of the part that is held."""
    model, narrow = (build(name, SHAPE, CLASSES, seed=0, width=w) for w in (1.0, width))
    architecture = narrower("mlp", model, narrow)
    flat = np.zeros(num_params(model), bool)
    flat[architecture.held] = True
    masks, begin = {}, 0
    for variable in model.trainable_weights:
        size = variable.shape.num_elements()
        masks[variable.name] = flat[begin : begin + size].reshape(variable.shape)
        begin += size
    return model, narrow, architecture, masks


def block(shape, *ends):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(end) for end in ends)] = True
    return mask


def test_narrow_mlp_holds_the_first_units():
    _, _, architecture, masks = held_of("mlp", 0.25)
    np.testing.assert_array_equal(masks["hidden_1/kernel:0"], block((16, 200), 16, 50))
    np.testing.assert_array_equal(masks["hidden_1/bias:0"], block((200,), 50))
    np.testing.assert_array_equal(masks["hidden_2/kernel:0"], block((200, 200), 50, 50))
    np.testing.assert_array_equal(masks["logits/kernel:0"], block((200, 3), 50, 3))
    np.testing.assert_array_equal(masks["logits/bias:0"], block((3,), 3))
    assert len(set(architecture.held.tolist())) == len(architecture.held)


def nested(units, frozen=1.0):
    """Two blocks whose layers have the same name, after a frozen layer."""
    fixed = tf.keras.layers.Dense(5, kernel_initializer=tf.keras.initializers.Constant(frozen), trainable=False)
    blocks = [tf.keras.Sequential([tf.keras.layers.Dense(units, name="same")]) for _ in range(2)]
    return tf.keras.Sequential([tf.keras.layers.Input((3,)), fixed, *blocks, tf.keras.layers.Dense(2)])


def test_blocks_with_layers_of_one_name_are_held_each_for_itself():
    # Parameters: 5·4 + 4 in the first block, 4·4 + 4 in the second, 4·2 + 2 in the last layer. With half of the units,
    # the first 2 columns (first block), rows and columns (second block) or rows (last layer) are held.
    architecture = narrower("own:model", nested(4), nested(2))
    first = [4 * row + column for row in range(5) for column in range(2)] + [20, 21]
    second = [24 + 4 * row + column for row in range(2) for column in range(2)] + [40, 41]
    last = [44, 45, 46, 47, 52, 53]
    np.testing.assert_array_equal(architecture.held, [*first, *second, *last])


def test_frozen_parameters_that_a_narrower_model_has_otherwise_are_refused():
    with pytest.raises(ValueError, match=r"kernel:0 is frozen, .* give it the same at every width, or train it"):
        narrower("own:model", nested(4), nested(2, frozen=2.0))


def test_narrow_cnn_holds_the_first_channels_of_every_place_behind_the_flattening():
    model, _, _, masks = held_of("cnn", 0.5)
    np.testing.assert_array_equal(masks["conv_1/kernel:0"], block((5, 5, 1, 6), 5, 5, 1, 3))
    np.testing.assert_array_equal(masks["conv_2/kernel:0"], block((5, 5, 6, 16), 5, 5, 3, 8))
    # A row of the dense kernel is place · 16 + channel.
    rows = model.get_layer("hidden_1").kernel.shape[0]
    channel = np.arange(rows) % 16
    np.testing.assert_array_equal(masks["hidden_1/kernel:0"], (channel < 8)[:, None] & (np.arange(120) < 60))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_narrow_model_computes_what_keras_does_with_the_held_parameters(name):
    model, narrow, architecture, _ = held_of(name, 0.5)
    params = np.random.default_rng(1).normal(size=num_params(model), scale=0.2).astype(np.float32)
    x = np.random.default_rng(2).normal(size=(5, *SHAPE)).astype(np.float32)
    assign(narrow, params[architecture.held])

    @tff.tensorflow.computation(tff.TensorType(np.float32, [num_params(model)]))
    def logits(vector):
        return architecture.forward(architecture.take(vector), tf.constant(x), None)[0]

    np.testing.assert_allclose(logits(params), narrow(x), rtol=1e-4, atol=1e-4)
    put = architecture.put(architecture.take(tf.constant(params)), len(params)).numpy()
    np.testing.assert_array_equal(put[architecture.held], params[architecture.held])
    assert np.count_nonzero(put) == len(architecture.held)


def test_each_parameter_is_averaged_over_the_clients_that_hold_it(make_clients, client_input):
    clients = make_clients(sizes=(8, 5, 11), shape=SHAPE)
    model = build("mlp", SHAPE, CLASSES, seed=0)
    shapes = {1.0: model} | {w: build("mlp", SHAPE, CLASSES, seed=0, width=w) for w in (0.25, 0.5)}
    architectures = [whole("mlp", model), *(narrower("mlp", model, shapes[w]) for w in (0.25, 0.5))]
    training = LocalTraining(SHAPE, CLASSES, num_params(model), 4, ClientUpdate(ClientSettings()))
    optimizer = SERVER_OPTIMIZERS["sgd"](ServerOptimizerSettings())
    computations = build_round(architectures, training, mean(AggregatorSettings(), 3), optimizer, masked=False)
    params, given = flatten(model), []
    orders = {c: visits(len(clients.data[c][1]), 2, client_rng(0, 1, c)) for c in clients.ids}
    # Client 00 trains a quarter, 01 a half; 02 trains a half in the first round and the whole model in the second.
    for last in (2, 0):
        given = [
            client_input(*clients.data[c], orders[c], weight=np.float32(w), architecture=np.int32(architecture))
            for c, w, architecture in zip(clients.ids, (8, 5, 11), (1, 2, last), strict=True)
        ]
        state, results = next_round(computations, computations.initialize(params), given)
        total, weight = np.zeros(len(params)), np.zeros(len(params))
        for c, w, index, result in zip(clients.ids, (8, 5, 11), (1, 2, last), results, strict=True):
            held = np.arange(len(params)) if index == 0 else architectures[index].held
            keras = shapes[(1.0, 0.25, 0.5)[index]]
            local = eager_sgd(keras, params[held], *clients.data[c], orders[c])
            np.testing.assert_allclose(result.update[held], local - params[held], atol=1e-5)
            assert np.count_nonzero(np.delete(result.update, held)) == 0
            total[held] += w * (local - params[held])
            weight[held] += w
        expected = params + np.divide(total, weight, out=np.zeros(len(params)), where=weight > 0)
        np.testing.assert_allclose(state.params, expected, atol=1e-5)
        # A parameter that no client holds does not change.
        np.testing.assert_array_equal(state.params[weight == 0], params[weight == 0])
        assert (weight == 0).any() == (last == 2)


def test_five_rounds_with_narrow_clients_are_those_of_keras(make_clients, settings_of, tmp_path):
    clients, widths = make_clients(sizes=(8, 5, 11), shape=SHAPE), {"00": 0.25, "02": 0.5}
    local = {"federate.client.batch_size": 4, "federate.client.learning_rate": 0.1, "federate.local_work.epochs": 2}
    settings = settings_of({"federate.model": "mlp", "federate.rounds": 5, "federate.width": widths, **local})
    model = build("mlp", SHAPE, CLASSES, seed=settings.seed)
    params, size, whole_model = flatten(model), num_params(model), np.arange(num_params(model))
    thin = {c: build("mlp", SHAPE, CLASSES, seed=settings.seed, width=width) for c, width in widths.items()}
    holds = {c: narrower("mlp", model, narrow).held for c, narrow in thin.items()}
    for keras in (model, *thin.values()):
        tf.keras.models.clone_model(keras)  # a clone must not change the model
    for t in range(1, 6):
        total, weight = np.zeros(size), np.zeros(size)
        for c in clients.ids:
            x, y = clients.data[c]
            keras, held = thin.get(c, model), holds.get(c, whole_model)
            order = visits(len(y), 2, client_rng(settings.seed, t, c))
            total[held] += len(y) * (eager_sgd(keras, params[held], x, y, order) - params[held])
            weight[held] += len(y)
        params = (params + total / weight).astype(np.float32)
    federate(settings, clients.write(tmp_path))
    found = flatten(tf.keras.models.load_model(tmp_path / "models" / "global.h5", compile=False))
    np.testing.assert_allclose(found, params, atol=1e-5)
    assert np.abs(params - flatten(build("mlp", SHAPE, CLASSES, seed=settings.seed))).max() > 0.01


def eager_sgd(model, params, x, y, order):
    assign(model, params)
    for epoch in range(2):
        mine = order[epoch * len(y) : (epoch + 1) * len(y)]
        for begin in range(0, len(y), 4):
            batch = mine[begin : begin + 4]
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y[batch], model(x[batch], training=True))
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, model.trainable_weights)
            for variable, gradient in zip(model.trainable_weights, gradients, strict=True):
                variable.assign_sub(0.1 * gradient)
    return flatten(model)


BASE = {"federate.model": "mlp", "federate.rounds": 2, "prune.rounds": 2, "prune.end_round": 2}


@pytest.mark.slow
def test_run_with_narrow_clients_trains_the_whole_model(make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(8, 5, 11), shape=SHAPE)
    federate(settings_of({**BASE, "federate.width": {"00": 0.25, "02": 0.5}}), clients.write(tmp_path / "narrow"))
    federate(settings_of({**BASE, "federate.width": {"00": 1.0}}), clients.write(tmp_path / "whole"))
    federate(settings_of(BASE), clients.write(tmp_path / "plain"))
    logs = [
        read_rows(tmp_path / name / "reports" / "federate" / "clients.csv") for name in ("narrow", "whole", "plain")
    ]
    assert logs[1] == logs[2]
    norms = [{(r["round"], r["client"]): r["update_norm"] for r in rows} for rows in (logs[0], logs[2])]
    # In the first round, the client of full width has the same update as in a run without narrower clients.
    assert float(norms[0]["1", "01"]) == pytest.approx(float(norms[1]["1", "01"]), rel=1e-5)
    assert float(norms[0]["1", "00"]) != pytest.approx(float(norms[1]["1", "00"]), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"federate.model": "logistic"}, "federate.model logistic has no width 0.5 .*no layer is narrower"),
        (
            {"federate.model": "resnet8", "federate.width": {"00": 0.25}},
            "model resnet8 must give .* of width 0.25 .federate.width., got ValueError",
        ),
        ({"federate.width": {"77": 0.5}}, "federate.width names 77, which the data does not have"),
    ],
)
def test_width_that_no_layer_has_is_refused_before_the_first_round(changes, text, make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(8, 5), shape=SHAPE)
    settings = settings_of({**BASE, "federate.width": {"00": 0.5}, **changes})
    with pytest.raises(SettingsError, match=text):
        federate(settings, clients.write(tmp_path))
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"federate.width": {"00": 0.0}}, "federate.width.00 must be > 0"),
        ({"federate.width": {"00": 1.5}}, "federate.width.00 must be <= 1"),
        ({"federate.width": {"00": 0.5}, "federate.client.kind": "scaffold"}, "width needs client.kind sgd or fedprox"),
        ({"federate.width": {"00": 0.5}, "federate.aggregator.kind": "median"}, "width needs aggregator.kind mean"),
    ],
)
def test_widths_that_cannot_be_are_refused_by_name(changes, text, settings_of):
    with pytest.raises(SettingsError, match=text):
        settings_of(changes)
