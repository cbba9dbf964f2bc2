"""TensorFlow Lite files of a Keras model, and what they predict."""

import gzip
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.errors import RunError, SettingsError, reading

_BATCH = 256
_SAME_LOGITS = 1e-3
"""Largest difference between a logit of the float TFLite file and of Keras that the order of additions explains,
relative to the largest logit."""


def to_tflite(model: tf.keras.Model, quantise: bool) -> bytes:
    """Returns `model` as a TFLite file; with `quantise`, weights as 8-bit integers (dynamic range).

    Raises:
        SettingsError: TensorFlow Lite has no operation for a part of it.
    """
    with reading("federate.model must be a model that TensorFlow Lite can hold, for prune exports it", SettingsError):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if quantise:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())


def tflite_logits(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the logits (N, C) that the TFLite file `content` gives for x (N, ...)."""
    interpreter = tf.lite.Interpreter(
        model_content=content,
        # The default delegate prints to stderr, and its sums depend on the number of threads.
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    parts = []
    for begin in range(0, len(x), _BATCH):
        batch = x[begin : begin + _BATCH]
        interpreter.resize_tensor_input(given["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        parts.append(interpreter.get_tensor(result["index"]))
    return np.concatenate(parts)


def checked_difference(exported: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Returns the largest difference of the float TFLite file's logits (N, C) from Keras's.

    A model that has diverged is pruned and exported all the same: where a logit of Keras's is not finite, only those
    that are finite in both are compared, since an overflow depends on the order of additions.

    Raises:
        RunError: they differ by more than the order of additions explains, or only the file's are not finite.
    """
    finite = np.isfinite(exported) & np.isfinite(logits)
    one, other = exported[finite].astype(np.float64), logits[finite].astype(np.float64)
    largest = float(np.abs(one - other).max(initial=0.0))
    if np.isfinite(logits).all() and not finite.all():
        largest = np.inf
    if largest > _SAME_LOGITS * np.abs(other).max(initial=1.0):
        raise RunError(f"models/pruned_float.tflite differs from models/pruned.h5: by up to {largest:.4g} in a logit")
    return largest


def sizes(path: Path) -> tuple[int, int]:
    """Returns the bytes of a file, raw and after gzip, which is what pruning saves when a model is sent."""
    content = path.read_bytes()
    return len(content), len(gzip.compress(content, mtime=0))
