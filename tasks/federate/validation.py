"""Loss and accuracy of the global model on the hold-out data."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.parameters import Params, assign
from tasks.scrub import scrubbing

_BATCH = 1024
"""Most examples that are computed at a time; it bounds only the memory."""


def build_validation(
    model: tf.keras.Model, x: NDArray[np.float32], y: NDArray[np.int32]
) -> Callable[[Params], tuple[float, float]]:
    """Returns a function from flat parameters (P,) to (loss in nats per example, accuracy) on x (N, ...), y (N,).

    The function writes the parameters into `model`. It raises a RunError if TensorFlow cannot compute them.
    """

    # Autograph, which has nothing to convert here, leaves a file in the temporary folder whenever a run is killed.
    @tf.function(reduce_retracing=True, autograph=False)
    def batch_sums(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(inputs, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        hits = tf.argmax(logits, 1, tf.int32) == labels
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(hits, tf.float32))

    def measured() -> list[list[float]]:
        # One batch after the other: all hold-out data as tensors would take their memory twice.
        batches = (slice(begin, begin + _BATCH) for begin in range(0, len(x), _BATCH))
        return [[float(part) for part in batch_sums(tf.constant(x[at]), tf.constant(y[at]))] for at in batches]

    def validate(params: Params) -> tuple[float, float]:
        assign(model, params)
        # For a label without a class, TensorFlow's error holds every label of the batch.
        sums = np.sum(scrubbing("the model cannot be measured on the hold-out data", measured), axis=0)
        return float(sums[0] / len(y)), float(sums[1] / len(y))

    return validate
