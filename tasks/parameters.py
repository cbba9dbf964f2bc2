"""The global model's parameters as one vector (P,), and the ones that pruning can set to zero."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Params = NDArray[np.float32]
"""(P,) a model's trainable parameters, or one number for each parameter."""


def flatten(model: tf.keras.Model) -> NDArray[np.float32]:
    """Returns the trainable parameters as one vector (P,)."""
    return np.concatenate([variable.numpy().ravel() for variable in model.trainable_weights])


def digest(model: tf.keras.Model) -> str:
    """Returns the SHA-256 of the non-trainable parameters, which are constants in a round's computations."""
    return hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in model.non_trainable_weights)).hexdigest()


def assign(model: tf.keras.Model, params: NDArray[np.float32]) -> None:
    """Writes the vector `params` (P,) into the trainable parameters of `model`."""
    begin = 0
    for variable in model.trainable_weights:
        end = begin + variable.shape.num_elements()
        variable.assign(params[begin:end].reshape(variable.shape))
        begin = end


_PRUNED = frozenset({"kernel", "pointwise_kernel", "embeddings"})
"""Keras's names of the parameters that tfmot prunes in Keras's own layers."""
_SMALL = frozenset({"bias", "gamma", "beta", "alpha"})
"""Keras's names of the parameters that are never pruned; `alpha` is PReLU's."""


@dataclass(frozen=True)
class Kernel:
    """A parameter that pruning can set to zero, and the place of its entries in the vector (P,)."""

    layer: str
    """Name of the layer, after the names of the layers that contain it; two layers can have the same name."""
    shape: tuple[int, ...]
    begin: int
    end: int


def kernels(model: tf.keras.Model) -> list[Kernel]:
    """Returns the parameters that pruning can set to zero, in the order of the vector.

    They are the kernels and embeddings of Keras's layers, also inside other layers and models. Two kinds of layers are
    not pruned: (1) recurrent layers, because a zero acts in every step of a series; (2) a user's own layers, because
    the effect of a zero is unknown.
    """
    prunable_kernels, begin, left = [], 0, _left(model)
    for variable in model.trainable_weights:
        end = begin + variable.shape.num_elements()
        layer, kind = _split(variable)
        if kind in _PRUNED and variable.ref() not in left:
            prunable_kernels.append(Kernel(layer or kind, tuple(variable.shape), begin, end))
        begin = end
    return prunable_kernels


def unpruned(model: tf.keras.Model) -> list[str]:
    """Returns the names of the layers with parameters that are not pruned, in the model's order.

    Biases and the parameters of Keras's normalisations are not named: they are small, and no model prunes them.
    """
    left, names = _left(model), []
    for variable in model.trainable_weights:
        layer, kind = _split(variable)
        if variable.ref() in left:
            names.append(left[variable.ref()])
        elif kind not in _PRUNED | _SMALL:
            names.append(layer or kind)
    return list(dict.fromkeys(names))


def _left(model: tf.keras.Model) -> dict[Any, str]:
    """Returns, for each variable (by `ref`) of recurrent layers and of a user's own layers, the layer's name."""
    layers: dict[Any, str] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, tf.keras.layers.RNN):
            layers |= {variable.ref(): layer.name for variable in layer.weights}
        elif type(layer).__module__.partition(".")[0] != "keras":
            own = (*layer._trainable_weights, *layer._non_trainable_weights)
            layers |= {variable.ref(): layer.name for variable in own if variable.ref() not in layers}
    return layers


def _split(variable: tf.Variable) -> tuple[str, str]:
    """Returns the layer and the kind of a variable: (`conv_1`, `kernel`) for `conv_1/kernel:0`."""
    layer, _, kind = variable.name.partition(":")[0].rpartition("/")
    return layer, kind


def prunable(model: tf.keras.Model) -> NDArray[np.bool_]:
    """Returns (P,) whether pruning can set the parameter to zero; see `kernels`."""
    mask = np.zeros(sum(variable.shape.num_elements() for variable in model.trainable_weights), bool)
    for kernel in kernels(model):
        mask[kernel.begin : kernel.end] = True
    return mask
