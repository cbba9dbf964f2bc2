"""Prepares a user's own model for federated rounds: it must give logits, and what rounds cannot do is refused."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.keras import Model, layers, losses

from tasks.errors import SettingsError, shown

Say = Callable[[str], None]
"""Is called with one sentence about how a model is changed or used differently."""


def check_layers(name: str, model: Model) -> None:
    """Refuses a model with a part that Keras's own training supports but a federated round does not.

    Frozen BatchNormalization layers are changed to compute without the fused operation.

    Raises:
        SettingsError: the model has (1) a BatchNormalization that is not frozen, (2) a SpectralNormalization, (3) a
            metric, (4) a constraint on a parameter, or (5) its own `train_step` or `compute_loss`.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization) and layer.trainable:
            raise SettingsError(
                f"federate.model {name}: layer {layer.name} is {type(layer).__name__}, whose running statistics belong "
                "to no client and cannot be averaged with the parameters: use GroupNormalization or "
                "LayerNormalization, or freeze it (trainable=False)"
            )
        if isinstance(layer, layers.BatchNormalization):
            # TFF's compiler joins the fused operation with a following ReLU. TensorFlow then refuses to load it unless
            # the number of channels is a multiple of 4.
            layer.fused = False
        if isinstance(layer, layers.SpectralNormalization):
            raise SettingsError(
                f"federate.model {name}: layer {layer.name} is SpectralNormalization, which changes a state of its own "
                "while it trains, and this state belongs to no client: use the wrapped layer without it"
            )
        if layer._metrics:
            raise SettingsError(
                f"federate.model {name}: {layer.name} keeps the metric {layer._metrics[0].name} (add_metric), and no "
                "round reads it: leave it out"
            )
    for variable in model.trainable_weights:
        if variable.constraint is not None:
            kind = getattr(variable.constraint, "__name__", type(variable.constraint).__name__)
            raise SettingsError(
                f"federate.model {name}: {variable.name} has the constraint {kind}, which an average of clients can "
                "break: leave it out; a regulariser, such as kernel_regularizer='l2', keeps parameters small"
            )
    for inner in (layer for layer in model._flatten_layers() if isinstance(layer, Model)):
        for step in ("train_step", "compute_loss"):
            if getattr(type(inner), step) is not getattr(Model, step):
                raise SettingsError(
                    f"federate.model {name}: {type(inner).__name__} has a {step} of its own, which no client calls: "
                    "leave it out; a layer can call add_loss, and federate.client says how a client trains"
                )


_CROSS_ENTROPIES = {
    "categorical_crossentropy": losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": losses.SparseCategoricalCrossentropy,
    "binary_crossentropy": losses.BinaryCrossentropy,
}


def check_compiled(name: str, model: Model, say: Say) -> None:
    """Says that clients do not use the optimizer with which `model` was compiled.

    Raises:
        SettingsError: it was compiled with another loss than cross-entropy, on which clients train.
    """
    if not model._is_compiled:
        return
    loss = model.loss or None  # Keras turns no loss into {}
    if loss is not None and not _is_cross_entropy(loss):
        raise SettingsError(
            f"federate.model {name} must be compiled with a cross-entropy without label_smoothing, because "
            f"clients train on it, got the loss {_loss_name(loss)}: leave compile out"
        )
    say(f"is compiled with {type(model.optimizer).__name__}, but clients train with SGD, as federate.client says")


def _is_cross_entropy(loss: object) -> bool:
    if type(loss) in _CROSS_ENTROPIES.values():
        return not loss.get_config().get("label_smoothing")  # type: ignore[attr-defined]
    return getattr(loss, "__name__", loss) in list(_CROSS_ENTROPIES)


def _loss_name(loss: object) -> str:
    if isinstance(loss, losses.Loss):
        smoothed = loss.get_config().get("label_smoothing")
        return type(loss).__name__ + (f" with label_smoothing {smoothed}" if smoothed else "")
    return str(getattr(loss, "__name__", shown(loss)))


def giving_logits(name: str, model: Model, num_classes: int, say: Say) -> Model:
    """Returns `model` with one logit for each class: a softmax or sigmoid at the end is left out.

    A single output z for two classes, the log odds of the second class, becomes the logits (0, z). Their softmax is
    (1 - sigmoid(z), sigmoid(z)).

    Raises:
        SettingsError: the last layer has another activation, or the softmax or sigmoid cannot be left out.
    """
    alone = num_classes == 2 and tuple(model.output_shape) == (None, 1)
    probability = "sigmoid" if alone else "softmax"
    outputs, penalty = _outputs(model)
    logits = _without_activation(name, model, probability)
    if logits is not None:
        without, same = _outputs(logits)
        if not _are_logits_of(outputs, without, probability) or not np.isclose(penalty, same, equal_nan=True):
            raise SettingsError(
                f"federate.model {name} must give logits, or end in one {probability} over the classes that nothing "
                f"else in the model uses (a penalty, another layer), got another {probability}: leave it out"
            )
        say(f"gives logits: its last {probability} is left out")
        model = logits
    if alone:
        fixed = tf.keras.initializers.Constant([[0.0, 1.0]])
        both = layers.Dense(2, use_bias=False, kernel_initializer=fixed, trainable=False, name="two_logits")
        model = _with_losses(model, both(model.outputs[0]))
        say("has one output, which is the second of two classes")
    return model


