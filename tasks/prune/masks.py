"""tfmot's pruning masks for the flat parameters of the federated rounds.

tfmot itself prunes a Keras model during `fit`, by wrappers around the layers that it knows. Here the global model is an
average, and no `fit` runs. So tfmot only computes the masks, for each kernel on its own, wherever it is in the model.
"""

from collections import defaultdict

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

from tasks.parameters import flatten, kernels
from tasks.settings import PruneSettings


class PruningMasks:
    """The masks (P,) of a model under Zhu 2017's polynomial schedule (arXiv 1710.01878, equation 1, cubic).

    It prunes every `frequency` rounds in the pruning rounds t with `begin_round` ≤ t ≤ `end_round`. Each kernel then
    keeps its largest entries by magnitude. The fraction of zeros is
    final + (initial − final)·(1 − (t − begin)/(end − begin))³.
    """

    def __init__(self, settings: PruneSettings, model: tf.keras.Model) -> None:
        """Reads where the kernels of `model` are; the values of its parameters do not matter."""
        self._schedule = tfmot.sparsity.keras.PolynomialDecay(
            settings.initial_sparsity,
            settings.final_sparsity,
            settings.begin_round,
            settings.end_round,
            frequency=settings.frequency,
        )
        self._kernels = kernels(model)
        self._size = len(flatten(model))

    def update(self, pruning_round: int, params: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Returns the mask (P,) of ones and zeros after `pruning_round` = 1, 2, …, or None if it does not change."""
        step = tf.constant(pruning_round, tf.int64)
        due, _ = self._schedule(step)
        if not bool(due):
            return None
        mask = np.ones(self._size, np.float32)
        for kernel in self._kernels:
            weight = tf.Variable(params[kernel.begin : kernel.end].reshape(kernel.shape))
            kept, threshold = tf.Variable(tf.ones_like(weight)), tf.Variable(0.0)
            Pruning(lambda: step, [(weight, kept, threshold)], self._schedule, (1, 1), "AVG").conditional_mask_update()
            mask[kernel.begin : kernel.end] = kept.numpy().ravel()
        return mask

    def layers(self, params: NDArray[np.float32]) -> dict[str, dict[str, float]]:
        """Returns each pruned layer's `sparsity` (fraction of zeros in its kernels) and `weights` (their entries)."""
        entries = defaultdict(list)
        for kernel in self._kernels:
            entries[kernel.layer].append(params[kernel.begin : kernel.end])
        whole = {layer: np.concatenate(parts) for layer, parts in entries.items()}
        return {layer: {"sparsity": float(np.mean(own == 0)), "weights": len(own)} for layer, own in whole.items()}
