"""A user's own model: a round does with it what Keras's own training does, or it is refused in one line."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

from tasks.errors import SettingsError
from tasks.federate.fit import check_fit
from tasks.local.functional import build_forward
from tasks.models import build, save_model

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).random((6, *SHAPE)).astype(np.float32)

OWN = """
import numpy as np
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers, losses


def _flat(shape, *last):
    return Sequential([layers.Input(shape), layers.Flatten(), *last])


def softmax(shape, classes):
    return _flat(shape, layers.Dense(classes, activation="softmax"))


def softmax_layer(shape, classes):
    return _flat(shape, layers.Dense(classes), layers.Softmax())


def softmax_activation(shape, classes):
    return _flat(shape, layers.Dense(classes), layers.Activation("softmax"))


def softmax_operation(shape, classes):
    inputs = layers.Input(shape)
    return Model(inputs, tf.nn.softmax(layers.Dense(classes)(layers.Flatten()(inputs))))


def softmax_in_a_head(shape, classes):
    return _flat(shape, Sequential([layers.Dense(4), layers.Dense(classes, activation="softmax")]))


def sigmoid(shape, classes):
    return _flat(shape, layers.Dense(1, activation="sigmoid"))


def one_logit(shape, classes):
    return _flat(shape, layers.Dense(1))


def _ending(head):
    def model(shape, classes):
        inputs = layers.Input(shape)
        return Model(inputs, head(layers.Dense(4)(layers.Flatten()(inputs)), classes))
    return model


def _compiled(**chosen):
    def model(shape, classes):
        made = _flat(shape, layers.Dense(classes))
        made.compile(**chosen)
        return made
    return model


def constraint(shape, classes):
    return _flat(shape, layers.Dense(classes, kernel_constraint="non_neg"))


class Measured(layers.Layer):
    def call(self, x):
        self.add_metric(tf.reduce_mean(x), name="mean")
        return x


def metric(shape, classes):
    return _flat(shape, Measured(), layers.Dense(classes))


class Trains(Model):
    def train_step(self, data):
        return {}


def train_step(shape, classes):
    inputs = layers.Input(shape)
    return Trains(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))


def spectral(shape, classes):
    return _flat(shape, layers.SpectralNormalization(layers.Dense(classes)))


mse = _compiled(loss="mse")
focal = _compiled(loss=losses.CategoricalFocalCrossentropy())
smoothed = _compiled(loss=losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1))
adam = _compiled(optimizer="adam", loss="sparse_categorical_crossentropy")
entropy_object = _compiled(optimizer="adam", loss=losses.SparseCategoricalCrossentropy(from_logits=True))
without_loss = _compiled(optimizer="adam")

halved_softmax = _ending(lambda x, classes: tf.nn.softmax(layers.Dense(classes)(x)) / 2)
hidden_sigmoid = _ending(lambda x, classes: layers.Lambda(tf.nn.sigmoid)(layers.Dense(1)(x)))
over_examples = _ending(lambda x, classes: layers.Softmax(axis=0)(layers.Dense(classes)(x)))
penalised = _ending(lambda x, classes: layers.Dense(classes, "softmax", activity_regularizer="l2")(x))


def used_twice(shape, classes):
    inputs, softmax = layers.Input(shape), layers.Activation("softmax")
    return Model(inputs, softmax(layers.Dense(classes)(softmax(layers.Flatten()(inputs)))))


callable_softmax = _ending(lambda x, classes: layers.Dense(classes, activation=tf.nn.softmax)(x))
softmax_layer_in_a_head = _ending(lambda x, classes: Sequential([layers.Dense(classes), layers.Softmax()])(x))


def penalty_beside_softmax(shape, classes):
    inputs = layers.Input(shape)
    x = layers.Dense(4)(layers.Flatten()(inputs))
    model = Model(inputs, layers.Softmax()(layers.Dense(classes)(x)))
    model.add_loss(3 * tf.reduce_mean(tf.square(x)))
    return model


