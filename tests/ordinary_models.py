"""Models as people bring them. Each has a part that federated training must handle specially."""

import numpy as np
from tensorflow.keras import Model, Sequential, layers

FROZEN_SEED = 7


class Scale(layers.Layer):
    """A layer of a user's own, registered nowhere: a vector."""

    def build(self, input_shape):
        """Makes the vector."""
        self.scale = self.add_weight("scale", (input_shape[-1],), initializer="ones")

    def call(self, x):
        """Returns x, scaled."""
        return x * self.scale


class Mix(layers.Layer):
    """A layer of a user's own: a matrix, under a name that no layer of Keras has."""

    def build(self, input_shape):
        """Makes the matrix."""
        self.mixture = self.add_weight("mixture", (input_shape[-1], input_shape[-1]), initializer="glorot_uniform")

    def call(self, x):
        """Returns x, mixed."""
        return x @ self.mixture


def model(input_shape, *inner, **last):
    """Returns a Sequential model that ends in a Dense layer."""
    return Sequential([layers.Input(input_shape), *inner, layers.Dense(**last)])


def dense(input_shape, num_classes):
    """One hidden layer."""
    return model(input_shape, layers.Flatten(), layers.Dense(12, "relu"), units=num_classes)


def tabular(input_shape, num_classes):
    """Dropout, a penalty on weights and outputs, and probabilities."""
    hidden = layers.Dense(12, "relu", kernel_regularizer="l2", activity_regularizer="l1")
    return model(input_shape, hidden, layers.Dropout(0.3), units=num_classes, activation="softmax")


def dropout(input_shape, num_classes):
    """Random layers of three kinds."""
    inner = layers.GaussianNoise(0.1), layers.Flatten(), layers.Dense(12, "relu"), layers.Dropout(0.5)
    return model(input_shape, *inner, units=num_classes)


def regularised(input_shape, num_classes):
    """Penalties on a kernel, a bias and outputs."""
    penalties = {f"{what}_regularizer": "l2" for what in ("kernel", "bias", "activity")}
    return model(input_shape, layers.Flatten(), layers.Dense(12, "relu", **penalties), units=num_classes)


def softmax(input_shape, num_classes):
    """Probabilities by a layer of their own."""
    inner = layers.Flatten(), layers.Dense(12, "relu"), layers.Dense(num_classes)
    return Sequential([layers.Input(input_shape), *inner, layers.Softmax()])


def pretrained(input_shape, num_classes):
    """A frozen base, whose BatchNormalization has statistics, and a new head: the probability of the second class."""
    base = Sequential([layers.Input(input_shape), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU()])
    rng = np.random.default_rng(FROZEN_SEED)
    base.set_weights([0.5 + rng.random(weight.shape).astype(np.float32) for weight in base.get_weights()])
    base.trainable = False
    return model(input_shape, base, layers.GlobalAveragePooling2D(), units=1, activation="sigmoid")


def one_sigmoid(input_shape, num_classes):
    """The probability of the second of two classes."""
    return model(input_shape, layers.Flatten(), layers.Dense(12, "relu"), units=1, activation="sigmoid")


def one_logit(input_shape, num_classes):
    """The log odds of the second of two classes."""
    return model(input_shape, layers.Flatten(), layers.Dense(12, "relu"), units=1)


def words(input_shape, num_classes):
    """Token ids, read one after the other, and two layers of a user's own."""
    return model(input_shape, layers.Embedding(60, 6), layers.SimpleRNN(5), Mix(), Scale(), units=num_classes)


def lstm_of_words(input_shape, num_classes):
    """Token ids, read one after the other."""
    return model(input_shape, layers.Embedding(60, 6), layers.LSTM(5), units=num_classes)


def integers(input_shape, num_classes):
    """Token ids as integers, read one after the other in both directions."""
    inputs = layers.Input(input_shape, dtype="int32")
    x = layers.Bidirectional(layers.GRU(4))(layers.Embedding(60, 6)(inputs))
    return Model(inputs, layers.Dense(num_classes)(x))


def own_layers(input_shape, num_classes):
    """A layer with normalisation, and then two layers of a user's own."""
    inner = layers.Dense(12, "relu"), layers.LayerNormalization(), Mix(), Scale()
    return model(input_shape, layers.Flatten(), *inner, units=num_classes)


def lstm(input_shape, num_classes):
    """Rows of an image, one after the other."""
    return model(input_shape, layers.Reshape(input_shape[:2]), layers.LSTM(5), units=num_classes)


def gru(input_shape, num_classes):
    """Rows of an image, one after the other."""
    return model(input_shape, layers.Reshape(input_shape[:2]), layers.GRU(5), units=num_classes)


def bidirectional(input_shape, num_classes):
    """Rows of an image, in both directions."""
    return model(input_shape, layers.Reshape(input_shape[:2]), layers.Bidirectional(layers.LSTM(4)), units=num_classes)


def transformer(input_shape, num_classes):
    """A block of an encoder over the rows of an image."""
    inputs = layers.Input(input_shape)
    x = layers.Reshape(input_shape[:2])(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return Model(inputs, layers.Dense(num_classes)(layers.GlobalAveragePooling1D()(x)))


def group_norm(input_shape, num_classes):
    """Convolutions with GroupNormalization."""
    inner = layers.Conv2D(8, 3), layers.GroupNormalization(4), layers.ReLU(), layers.GlobalAveragePooling2D()
    return model(input_shape, *inner, units=num_classes)


def zeros(input_shape, num_classes):
    """A hidden layer that begins at zero and stays there."""
    nothing = {"kernel_initializer": "zeros"}
    inner = layers.Flatten(), layers.Dense(12, "relu", **nothing)
    return model(input_shape, *inner, units=num_classes, **nothing)