def _without_activation(name: str, model: Model, probability: str) -> Model | None:
    """Returns `model` without the activation `probability` of its last layer; None if it has no activation.

    Raises:
        SettingsError: the last layer has another activation.
    """
    end = model.outputs[0]._keras_history
    last, inputs = end.layer, end.layer.get_input_at(end.node_index)
    if isinstance(last, Model) and last.outputs is not None:
        inner = _without_activation(name, last, probability)
        return model if inner is last else inner and _with_losses(model, inner(inputs))
    activation = _activation(last)
    if activation in ("linear", "log_softmax"):
        return None
    if activation != probability:
        raise SettingsError(
            f"federate.model {name} must give logits, or end in {probability}, got the activation {activation} in its "
            f"last layer {last.name}: leave it out"
        )
    if isinstance(last, (layers.Dense, layers.Activation)):
        last.activation = tf.keras.activations.linear
        return model
    return _with_losses(model, inputs)


def _with_losses(model: Model, outputs: tf.Tensor) -> Model:
    """Returns a model from the inputs of `model` to `outputs`, with the penalties that `model.add_loss` added."""
    other = Model(model.inputs, outputs, name=model.name)
    for layer in model.layers:
        if type(layer).__name__ == "AddLoss":
            other.add_loss(layer.input)
    return other


_RECURRENT = (layers.RNN, layers.Bidirectional, layers.TimeDistributed)
_OF_LAYER = {layers.Softmax: "softmax", layers.ReLU: "relu", layers.LeakyReLU: "leaky_relu", layers.ELU: "elu"}


def _activation(layer: layers.Layer) -> str:
    """Returns the name of the activation at the end of `layer`; `linear` if it has none, or none that can be seen."""
    if type(layer) in _OF_LAYER:
        return _OF_LAYER[type(layer)]
    if type(layer).__name__ == "TFOpLambda":
        operation = str(layer.symbol).rpartition(".")[2]
        return operation.removesuffix("_v2") if operation in _OPERATIONS else "linear"
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(layer, _RECURRENT) or type(layer).__module__.partition(".")[0] != "keras":
        return "linear"
    return str(getattr(activation, "__name__", type(activation).__name__)).removesuffix("_v2")


_OPERATIONS = ("softmax", "softmax_v2", "sigmoid", "relu", "relu6", "tanh")
"""TensorFlow's operations that count as an activation at the end of a model."""


def check_no_probabilities(name: str, model: Model) -> None:
    """Refuses a model whose outputs are always between 0 and 1, even if the softmax is inside a user's own layer.

    It overwrites the parameters of `model` with random ones, so `model` must not be used afterwards.
    """
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        for variable in model.trainable_weights:
            spread = 1 / max(1, np.prod(variable.shape[:-1])) ** 0.5
            variable.assign(rng.normal(0, spread, variable.shape).astype(np.float32))
        outputs, _ = _outputs(model)
        if not ((outputs >= 0) & (outputs <= 1)).all():
            return
    raise SettingsError(
        f"federate.model {name} must give logits, got outputs that are always between 0 and 1, such as probabilities: "
        "leave the softmax or sigmoid out"
    )


_DRAWS = 16
"""Number of draws of the parameters. The chance that a logit is between 0 and 1 at two examples in all draws is below
2^-32."""


def _outputs(model: Model) -> tuple[NDArray[np.float64], float]:
    """Returns the outputs for an example of zeros and one of ones, which any model takes, and the model's penalty."""
    examples = np.stack([np.full(model.input_shape[1:], value, np.float32) for value in (0.0, 1.0)])
    outputs = np.asarray(model(examples, training=False), np.float64)
    for layer in model._flatten_layers():
        if hasattr(layer, "reset_recurrent_dropout_mask"):
            # Keras's ConvLSTM would reuse the masks of this call in the next one, in a graph and with more examples.
            layer.reset_dropout_mask()
            layer.reset_recurrent_dropout_mask()
    return outputs, float(sum(tf.reduce_sum(each) for each in model.losses))


def _are_logits_of(outputs: NDArray[np.float64], logits: NDArray[np.float64], probability: str) -> bool:
    """Returns whether `outputs` (N, C) or (N, 1) are the probabilities of `logits`."""
    if probability == "sigmoid":
        expected = 1 / (1 + np.exp(-logits))
    else:
        raised = np.exp(logits - logits.max(1, keepdims=True))
        expected = raised / raised.sum(1, keepdims=True)
    return bool(np.allclose(outputs, expected, atol=1e-4, equal_nan=True))