class Linear(layers.Layer):
    def __init__(self, units=4, inputs=64):
        super().__init__()
        self.w = self.add_weight(shape=(inputs, units), initializer="random_normal")
        self.b = self.add_weight(shape=(units,), initializer="zeros")

    def call(self, x):
        return x @ self.w + self.b


def without_names(shape, classes):
    return _flat(shape, Linear(), layers.Dense(classes))


class Subclass(Model):
    def __init__(self, classes):
        super().__init__()
        self.flat, self.dropout, self.last = layers.Flatten(), layers.Dropout(0.5), layers.Dense(classes)

    def call(self, x):
        return self.last(self.dropout(self.flat(x)))


def subclass(shape, classes):
    return Subclass(classes)


def _recurrent(layer, shape):
    return lambda given, classes: _flat(given, layers.Reshape(shape), layer(), layers.Flatten(), layers.Dense(classes))


lstm = _recurrent(lambda: layers.LSTM(4, dropout=0.5, recurrent_dropout=0.5), (8, 8))
conv_lstm = _recurrent(lambda: layers.ConvLSTM2D(2, 3, dropout=0.5, recurrent_dropout=0.5), (4, 4, 4, 1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "owned.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "owned"
    del sys.modules["owned"]


@pytest.mark.parametrize(
    ("function", "classes", "says"),
    [
        ("constraint", 3, "dense/kernel:0 has the constraint NonNeg, which an average of clients can break"),
        ("metric", 3, "measured keeps the metric mean (add_metric), and no round reads it: leave it out"),
        ("train_step", 3, "Trains has a train_step of its own, which no client calls: leave it out"),
        ("spectral", 3, "is SpectralNormalization, which changes a state of its own"),
        ("mse", 3, "got the loss 'mse': leave compile out"),
        ("focal", 3, "got the loss CategoricalFocalCrossentropy: leave compile out"),
        ("smoothed", 3, "got the loss CategoricalCrossentropy with label_smoothing 0.1: leave compile out"),
        ("halved_softmax", 3, "got outputs that are always between 0 and 1"),
        ("hidden_sigmoid", 2, "got outputs that are always between 0 and 1"),
        ("over_examples", 3, "must give logits, or end in one softmax over the classes"),
        (
            "penalised",
            3,
            "must give logits, or end in one softmax over the classes that nothing else in the model uses",
        ),
        (
            "used_twice",
            3,
            "must give logits, or end in one softmax over the classes that nothing else in the model uses",
        ),
    ],
)
def test_what_no_round_honours_is_refused(own, function, classes, says):
    with pytest.raises(SettingsError) as caught:
        build(f"{own}:{function}", SHAPE, classes, seed=0)
    assert str(caught.value).startswith(f"federate.model {own}:{function}")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("function", "classes", "said"),
    [
        ("adam", 3, ["is compiled with Adam, but clients train with SGD, as federate.client says"]),
        ("entropy_object", 3, ["is compiled with Adam, but clients train with SGD, as federate.client says"]),
        ("without_loss", 3, ["is compiled with Adam, but clients train with SGD, as federate.client says"]),
        ("callable_softmax", 3, ["gives logits: its last softmax is left out"]),
        ("softmax_layer_in_a_head", 3, ["gives logits: its last softmax is left out"]),
        ("subclass", 3, []),
    ],
)
def test_what_becomes_of_a_model_is_said_once(own, function, classes, said):
    heard = []
    build(f"{own}:{function}", SHAPE, classes, seed=0, say=heard.append)
    assert heard == said


@pytest.mark.parametrize("function", ["lstm", "conv_lstm"])
def test_a_recurrent_layer_with_dropout_is_taken_and_fits_any_number_of_examples(own, function):
    model = build(f"{own}:{function}", SHAPE, 3, seed=0)
    check_fit(f"{own}:{function}", model, SimpleNamespace(test_x=X, test_y=np.zeros(6, np.int32), normalize="global"))


def as_given(own, function, classes=3):
    """Returns the model as its builder makes it, with the same parameters as the model of the run."""
    tf.keras.utils.set_random_seed(0)
    tf.keras.backend.reset_uids()
    return getattr(sys.modules[own], function)(SHAPE, classes)


@pytest.mark.parametrize(
    "function",
    [
        "softmax",
        "softmax_layer",
        "softmax_activation",
        "softmax_operation",
        "softmax_in_a_head",
        "callable_softmax",
        "softmax_layer_in_a_head",
    ],
)
def test_a_model_that_ends_in_softmax_gives_its_logits(own, function):
    model, given = build(f"{own}:{function}", SHAPE, 3, seed=0), as_given(own, function, 3)
    logits = model(X).numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), given(X), rtol=1e-5)
    assert not np.allclose(logits.sum(1), 1)


