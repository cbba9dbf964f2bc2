"""A small model for each kind of layer that people use, as builders for `federate.model`.

Each model ends in logits. Its gradient must go through the layer.
"""

import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

LINE, IMAGE, VOLUME = (12, 6), (6, 6, 2), (6, 3, 2, 2)
"""Shapes of one example: 72 numbers, as a series of 12, an image or a volume."""


def through(*hidden, shape=IMAGE):
    """Returns a builder of a model that passes each example, reshaped, through `hidden()`."""

    def build(input_shape, num_classes):
        given = [layers.Input(input_shape), layers.Reshape(shape)]
        return Sequential([*given, *(make() for make in hidden), layers.Flatten(), layers.Dense(num_classes)])

    return build


def joining(join):
    """Returns a builder of a model with two branches that `join` makes one."""

    def build(input_shape, num_classes):
        inputs = layers.Input(input_shape)
        x = layers.Flatten()(inputs)
        joined = join()([layers.Dense(9, activation="tanh")(x), layers.Dense(9, activation="relu")(x)])
        return Model(inputs, layers.Dense(num_classes)(joined))

    return build


class BatchMoments(layers.Layer):
    """Normalises by the batch's own moments with TensorFlow's fused operation, as a user's layer may."""

    def build(self, input_shape):
        """Makes a scale and a shift per channel."""
        self.scale = self.add_weight("scale", input_shape[-1:], initializer="ones")
        self.shift = self.add_weight("shift", input_shape[-1:], initializer="zeros")

    def call(self, x):
        """Returns x, normalised."""
        return tf.compat.v1.nn.fused_batch_norm(x, self.scale, self.shift, is_training=True)[0]


def fused(x):
    """Normalises each example by its own moments with TensorFlow's fused operation."""
    examples = tf.shape(x)[0]
    ones = tf.ones([examples])
    y, _, _ = tf.compat.v1.nn.fused_batch_norm(
        tf.reshape(x, [1, examples, -1, 1]), ones, 0 * ones, is_training=True, data_format="NCHW"
    )
    return tf.reshape(y, tf.shape(x))


def transformer(input_shape, num_classes):
    """A block of Vaswani 2017's encoder, after an embedding of the positions."""
    inputs = layers.Input(input_shape)
    x = layers.Dense(8)(layers.Reshape(LINE)(inputs))
    x += layers.Embedding(12, 8)(tf.range(12))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(8)(layers.Dense(16, activation="gelu")(x)))
    return Model(inputs, layers.Dense(num_classes)(layers.GlobalAveragePooling1D()(x)))


def attention(input_shape, num_classes):
    """MultiHeadAttention of a series to itself."""
    inputs = layers.Input(input_shape)
    x = layers.Reshape(LINE)(inputs)
    return Model(inputs, layers.Dense(num_classes)(layers.Flatten()(layers.MultiHeadAttention(2, 4)(x, x))))


def embedding(input_shape, num_classes):
    """Each number is a token."""
    inputs = layers.Input(input_shape)
    tokens = tf.cast(layers.Flatten()(inputs) * 9, tf.int32)
    return Model(inputs, layers.Dense(num_classes)(layers.GlobalMaxPooling1D()(layers.Embedding(10, 8)(tokens))))


BUILDERS = {
    "activations": through(*(lambda name=name: layers.Dense(7, name) for name in ("elu", "selu", "gelu", "swish"))),
    "add": joining(layers.Add),
    "attention": attention,
    "average_pooling": through(lambda: layers.AveragePooling2D(2, padding="same")),
    "bidirectional": through(lambda: layers.Bidirectional(layers.LSTM(4)), shape=LINE),
    "concatenate": joining(layers.Concatenate),
    "conv_1d": through(lambda: layers.Conv1D(4, 3, activation="relu"), shape=LINE),
    "conv_2d": through(lambda: layers.Conv2D(4, 3, activation="relu"), lambda: layers.Conv2D(4, 1, padding="same")),
    "conv_2d_transpose": through(lambda: layers.Conv2DTranspose(3, 3, 2)),
    "conv_3d": through(lambda: layers.Conv3D(4, 2, activation="relu"), shape=VOLUME),
    "custom_fused": through(BatchMoments),
    "dense": through(layers.Flatten, lambda: layers.Dense(9, "relu"), lambda: layers.Dense(9, "tanh")),
    "depthwise_conv_2d": through(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "dot": joining(lambda: layers.Dot(1)),
    "elu": through(lambda: layers.Dense(9), layers.ELU),
    "embedding": embedding,
    "global_pooling": through(lambda: layers.Conv2D(8, 3), layers.GlobalAveragePooling2D),
    "group_normalisation": through(lambda: layers.Conv2D(8, 3), lambda: layers.GroupNormalization(4)),
    "gru": through(lambda: layers.GRU(4), shape=LINE),
    "lambda_fused": through(lambda: layers.Dense(9), lambda: layers.Lambda(fused)),
    "layer_normalisation": through(lambda: layers.Dense(9, "relu"), layers.LayerNormalization),
    "leaky_relu": through(lambda: layers.Dense(9), layers.LeakyReLU),
    "lstm": through(lambda: layers.LSTM(4, return_sequences=True), lambda: layers.LSTM(4), shape=LINE),
    "max_pooling": through(lambda: layers.MaxPooling2D(3, 1), lambda: layers.Conv2D(4, 3)),
    "multiply": joining(layers.Multiply),
    "padding": through(lambda: layers.ZeroPadding2D(1), lambda: layers.Conv2D(4, 3), lambda: layers.Cropping2D(1)),
    "permute": through(lambda: layers.Permute((3, 1, 2)), lambda: layers.Dense(5)),
    "prelu": through(lambda: layers.Dense(9), layers.PReLU),
    "separable_conv_2d": through(lambda: layers.SeparableConv2D(4, 3)),
    "simple_rnn": through(lambda: layers.SimpleRNN(4), shape=LINE),
    "softmax": through(lambda: layers.Dense(9), layers.Softmax),
    "time_distributed": through(lambda: layers.TimeDistributed(layers.Dense(4)), shape=LINE),
    "transformer": transformer,
    "unit_normalisation": through(lambda: layers.Dense(9), layers.UnitNormalization),
    "up_sampling": through(lambda: layers.UpSampling2D(2), lambda: layers.Conv2D(4, 3)),
}
globals().update(BUILDERS)  # `federate.model` names a function of the module
