"""The models of speed_case.py in Keras."""

from tensorflow.keras import Model, Sequential, layers

MODELS = {"linear": "logistic", "cnn": "tests.benchmarks.speed_models:cnn"}
"""`federate.model` by the model's name in speed_case.py."""


def cnn(input_shape: tuple[int, ...], num_classes: int) -> Model:
    """Two convolutions and two dense layers: 231,742 parameters for 28x28 pixels and 62 classes."""
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu", name="conv_2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(num_classes, name="logits"),
        ]
    )
