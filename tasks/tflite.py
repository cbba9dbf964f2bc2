"""TensorFlow Lite files of a Keras model, and their predictions."""

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.errors import RunError, SettingsError, one_line
from tasks.signals import masked

_BATCH = 256
"""Most examples that a file predicts at a time. It bounds the memory."""
_SAME_LOGITS = 1e-3
"""Largest difference between a logit of the float TFLite file and of Keras that the order of additions explains,
relative to the largest absolute logit, or to 1 if that is larger."""


def to_tflite(model: tf.keras.Model, quantise: bool) -> bytes:
    """Returns `model` as a TFLite file; with `quantise`, weights as 8-bit integers (dynamic range).

    The file takes any number of examples at once. It takes one at a time if TensorFlow Lite cannot do more: (1) with
    recurrent layers, (2) with GroupNormalization: the conversion for any number succeeds, but the file fails.

    Raises:
        SettingsError: TensorFlow Lite cannot hold `model`, for example because it has no operation for a layer.
    """
    batches = [1] if any(isinstance(layer, tf.keras.layers.RNN) for layer in model._flatten_layers()) else [None, 1]
    for batch in batches:
        try:
            with _quiet_converter():
                content = _converted(model, quantise, batch)
            tflite_logits(content, np.zeros((2, *model.input_shape[1:]), np.float32))
            return content
        except Exception as exc:
            # This is foreign code: no list of the errors that it raises can be complete.
            sent = masked(exc)
            if sent is not None:
                raise sent from None
            refused = exc
    lacking = re.search(r"TF Select ops: (.+)|'tf\.(\w+)' op", str(refused))
    got = f"one that needs {lacking[1] or lacking[2]}: leave it out" if lacking else one_line(refused)
    raise SettingsError(
        f"federate.model must be a model that TensorFlow Lite can hold, because prune exports it, got {got}"
    ) from refused


def _converted(model: tf.keras.Model, quantise: bool, batch: int | None) -> bytes:
    if batch is None:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
    else:
        batch_of = tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32)
        function = tf.function(lambda x: model(x, training=False), autograph=False)
        # Not from_keras_model: it first saves the model and traces every call of every layer, 10 s for an LSTM.
        holder = tf.Module()
        holder.variables_of_model = model.variables
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function(batch_of)], holder)
    if quantise:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


@contextmanager
def _quiet_converter() -> Iterator[None]:
    """Discards the lines that the converter writes to stderr by itself; its exception says the same."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def tflite_logits(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the logits (N, C) that the TFLite file `content` gives for x (N, ...)."""
    interpreter = tf.lite.Interpreter(
        model_content=content,
        # The default delegate prints to stderr, and its sums depend on the number of threads.
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    size = _BATCH if entry["shape_signature"][0] == -1 else 1
    allocated, parts = 0, []
    for begin in range(0, len(x), size):
        batch = x[begin : begin + size]
        if len(batch) != allocated:
            interpreter.resize_tensor_input(entry["index"], batch.shape)
            interpreter.allocate_tensors()
            allocated = len(batch)
        interpreter.reset_all_variables()  # or an LSTM begins with its state after the last example
        interpreter.set_tensor(entry["index"], batch)
        interpreter.invoke()
        parts.append(interpreter.get_tensor(result["index"]))
    return np.concatenate(parts)


def checked_difference(exported: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Returns the largest difference between the logits (N, C) of the float TFLite file and of Keras.

    A diverged model is pruned and exported too. If some of Keras's logits are not finite, only the entries that are
    finite in both are compared, because an overflow depends on the order of additions.

    Raises:
        RunError: (1) the logits differ by more than the order of additions explains, or (2) all of Keras's logits are
            finite and some of the file's are not.
    """
    finite = np.isfinite(exported) & np.isfinite(logits)
    file_logits, keras_logits = exported[finite].astype(np.float64), logits[finite].astype(np.float64)
    largest = float(np.abs(file_logits - keras_logits).max(initial=0.0))
    if np.isfinite(logits).all() and not finite.all():
        largest = np.inf
    if largest > _SAME_LOGITS * np.abs(keras_logits).max(initial=1.0):
        raise RunError(f"models/pruned_float.tflite differs from models/pruned.h5: by up to {largest:.4g} in a logit")
    return largest


def sizes(path: Path) -> tuple[int, int]:
    """Returns the size of a file in bytes, raw and after gzip, which shows what pruning saves when a model is sent."""
    content = path.read_bytes()
    return len(content), len(gzip.compress(content, mtime=0))
