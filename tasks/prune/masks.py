"""tfmot's pruning masks for the flat parameters of the federated rounds.

tfmot prunes a Keras model while `fit` runs it; here the global model is averaged instead. So a wrapped copy of it only
computes masks: before each update it gets the averaged parameters, and its step counts rounds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

from tasks.errors import SettingsError
from tasks.federate.parameters import flatten
from tasks.settings import PruneSettings


@dataclass(frozen=True)
class _Kernel:
    wrapper: Any
    weight: tf.Variable
    mask: tf.Variable
    begin: int
    end: int


class PruningMasks:
    """The masks (P,) of a model under Zhu 2017's polynomial schedule (arXiv 1710.01878, equation 1, cubic).

    In pruning round t, `begin_round` ≤ t ≤ `end_round`, every `frequency` rounds, each kernel keeps its largest
    entries by magnitude; the fraction of zeros is final + (initial − final)·(1 − (t − begin)/(end − begin))³.
    """

    def __init__(self, settings: PruneSettings, model: tf.keras.Model) -> None:
        """Wraps a copy of `model`; its parameters are not changed.

        Raises:
            SettingsError: the model has no layer that tfmot prunes.
        """
        decay = tfmot.sparsity.keras.PolynomialDecay(
            settings.initial_sparsity,
            settings.final_sparsity,
            settings.begin_round,
            settings.end_round,
            frequency=settings.frequency,
        )

        def wrap(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
            if not (PruneRegistry.supports(layer) and _kernel_names(layer)):
                return layer.__class__.from_config(layer.get_config())
            return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=decay)

        self._schedule = decay
        self._wrapped = tf.keras.models.clone_model(model, clone_function=wrap)
        self._kernels = _kernels(model, self._wrapped)
        self._size = len(flatten(model))
        if not self._kernels:
            raise SettingsError("federate.model has no layer that can be pruned (dense or convolution)")

    def update(self, pruning_round: int, params: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Returns the mask (P,) of ones and zeros after `pruning_round` = 1, 2, …, or None where it does not change."""
        due, _ = self._schedule(tf.constant(pruning_round, tf.int64))
        if not bool(due):
            return None
        mask = np.ones(self._size, np.float32)
        for kernel in self._kernels:
            kernel.weight.assign(params[kernel.begin : kernel.end].reshape(kernel.weight.shape))
            kernel.wrapper.pruning_step.assign(pruning_round)
        for wrapper in {id(kernel.wrapper): kernel.wrapper for kernel in self._kernels}.values():
            wrapper.pruning_obj.conditional_mask_update()
        for kernel in self._kernels:
            mask[kernel.begin : kernel.end] = kernel.mask.numpy().ravel()
        return mask

    def layers(self, params: NDArray[np.float32]) -> dict[str, dict[str, float]]:
        """Returns each pruned layer's `sparsity` (fraction of zeros in its kernel) and `weights` (their number)."""
        return {
            kernel.wrapper.layer.name: {
                "sparsity": float(np.mean(params[kernel.begin : kernel.end] == 0)),
                "weights": kernel.end - kernel.begin,
            }
            for kernel in self._kernels
        }


def _kernel_names(layer: tf.keras.layers.Layer) -> list[str]:
    if PruneRegistry._is_rnn_layer(layer):
        return []  # tfmot names the weights of the cells inside, and a mask for them is not ours to place
    return [name for name in PruneRegistry._weight_names(layer) if "bias" not in name]


def _kernels(model: tf.keras.Model, wrapped: tf.keras.Model) -> list[_Kernel]:
    begins, begin = {}, 0
    for variable in model.trainable_weights:
        begins[variable.ref()] = begin
        begin += variable.shape.num_elements()
    found = []
    for layer, wrapper in zip(model.layers, wrapped.layers, strict=True):
        for weight, mask, _ in getattr(wrapper, "pruning_vars", []):
            position = next(i for i, own in enumerate(wrapper.layer.weights) if own is weight)
            begin = begins[layer.weights[position].ref()]
            found.append(_Kernel(wrapper, weight, mask, begin, begin + weight.shape.num_elements()))
    return found
