"""A model as a function of its parameters gives what Keras gives, reproducibly and without side effects."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

from tasks.errors import SettingsError
from tasks.local.functional import build_forward

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).random((6, *SHAPE)).astype(np.float32)


class Scale(layers.Layer):
    """A user's own layer, which is not registered with Keras."""

    def build(self, input_shape):
        self.scale = self.add_weight("scale", (input_shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


def sequence(*inner):
    return Sequential([layers.Input(SHAPE), *inner, layers.Dense(3)])


def dense(**chosen):
    return sequence(layers.Flatten(), layers.Dense(5, "relu", **chosen))


def shared():
    inputs, twice = layers.Input(SHAPE), layers.Dense(64)
    return Model(inputs, layers.Dense(3)(twice(twice(layers.Flatten()(inputs)))))


def attention():
    inputs = layers.Input(SHAPE)
    x = layers.Reshape((8, 8))(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def frozen_base():
    base = Sequential([layers.Input(SHAPE), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    base.layers[1].set_weights([np.arange(4.0) + 1, np.arange(4.0), np.arange(4.0) / 10, np.arange(4.0) + 0.5])
    base.trainable = False
    return sequence(base, layers.GlobalAveragePooling2D())


MODELS = {
    "dense": dense,
    "regularised": lambda: dense(kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l1"),
    "shared": shared,
    "attention": attention,
    "frozen_base": frozen_base,
    "nested": lambda: sequence(Sequential([layers.Flatten(), Scale(), layers.Dense(4)])),
    "lstm": lambda: sequence(layers.Reshape((8, 8)), layers.LSTM(4)),
    "bidirectional": lambda: sequence(layers.Reshape((8, 8)), layers.Bidirectional(layers.GRU(3))),
    "embedding": lambda: sequence(layers.Flatten(), layers.Embedding(9, 4), layers.GlobalAveragePooling1D()),
    "never_read": lambda: sequence(layers.Flatten(), NeverRead()),
}


class NeverRead(layers.Layer):
    """Has a parameter without any effect."""

    def build(self, input_shape):
        self.unused = self.add_weight("unused", (2,))

    def call(self, x):
        return x


def in_graph(forward, model, seed=None):
    """Returns logits, penalty and the gradient of mean(logits²) + penalty, computed in a graph as in a round."""

    @tf.function(autograph=False)
    def compute(params, x, seed):
        with tf.GradientTape() as tape:
            tape.watch(params)
            logits, penalty = forward(params, x, seed)
            loss = tf.reduce_mean(tf.square(logits)) + penalty
        found = tape.gradient(loss, params, unconnected_gradients="zero")
        return logits, penalty, [tf.convert_to_tensor(each) for each in found]

    given = None if seed is None else tf.constant(seed)
    return compute([variable.value() for variable in model.trainable_weights], tf.constant(X), given)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "bidirectional")]


@pytest.mark.parametrize("name", [*(name for name in MODELS if name not in ("lstm", "bidirectional")), *SLOW])
def test_logits_penalty_and_gradient_are_those_of_keras(name):
    tf.keras.utils.set_random_seed(0)
    model = MODELS[name]()
    forward, draws = build_forward("own:model", model)
    logits, penalty, gradient = in_graph(forward, model)
    with tf.GradientTape() as tape:
        expected = model(X, training=False)
        losses = tf.add_n(model.losses) if model.losses else tf.constant(0.0)
        loss = tf.reduce_mean(tf.square(expected)) + losses
    wanted = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
    assert not draws
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert float(penalty) == pytest.approx(float(losses))
    assert (float(penalty) > 0) == (name == "regularised")
    for one, other in zip(gradient, wanted, strict=True):
        np.testing.assert_allclose(one, tf.convert_to_tensor(other), rtol=1e-4, atol=1e-6)


def test_other_parameters_than_the_models_own_are_used():
    tf.keras.utils.set_random_seed(0)
    model = dense()
    forward, _ = build_forward("own:model", model)
    zeros = [tf.zeros_like(variable) for variable in model.trainable_weights]
    logits, _ = tf.function(lambda: forward(zeros, tf.constant(X), None), autograph=False)()
    np.testing.assert_array_equal(logits, np.zeros((6, 3)))


RANDOM = {
    "dropout": lambda: layers.Dropout(0.5),
    "spatial_dropout": lambda: layers.SpatialDropout2D(0.5),
    "alpha_dropout": lambda: layers.AlphaDropout(0.3),
    "gaussian_dropout": lambda: layers.GaussianDropout(0.3),
    "noise": lambda: layers.GaussianNoise(0.5),
    "flip": lambda: layers.RandomFlip(),
    "rotation": lambda: layers.RandomRotation(0.2),
    "nested": lambda: Sequential([layers.Conv2D(4, 3), layers.Dropout(0.5)]),
    "lstm": lambda: Sequential([layers.Reshape((8, 8)), layers.LSTM(9, dropout=0.5, recurrent_dropout=0.2)]),
}


@pytest.mark.parametrize("name", [*(name for name in RANDOM if name != "lstm"), SLOW[0]])
def test_a_random_layer_draws_from_the_seed_and_only_in_training(name):
    tf.keras.utils.set_random_seed(0)
    model = sequence(RANDOM[name](), layers.Flatten())
    forward, draws = build_forward("own:model", model)
    one, again, other, without = (in_graph(forward, model, seed)[0] for seed in ((1, 2), (1, 2), (1, 3), None))
    assert draws
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(without, model(X, training=False), rtol=1e-5, atol=1e-6)


def test_each_dropout_of_a_model_draws_for_itself():
    # Each of 6 · 64 ones is kept, and doubled, with probability 1/2. Two layers with the same draws agree everywhere;
    # two independent layers agree on half of the values, give or take 5 standard deviations: 5 · sqrt(384) / 2 = 49.
    inputs = layers.Input(SHAPE)
    masks = [layers.Flatten()(layers.Dropout(0.5)(tf.ones_like(inputs))) for _ in range(2)]
    model = Model(inputs, [*masks, layers.Dense(3)(layers.Flatten()(inputs))])
    forward, _ = build_forward("own:model", Model(inputs, layers.Concatenate()([*masks, model.outputs[2]])))
    logits = in_graph(forward, model, (1, 2))[0].numpy()
    one, other = logits[:, :64], logits[:, 64:128]
    assert set(np.unique(one)) == {0.0, 2.0}
    assert abs(np.sum(one == other) - 192) < 49
    assert abs(np.sum(one == 0) - 192) < 49


class Draws(layers.Layer):
    """Draws from TensorFlow's own state, which a round's seed does not reproduce."""

    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


class Counts(layers.Layer):
    """Keeps a state."""

    def build(self, input_shape):
        self.calls = self.add_weight("calls", (), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


class CallsPython(layers.Layer):
    """Calls Python, which a model file cannot hold."""

    def call(self, x):
        return tf.ensure_shape(tf.py_function(lambda value: value, [x], tf.float32), x.shape)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Draws, "draws random numbers that no seed reproduces in a federated round"),
        (Counts, "changes a state of its own while it trains"),
        (CallsPython, "calls Python, which no file can hold"),
        (layers.BatchNormalization, "changes a state of its own while it trains"),
    ],
)
def test_what_is_no_function_of_parameters_and_seed_is_refused(layer, says):
    model = sequence(Sequential([layer()]), layers.Flatten())
    with pytest.raises(SettingsError, match=f"^federate.model own:model: .*{says}"):
        build_forward("own:model", model)
