"""Tests before the first round whether a user's own model fits the data."""

import logging

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

from tasks.errors import SettingsError
from tasks.federate.cohort import Cohort
from tasks.scrub import scrubbed

_log = logging.getLogger(__name__)

_TRIED = 256
"""Most hold-out examples on which the model is tested."""

_MOVING = (layers.Reshape, layers.Flatten, layers.Permute)
"""Layers that move values and change none."""


def check_fit(name: str, model: tf.keras.Model, cohort: Cohort) -> None:
    """Computes `model`, the federate.model `name`, on hold-out examples.

    A warning is logged (1) if the loss is not finite, or (2) if parameters stay zero, because they and their gradient
    are zero; it names them.

    Raises:
        SettingsError: (1) its parameters are not finite, (2) it takes whole numbers, but the data hold other values, or
            (3) it cannot be computed on the data.
    """
    for variable in model.weights:
        if variable.dtype.is_floating and not np.isfinite(variable.numpy()).all():
            raise SettingsError(
                f"federate.model {name} must begin with finite parameters, got NaN or infinity in {variable.name}: "
                "check its initialiser, or the file that the builder loads"
            )
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Embedding) and _gets_examples(model, layer):
            _check_ids(name, f"layer {layer.name}", layer.input_dim, cohort)
    if model.inputs[0].dtype.is_integer:
        _check_ids(name, "input", None, cohort)
    x, y = cohort.test_x[:_TRIED], cohort.test_y[:_TRIED]
    failure = ""
    try:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=False))
        gradients = tape.gradient(losses, model.trainable_weights, unconnected_gradients="zero")
    except Exception as exc:  # whatever a user's layer raises
        failure = scrubbed(exc)
    if failure:  # raised outside of the block above: a traceback with TensorFlow's error would print the data
        raise SettingsError(
            f"federate.model {name} cannot be computed on the hold-out data: {failure}{_advice(model, cohort)}"
        )
    if not np.isfinite(losses).all():
        _log.warning(
            "federate.model %s: its loss on the hold-out data is not finite before the first round: check the scale "
            "of its initialisers and of the data (preprocess.normalize %s)",
            name,
            cohort.normalize,
        )
    dead = [
        variable.name
        for variable, gradient in zip(model.trainable_weights, gradients, strict=True)
        if variable.shape.rank > 1 and not variable.numpy().any() and not tf.convert_to_tensor(gradient).numpy().any()
    ]
    if dead:
        _log.warning(
            "federate.model %s: %s begin at zero and have a gradient of zero, so no round changes them: leave their "
            "first values to Keras's initialisers, or the model can stay at chance",
            name,
            ", ".join(dead),
        )


def _gets_examples(model: tf.keras.Model, layer: layers.Layer) -> bool:
    """Returns whether the examples themselves are the input of `layer`, and not, for example, positions in a text."""
    if layer not in model.layers:
        return False  # inside another layer, where its input cannot be seen; the computation on the examples tests it
    while True:
        before = getattr(layer.input, "_keras_history", None)
        if before is None:
            return False
        layer = before.layer
        if isinstance(layer, layers.InputLayer):
            return True
        if not isinstance(layer, _MOVING) and getattr(layer, "symbol", "") != "cast":
            return False


def _check_ids(name: str, what: str, size: int | None, cohort: Cohort) -> None:
    if cohort.normalize != "none":
        raise SettingsError(
            f"preprocess.normalize must be none with federate.model {name}, because its {what} takes whole numbers, "
            f"got {cohort.normalize}"
        )
    if (cohort.test_x != np.floor(cohort.test_x)).any():
        raise SettingsError(
            f"federate.model {name} must get whole numbers, because its {what} takes only these, got fractions in the "
            "hold-out data"
        )
    if size is not None and (cohort.test_x.min() < 0 or cohort.test_x.max() >= size):
        raise SettingsError(
            f"federate.model {name} must get whole numbers from 0 to {size - 1} (input_dim {size} of its {what}), got "
            "other values in the hold-out data: raise input_dim, or number the values in the data from 0 on"
        )


def _advice(model: tf.keras.Model, cohort: Cohort) -> str:
    embedded = [layer.input_dim for layer in model._flatten_layers() if isinstance(layer, layers.Embedding)]
    if not embedded:
        return ""
    sizes = " or ".join(map(str, dict.fromkeys(embedded)))
    return (
        f" (an Embedding takes whole numbers below its input_dim, {sizes}, and needs preprocess.normalize none, got "
        f"{cohort.normalize})"
    )
