"""A model as a function of its parameters, and where these stand in the global vector of parameters.

Clients may train a narrower model of the same family (HeteroFL: Diao 2021, arXiv 2010.01264): the first hidden units of
each layer. It is a model of its own, as cheap as it is narrow; its parameters are some of the global model's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from numpy.typing import NDArray

Predict = Callable[[Sequence[tf.Tensor], tf.Tensor], tf.Tensor]
"""(parameters, batch (B, ...)) -> logits (B, C)."""
Tensors = list[tf.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model that clients train: the global one, or a narrower one that holds some of its parameters."""

    predict: Predict
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its trainable parameters."""
    held: NDArray[np.int32] | None = None
    """Where each of its parameters stands in the global vector (P,); None: all of them, in order."""
    model: tf.keras.Model | None = None
    """The Keras model that `predict` came from, if any."""

    @property
    def sizes(self) -> list[int]:
        """Entries of each parameter tensor."""
        return [int(np.prod(shape)) for shape in self.shapes]

    def take(self, vector: tf.Tensor) -> Tensors:
        """Returns this model's tensors out of a global vector (P,)."""
        if self.held is not None:
            vector = tf.gather(vector, self.held)
        return [tf.reshape(part, shape) for part, shape in zip(tf.split(vector, self.sizes), self.shapes, strict=True)]

    def put(self, tensors: Tensors, num_params: int) -> tf.Tensor:
        """Returns a global vector (P,) that holds this model's tensors, and zeros elsewhere."""
        vector = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        return vector if self.held is None else tf.scatter_nd(self.held[:, None], vector, [num_params])


def whole(model: tf.keras.Model, input_shape: tuple[int, ...]) -> Architecture:
    """Returns the architecture of `model`, whose parameters are not looked at."""
    shapes = tuple(tuple(v.shape) for v in model.trainable_weights)
    return Architecture(build_predict(model, input_shape), shapes, model=model)


def narrower(model: tf.keras.Model, narrow: tf.keras.Model, input_shape: tuple[int, ...]) -> Architecture:
    """Returns the architecture of `narrow`, whose layers hold the first units of those of `model`.

    Raises:
        ValueError: the layers do not correspond, or none is narrower.
    """
    held, begin = [], 0
    pairs = [[layer for layer in m.layers if layer.weights] for m in (model, narrow)]
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(f"{len(pairs[1])} layers with parameters, not {len(pairs[0])}")
    places = {}
    for variable in model.trainable_weights:
        size = variable.shape.num_elements()
        places[variable.name] = np.arange(begin, begin + size, dtype=np.int32).reshape(variable.shape)
        begin += size
    for layer, thin in zip(*pairs, strict=True):
        for variable, part in zip(layer.trainable_weights, thin.trainable_weights, strict=True):
            held.append(_first(places[variable.name], tuple(part.shape), layer, thin).ravel())
    indices = np.concatenate(held)
    if len(indices) == begin:
        raise ValueError("no layer is narrower")
    shapes = tuple(tuple(v.shape) for v in narrow.trainable_weights)
    return Architecture(build_predict(narrow, input_shape), shapes, indices, narrow)


def _first(
    places: NDArray[np.int32], shape: tuple[int, ...], layer: tf.keras.layers.Layer, thin: tf.keras.layers.Layer
) -> NDArray[np.int32]:
    """Returns the entries of `places` that a parameter of `shape` holds: the first along every axis.

    A dense layer behind a Flatten has a row for each (place, channel): the first channels of every place.
    """
    channels = _flattened_channels(layer), _flattened_channels(thin)
    if len(shape) == 2 and channels[0] != channels[1]:
        rows = places.reshape(-1, channels[0], places.shape[1])
        return rows[:, : channels[1], : shape[1]]
    if len(shape) != places.ndim or any(n > m for n, m in zip(shape, places.shape, strict=True)):
        raise ValueError(f"layer {thin.name} has a parameter of {shape}, which {places.shape} does not hold")
    return places[tuple(slice(n) for n in shape)]


def _flattened_channels(layer: tf.keras.layers.Layer) -> int:
    before = layer.input._keras_history.layer
    return int(before.input_shape[-1]) if isinstance(before, tf.keras.layers.Flatten) else 0


def build_predict(model: tf.keras.Model, input_shape: tuple[int, ...]) -> Predict:
    """Returns the architecture of `model` as a function of its parameters, in the order of its `trainable_weights`."""
    numbered = tf.keras.models.clone_model(model)
    numbered.set_weights(model.get_weights())
    for number, variable in enumerate(numbered.trainable_weights):
        variable.assign(tf.fill(variable.shape, float(number)))
    functional = tff.learning.models.functional_model_from_keras(
        numbered,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (tf.TensorSpec((None, *input_shape), tf.float32), tf.TensorSpec((None,), tf.int32)),
    )
    # TFF takes parameters in the order in which the layers create them; a layer of layers may list them in another.
    created, constants = functional.initial_weights
    places = [int(parameter.flat[0]) for parameter in created]

    def predict(params: Sequence[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return functional.predict_on_batch((tuple(params[place] for place in places), constants), x, training=True)

    return predict
