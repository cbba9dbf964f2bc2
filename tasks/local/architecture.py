"""A model as a function of its parameters, and the places of these parameters in the global vector.

Clients can train a narrower model of the same family (HeteroFL: Diao 2021, arXiv 2010.01264). It holds the first hidden
units of each layer. It is a separate model, so it costs less; its parameters are a part of the global model's.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.local.functional import Forward, build_forward

Tensors = list[tf.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model that clients train: the global model, or a narrower one that holds some of its parameters."""

    forward: Forward
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the trainable parameters, in the order of `trainable_weights`."""
    held: NDArray[np.int32] | None = None
    """Place of each of its parameters in the global vector (P,); None: it holds all of them, in order."""
    draws: bool = False
    """Whether the model draws random numbers while it trains, as Dropout does."""

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter tensor."""
        return [int(np.prod(shape)) for shape in self.shapes]

    def take(self, vector: tf.Tensor) -> Tensors:
        """Returns this model's parameter tensors from a global vector (P,)."""
        if self.held is not None:
            vector = tf.gather(vector, self.held)
        ends = np.cumsum([0, *self.sizes])
        # Slices, not tf.split: TensorFlow does not copy a slice that begins and ends at a multiple of 64 bytes.
        parts = [vector[begin:end] for begin, end in itertools.pairwise(ends.tolist())]
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def put(self, tensors: Tensors, num_params: int) -> tf.Tensor:
        """Returns a global vector (P,), P = `num_params`, with this model's tensors and zeros elsewhere."""
        vector = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        return vector if self.held is None else tf.scatter_nd(self.held[:, None], vector, [num_params])


def whole(name: str, model: tf.keras.Model) -> Architecture:
    """Returns the architecture of `model`, the federate.model `name`. Its trainable parameters can have any values."""
    return _architecture(name, model, None)


def _architecture(name: str, model: tf.keras.Model, held: NDArray[np.int32] | None) -> Architecture:
    forward, draws = build_forward(name, model)
    return Architecture(forward, tuple(tuple(v.shape) for v in model.trainable_weights), held, draws)


def narrower(name: str, model: tf.keras.Model, narrow: tf.keras.Model) -> Architecture:
    """Returns the architecture of `narrow`, in which each layer holds the first units of the same layer of `model`.

    Raises:
        ValueError: the layers do not correspond, no layer is narrower, or frozen parameters have other values.
    """
    frozen = model.non_trainable_weights, narrow.non_trainable_weights
    for wide, thin in zip(*frozen, strict=False):
        if wide.shape != thin.shape or wide.numpy().tobytes() != thin.numpy().tobytes():
            raise ValueError(
                f"{wide.name} is frozen, so no client sends it, but it has other values in the narrower model: give it "
                "the same at every width, or train it"
            )
    held, begin = [], 0
    pairs = [[layer for layer in m.layers if layer.weights] for m in (model, narrow)]
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(f"the narrower model has {len(pairs[1])} layers with parameters, not {len(pairs[0])}")
    places = {}
    for variable in model.trainable_weights:
        size = variable.shape.num_elements()
        places[variable.ref()] = np.arange(begin, begin + size, dtype=np.int32).reshape(variable.shape)
        begin += size
    for layer, thin in zip(*pairs, strict=True):
        for variable, part in zip(layer.trainable_weights, thin.trainable_weights, strict=True):
            held.append(_first(places[variable.ref()], tuple(part.shape), layer, thin).ravel())
    indices = np.concatenate(held)
    if len(indices) == begin:
        raise ValueError("no layer is narrower")
    return _architecture(name, narrow, indices)


def _first(
    places: NDArray[np.int32], shape: tuple[int, ...], layer: tf.keras.layers.Layer, thin: tf.keras.layers.Layer
) -> NDArray[np.int32]:
    """Returns the part of `places` that a narrower parameter of `shape` holds: the first entries along every axis.

    A dense layer after a Flatten has a row for each (place, channel). It holds the first channels of every place.
    """
    channels = _flattened_channels(layer), _flattened_channels(thin)
    if len(shape) == 2 and channels[0] != channels[1]:
        rows = places.reshape(-1, channels[0], places.shape[1])
        return rows[:, : channels[1], : shape[1]]
    if len(shape) != places.ndim or any(n > m for n, m in zip(shape, places.shape, strict=True)):
        raise ValueError(f"layer {thin.name} has a parameter of shape {shape}, which does not fit into {places.shape}")
    return places[tuple(slice(n) for n in shape)]


def _flattened_channels(layer: tf.keras.layers.Layer) -> int:
    before = layer.input._keras_history.layer
    return int(before.input_shape[-1]) if isinstance(before, tf.keras.layers.Flatten) else 0
