"""tfmot's pruning masks for the flat parameters of the federated rounds.

tfmot prunes a Keras model while `fit` runs it, in wrappers around the layers that it knows; here the global model is
averaged instead. So tfmot only computes the masks, of each kernel by itself, wherever in the model it is.
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

    In pruning round t, `begin_round` ≤ t ≤ `end_round`, every `frequency` rounds, each kernel keeps its largest
    entries by magnitude; the fraction of zeros is final + (initial − final)·(1 − (t − begin)/(end − begin))³.
    """

    def __init__(self, settings: PruneSettings, model: tf.keras.Model) -> None:
        """Takes the places of the kernels of `model`; its parameters are not looked at."""
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
        """Returns the mask (P,) of ones and zeros after `pruning_round` = 1, 2, …, or None where it does not change."""
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
        """Returns each pruned layer's `sparsity` (fraction of zeros in its kernels) and `weights` (their number)."""
        entries = defaultdict(list)
        for kernel in self._kernels:
            entries[kernel.layer].append(params[kernel.begin : kernel.end])
        whole = {layer: np.concatenate(parts) for layer, parts in entries.items()}
        return {layer: {"sparsity": float(np.mean(own == 0)), "weights": len(own)} for layer, own in whole.items()}
