"""A saved Keras model as a function from examples to logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Form
from tasks.scrub import scrubbing

LogitsOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From x (N, ...), N > 0, to (N, C)."""


def load_logits(path: Path, name: str, form: Form, batch_size: int) -> LogitsOf:
    """Returns the model `name` with the weights in the H5 file `path`, computing `batch_size` examples at a time.

    Raises:
        DataError: the file is missing, is damaged, or holds another model.
        SettingsError: there is no model `name`, or it cannot be built.
    """
    from tasks.models import load_model  # here, because TensorFlow takes 4 s, and metrics and pictures need none

    model = load_model(path, name, form.input_shape, form.num_classes)

    def predicted(x: NDArray[np.float32], start: int) -> Any:
        return model.predict_on_batch(x[start : start + batch_size])

    def logits(x: NDArray[np.float32]) -> NDArray[np.float32]:
        batches = range(0, len(x), batch_size)
        return np.concatenate(scrubbing(f"{path} failed on the data", lambda: [predicted(x, at) for at in batches]))

    return logits
