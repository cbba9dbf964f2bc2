"""Losses by label and gradients on a client's examples, at any parameters of the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.parameters import Params, assign
from tasks.scrub import scrubbing

_BATCH = 512
"""Examples that are computed at a time. It bounds the memory."""


@dataclass(frozen=True)
class Fit:
    """The loss and the accuracy of a model on some examples.

    Attributes:
        loss: mean cross-entropy, nats.
        accuracy: fraction of the examples.
        by_label: label to (number of examples, mean loss, recall).
    """

    loss: float
    accuracy: float
    by_label: Mapping[int, tuple[int, float, float]]


class Spread(NamedTuple):
    """Losses of some examples, nats: their number, mean and variance."""

    number: int
    mean: float
    variance: float


class Probe:
    """Losses and gradients of one model at any parameters (P,), as it predicts and without regularisers."""

    def __init__(self, model: tf.keras.Model) -> None:
        self._model = model

        @tf.function(reduce_retracing=True, autograph=False)
        def logits(x: tf.Tensor) -> tf.Tensor:
            return model(x, training=False)

        @tf.function(reduce_retracing=True, autograph=False)
        def gradient(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=False))
                loss = tf.reduce_mean(losses)
            parts = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
            return loss, tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

        failed = "the model failed on a client's data"
        self._logits: Callable[[Any], Any] = lambda x: scrubbing(failed, lambda: logits(x))
        self._gradient: Callable[[Any, Any], Any] = lambda x, y: scrubbing(failed, lambda: gradient(x, y))

    def logits(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the logits (N, C) of the model with `params` for x (N, ...)."""
        assign(self._model, params)
        parts: list[Params] = [self._logits(tf.constant(x[i : i + _BATCH])).numpy() for i in range(0, len(x), _BATCH)]
        return np.concatenate(parts)

    def fit(self, params: Params, examples: Examples) -> Fit:
        """Returns loss and accuracy of the model with `params` on `examples`."""
        y = examples[1]
        logits = self.logits(params, examples[0]).astype(np.float64)
        losses = _losses(logits, y)
        hits = logits.argmax(axis=1) == y
        by_label = {
            int(label): (int((y == label).sum()), float(losses[y == label].mean()), float(hits[y == label].mean()))
            for label in np.unique(y)
        }
        return Fit(float(losses.mean()), float(hits.mean()), by_label)

    def spread(self, params: Params, examples: Examples) -> dict[int, Spread]:
        """Returns, by label, how the losses of the model with `params` on `examples` are spread."""
        losses, y = _losses(self.logits(params, examples[0]).astype(np.float64), examples[1]), examples[1]
        by_label = {int(label): losses[y == label] for label in np.unique(y)}
        return {label: Spread(len(some), float(some.mean()), float(some.var())) for label, some in by_label.items()}

    def gradient(self, params: Params, examples: Examples) -> tuple[float, Floats]:
        """Returns the mean loss over `examples`, in nats, and its gradient (P,) at `params`."""
        assign(self._model, params)
        x, y = examples
        loss, total = 0.0, np.zeros(len(params))
        for i in range(0, len(y), _BATCH):
            part = x[i : i + _BATCH], y[i : i + _BATCH]
            value, slope = self._gradient(tf.constant(part[0]), tf.constant(part[1]))
            loss += float(value) * len(part[1])
            total += slope.numpy().astype(np.float64) * len(part[1])
        return loss / len(y), total / len(y)


def _losses(logits: Floats, labels: NDArray[np.int32]) -> Floats:
    """Returns (N,) cross-entropies of logits (N, C), nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return losses