@pytest.mark.parametrize(("function", "probability"), [("sigmoid", lambda p: p), ("one_logit", tf.nn.sigmoid)])
def test_one_output_is_the_second_of_two_classes(own, function, probability):
    model, given = build(f"{own}:{function}", SHAPE, 2, seed=0), as_given(own, function, 2)
    second = probability(given(X)).numpy()[:, 0]
    np.testing.assert_allclose(tf.nn.softmax(model(X)), np.stack([1 - second, second], 1), rtol=1e-5)
    assert len(model.trainable_weights) == 2  # kernel and bias of the user's layer; the two logits are fixed


def test_one_output_for_three_classes_is_refused(own):
    with pytest.raises(SettingsError, match=r"must give logits \(None, 3\), got \(None, 1\)"):
        build(f"{own}:one_logit", SHAPE, 3, seed=0)


def test_the_penalty_of_add_loss_stays_where_the_softmax_is_left_out(own):
    model = build(f"{own}:penalty_beside_softmax", SHAPE, 3, seed=0)
    forward, _ = build_forward(f"{own}:penalty_beside_softmax", model)
    params = [variable.value() for variable in model.trainable_weights]
    _, penalty = tf.function(lambda: forward(params, tf.constant(X), None), autograph=False)()
    hidden = X.reshape(6, 64) @ params[0].numpy() + params[1].numpy()
    assert float(penalty) == pytest.approx(3 * np.mean(hidden**2), rel=1e-5)


@pytest.mark.parametrize("function", ["without_names", "subclass"])
def test_plain_tensorflow_loads_a_model_with_parts_of_ones_own(own, function, tmp_path):
    model = build(f"{own}:{function}", SHAPE, 3, seed=0)
    save_model(model, tmp_path / "global.h5")
    known = {name: getattr(sys.modules[own], name) for name in ("Linear", "Subclass")}
    loaded = tf.keras.models.load_model(tmp_path / "global.h5", custom_objects=known)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_layer_that_draws_when_the_model_predicts_is_refused():
    inputs = layers.Input(SHAPE)
    model = Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(inputs, training=True))))
    with pytest.raises(SettingsError, match="must give the same logits for the same example"):
        build_forward("own:model", model)


HOLD_OUT = SimpleNamespace(test_x=np.full((4, *SHAPE), 9.0, np.float32), test_y=np.zeros(4, np.int32), normalize="none")


def test_a_model_that_begins_with_nan_is_refused():
    nan = tf.keras.initializers.Constant(np.nan)
    model = Sequential([layers.Input(SHAPE), layers.Flatten(), layers.Dense(3, kernel_initializer=nan, name="last")])
    with pytest.raises(SettingsError, match="must begin with finite parameters, got NaN or infinity in last/kernel:0"):
        check_fit("own:model", model, HOLD_OUT)


class Tokens(layers.Layer):
    """Has an Embedding inside, where `check_fit` cannot see whether it gets the examples."""

    def __init__(self):
        super().__init__()
        self.tokens = layers.Embedding(9, 4)

    def call(self, x):
        return self.tokens(x)


def test_ids_beyond_an_embedding_inside_a_layer_of_ones_own_are_named():
    model = Sequential([layers.Input(SHAPE), layers.Flatten(), Tokens(), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(SettingsError) as caught:
        check_fit("own:model", model, HOLD_OUT)
    assert "an Embedding takes whole numbers below its input_dim, 9, and needs preprocess.normalize none" in str(
        caught.value
    )
    assert "indices[...] = ... is not in [0, 9)" in str(caught.value)
