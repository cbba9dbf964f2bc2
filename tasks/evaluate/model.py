"""A saved Keras model as a function from examples to logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From x (N, ...), N > 0, to (N, C)."""


def load_logits(path: Path, example: tuple[int, ...], num_classes: int, batch_size: int) -> Logits:
    """Returns the model in the H5 file `path` for examples of shape `example`, computing `batch_size` at a time.

    Raises:
        DataError: no such file, Keras cannot load it, or it takes other examples or gives other outputs.
    """
    import tensorflow as tf  # 4 s that metrics and pictures do without

    if not path.is_file():
        raise DataError(f"{path} is missing: run the step that makes it first")
    try:
        model = tf.keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as exc:
        raise DataError(f"{path} must be a model in Keras 2's H5 format: {' '.join(str(exc).split())}") from exc
    expected = (None, *example), (None, num_classes)
    if (model.input_shape, model.output_shape) != expected:
        raise DataError(
            f"{path} must take {expected[0]} and give {expected[1]}, as the data does, "
            f"got {model.input_shape} and {model.output_shape}"
        )

    def logits(x: NDArray[np.float32]) -> NDArray[np.float32]:
        batches = [model.predict_on_batch(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        return np.concatenate(batches)

    return logits
