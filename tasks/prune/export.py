"""TensorFlow Lite files of a Keras model, and what they predict."""

import gzip
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_BATCH = 256


def to_tflite(model: tf.keras.Model, quantise: bool) -> bytes:
    """Returns `model` as a TFLite file; with `quantise`, weights as 8-bit integers (dynamic range)."""
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


def sizes(path: Path) -> tuple[int, int]:
    """Returns the bytes of a file, raw and after gzip, which is what pruning saves when a model is sent."""
    content = path.read_bytes()
    return len(content), len(gzip.compress(content, mtime=0))
