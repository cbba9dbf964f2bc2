"""The bytes of a model's H5 file, and the places of its variables' values among them."""

import json
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.keras import Model, layers


@dataclass(frozen=True)
class _Place:
    """One variable of a model, the byte at which its values begin in the model's file, and their type there."""

    variable: tf.Variable
    begin: int
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.variable.shape)

    @property
    def end(self) -> int:
        return self.begin + self.size * self.dtype.itemsize


class Layout:
    """A model's H5 file (`content`), and the places of its variables' values (`variables`)."""

    def __init__(self, model: Model) -> None:
        # In memory by HDF5's own driver, because with a BytesIO the bytes would differ from a file on disk.
        with h5py.File("memory", "w", driver="core", backing_store=False) as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
            tf.keras.models.save_model(model, file, save_format="h5", include_optimizer=False)
            file.flush()
            self.variables = []
            for layer in model.layers:
                for variable in (*layer.trainable_weights, *layer.non_trainable_weights):
                    data = file["model_weights"][layer.name][variable.name]
                    self.variables.append(_Place(variable, data.id.get_offset() or 0, data.dtype))
            self.content: bytes = file.id.get_file_image()
        self._model = model

    def values(self, content: bytes) -> "list[NDArray[Any]] | None":
        """Returns the values of the variables from the file `content`; None if the file is not of this model."""
        layout = self
        if not layout._agrees(content):
            if not any(isinstance(layer, layers.Lambda) for layer in self._model._flatten_layers()):
                return None
            # A Lambda's code holds the path of its module, which differs in another clone.
            theirs = _config(content)
            if theirs is None or _without_code(theirs) != _without_code(_config(self.content)):
                return None
            layout = _layout_with(self._model, theirs["config"])
            if not layout._agrees(content):
                return None
        return [
            np.frombuffer(content, place.dtype, place.size, place.begin).reshape(place.variable.shape)
            for place in layout.variables
        ]

    def difference(self, content: bytes) -> str:
        """Returns what is wrong with the file `content`, for an error message."""
        if not content.startswith(_SIGNATURE):
            return "a file that is not HDF5" if content else "an empty file"
        theirs = _config(content)
        if theirs is not None and _without_code(theirs) != _without_code(_config(self.content)):
            return "another model"
        return "a file that is damaged, or written by other versions of TensorFlow or h5py"

    def _agrees(self, content: bytes) -> bool:
        """Returns whether `content` differs from the model's own file only in the values of the variables."""
        if len(content) != len(self.content):
            return False
        begin = 0
        for place in sorted(self.variables, key=lambda each: each.begin):
            if place.size and content[begin : place.begin] != self.content[begin : place.begin]:
                return False
            begin = max(begin, place.end)
        return content[begin:] == self.content[begin:]


def _layout_with(model: Model, config: Any) -> Layout:
    """Returns the layout of the file of `model` with `config` as the description of its layers, which is not run."""
    model.get_config = lambda: config
    try:
        return Layout(model)
    finally:
        del model.get_config


_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CONFIG = re.compile(rb'\{"class_name": "\w+", "config": ')


def _config(content: bytes) -> Any:
    """Returns the description of the layers in a model's H5 file, as plain JSON; None if there is none."""
    start = _CONFIG.search(content)
    try:
        return json.JSONDecoder().raw_decode(content[start.start() :].decode("latin-1"))[0] if start else None
    except (ValueError, RecursionError):
        return None


def _without_code(config: Any) -> Any:
    """Returns a description of layers without the code of Lambda layers."""
    if isinstance(config, list):
        return [_without_code(each) for each in config]
    if not isinstance(config, dict):
        return config
    inner = {key: _without_code(value) for key, value in config.items()}
    if inner.get("class_name") == "Lambda" and isinstance(inner.get("config"), dict):
        inner["config"] = {key: value for key, value in inner["config"].items() if key not in _CODE}
    return inner


_CODE = ("function", "mask", "output_shape")
"""The parts of a Lambda layer's description that hold code."""
