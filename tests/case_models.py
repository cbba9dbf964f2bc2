"""Models that went wrong for those who brought them."""

from tensorflow.keras import Sequential, layers


def zeros(input_shape, num_classes):
    """A model whose weights all start at zero: without a bias in a hidden unit, no gradient reaches the first layer."""
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(),
            layers.Dense(64, "relu", kernel_initializer="zeros"),
            layers.Dense(num_classes, kernel_initializer="zeros"),
        ]
    )
