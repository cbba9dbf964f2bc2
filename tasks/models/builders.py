"""The built-in models, by their name in `federate.model`."""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

from tasks.errors import SettingsError

Builder = Callable[..., Model]
"""(input_shape, num_classes) -> model. It takes `width=` if clients can train it with fewer hidden units."""


def logistic(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """Multinomial logistic regression: one linear layer. It has no hidden units, so `width` does nothing."""
    del width
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(num_classes, name="logits")])


def mlp(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """McMahan 2017's 2NN: two hidden layers of 200 ReLU units."""
    units = _units(200, width)
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(),
            layers.Dense(units, activation="relu", name="hidden_1"),
            *_scaler(width),
            layers.Dense(units, activation="relu", name="hidden_2"),
            *_scaler(width),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def cnn(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """NIID-Bench's CNN: 5x5 convolutions of 6 and 16 channels, each with a 2x2 max-pool, then 120 and 84 ReLU units.

    The convolutions are unpadded, as in NIID-Bench. Images with a side below 16 pixels are padded, because unpadded
    convolutions would leave nothing of them.
    """
    _check_image("cnn", input_shape)
    padding = "valid" if min(input_shape[:2]) >= 16 else "same"
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(_units(6, width), 5, padding=padding, activation="relu", name="conv_1"),
            *_scaler(width),
            layers.MaxPooling2D(2, padding=padding),
            layers.Conv2D(_units(16, width), 5, padding=padding, activation="relu", name="conv_2"),
            *_scaler(width),
            layers.MaxPooling2D(2, padding=padding),
            layers.Flatten(),
            layers.Dense(_units(120, width), activation="relu", name="hidden_1"),
            *_scaler(width),
            layers.Dense(_units(84, width), activation="relu", name="hidden_2"),
            *_scaler(width),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def resnet8(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """He 2016's CIFAR ResNet with n = 1 (16, 32, 64 channels), with GroupNorm of 8 groups instead of BatchNorm.

    BatchNorm's running statistics belong to no client and are not averaged. Hsieh 2020 (arXiv 1910.00189) measures how
    much BatchNorm loses under label skew, and finds that GroupNorm does not lose it. A narrower ResNet needs channels
    in multiples of 8. It needs no scaler, because the normalisation after each convolution would undo it.
    """
    _check_image("resnet8", input_shape)
    inputs = layers.Input(input_shape)
    x = _normalised(layers.Conv2D(_units(16, width), 3, padding="same", use_bias=False, name="stem")(inputs), "stem")
    x = layers.ReLU()(x)
    for stage, channels in enumerate((_units(n, width) for n in (16, 32, 64)), start=1):
        stride, name = (1 if stage == 1 else 2), f"stage_{stage}"
        y = layers.Conv2D(channels, 3, stride, "same", use_bias=False, name=f"{name}_conv_1")(x)
        y = layers.ReLU()(_normalised(y, f"{name}_1"))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv_2")(y)
        y = _normalised(y, f"{name}_2")
        if stride > 1:
            x = layers.Conv2D(channels, 1, stride, use_bias=False, name=f"{name}_shortcut")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return Model(inputs, layers.Dense(num_classes, name="logits")(x))


def _units(num: int, width: float) -> int:
    """Returns HeteroFL's ⌈width · n⌉. Without the rounding, 0.55 · 200 would be 111 because of floating point."""
    return math.ceil(round(num * width, 9))


def _scaler(width: float) -> list[layers.Layer]:
    """Returns HeteroFL's Scaler (Diao 2021, section 3): sums of fewer inputs become as large as in the whole model."""
    return [layers.Rescaling(1 / width)] if width < 1 else []


def _normalised(x: tf.Tensor, name: str) -> tf.Tensor:
    return layers.GroupNormalization(groups=8, name=f"{name}_norm")(x)


def _check_image(model: str, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3:
        raise SettingsError(f"federate.model {model} needs images (height, width, channels), got {tuple(input_shape)}")


BUILDERS: dict[str, Builder] = {"logistic": logistic, "mlp": mlp, "cnn": cnn, "resnet8": resnet8}
