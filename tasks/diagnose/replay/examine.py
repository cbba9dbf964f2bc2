"""What is too dear to record in every round: clients' data and updates, seen from the model before the rise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.clients import Examples
from tasks.parameters import assign
from tasks.scrub import scrubbing

Params = NDArray[np.float32]
Floats = NDArray[np.float64]

_BATCH = 512
_POWER_STEPS = 12
_LEARNING_EPOCHS = 20
_FEATURES = 200
"""Most features whose correlations are looked at."""


@dataclass(frozen=True)
class Fit:
    """How a model does on some examples.

    Attributes:
        loss: mean cross-entropy, nats.
        accuracy: fraction.
        by_label: label to (examples, mean loss, recall).
    """

    loss: float
    accuracy: float
    by_label: Mapping[int, tuple[int, float, float]]


class Probe:
    """A model that is asked for losses and gradients at any parameters (P,)."""

    def __init__(self, model: tf.keras.Model) -> None:
        self._model = model

        @tf.function(reduce_retracing=True, autograph=False)
        def logits(x: tf.Tensor) -> tf.Tensor:
            return model(x, training=False)

        @tf.function(reduce_retracing=True, autograph=False)
        def gradient(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                found = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=False))
                loss = tf.reduce_mean(found)
            parts = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
            return loss, tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

        failed = "the model failed on a client's data"
        self._logits: Callable[[Any], Any] = lambda x: scrubbing(failed, lambda: logits(x))
        self._gradient: Callable[[Any, Any], Any] = lambda x, y: scrubbing(failed, lambda: gradient(x, y))

    def logits(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the logits (N, C)."""
        assign(self._model, params)
        parts: list[Params] = [self._logits(tf.constant(x[i : i + _BATCH])).numpy() for i in range(0, len(x), _BATCH)]
        return np.concatenate(parts)

    def fit(self, params: Params, examples: Examples) -> Fit:
        """Returns how the model with `params` does on `examples`."""
        x, y = examples
        logits = self.logits(params, x).astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
        hits = logits.argmax(axis=1) == y
        by_label = {
            int(label): (int((y == label).sum()), float(losses[y == label].mean()), float(hits[y == label].mean()))
            for label in np.unique(y)
        }
        return Fit(float(losses.mean()), float(hits.mean()), by_label)

    def gradient(self, params: Params, examples: Examples) -> tuple[float, Floats]:
        """Returns the mean loss over `examples` and its gradient (P,) at `params`."""
        assign(self._model, params)
        x, y = examples
        loss, total = 0.0, np.zeros(len(params))
        for i in range(0, len(y), _BATCH):
            part = x[i : i + _BATCH], y[i : i + _BATCH]
            value, slope = self._gradient(tf.constant(part[0]), tf.constant(part[1]))
            loss += float(value) * len(part[1])
            total += slope.numpy().astype(np.float64) * len(part[1])
        return loss / len(y), total / len(y)


def dissimilarity(gradients: Sequence[Floats], shares: Floats) -> float:
    """Returns B = sqrt(sum p_k ||g_k||^2 / ||sum p_k g_k||^2) (FedProx, Li 2020, definition 3).

    1 where all gradients agree; infinite where they cancel.
    """
    mean = np.sum([share * g for share, g in zip(shares, gradients, strict=True)], axis=0)
    squares = float(np.sum([share * (g @ g) for share, g in zip(shares, gradients, strict=True)]))
    length = float(mean @ mean)
    return float(np.sqrt(squares / length)) if length > 0 else np.inf


def curvature(probe: Probe, params: Params, examples: Examples) -> float:
    """Returns the largest eigenvalue of the loss's Hessian over `examples` at `params`, by power iteration.

    Times the learning rate, above 2 a step of gradient descent overshoots farther than it came (a parabola diverges).
    The Hessian's products are differences of gradients, with a step of 1e-3 of the parameters' length. After 12
    iterations the value is a lower bound, close where one eigenvalue stands out.
    """
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(len(params))
    direction /= np.linalg.norm(direction)
    at = params.astype(np.float64)
    step = 1e-3 * max(1.0, float(np.linalg.norm(at)))
    value = 0.0
    for _ in range(_POWER_STEPS):
        ahead = probe.gradient((at + step * direction).astype(np.float32), examples)[1]
        behind = probe.gradient((at - step * direction).astype(np.float32), examples)[1]
        product = (ahead - behind) / (2 * step)
        value, length = float(direction @ product), float(np.linalg.norm(product))
        if not np.isfinite(length) or length == 0:
            break
        direction = product / length
    return value


@dataclass(frozen=True)
class Path:
    """A client's local steps with plain SGD.

    Attributes:
        loss: (S,) of each step's batch before the step, nats.
        distance: (S,) ||y_i - x|| after each step: how far the local model is from the global one.
        first_broken: index of the first step whose loss is not finite; None if all are.
    """

    loss: Floats
    distance: Floats
    first_broken: int | None


def local_path(probe: Probe, params: Params, examples: Examples, learning_rate: float, batch: int, epochs: int) -> Path:
    """Returns the path of plain SGD from `params` over `epochs` passes in a fixed order."""
    x, y = examples
    at, losses, distances = params.astype(np.float64), [], []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(y))
        for i in range(0, len(y), batch):
            visits = order[i : i + batch]
            with np.errstate(all="ignore"):
                loss, slope = probe.gradient(at.astype(np.float32), (x[visits], y[visits]))
                at = at - learning_rate * slope
            losses.append(loss)
            distances.append(float(np.linalg.norm(at - params)))
            if not np.isfinite(loss):
                return Path(np.array(losses), np.array(distances), len(losses) - 1)
    return Path(np.array(losses), np.array(distances), None)


def learnable(
    probe: Probe, params: Params, examples: Examples, learning_rate: float, batch: int
) -> tuple[float, float]:
    """Returns (accuracy on the second half after training on the first, share of its most frequent label).

    Data that are odd but make sense are learnt from one half for the other; noise is not. (0, 1) for fewer than 8.
    """
    x, y = examples
    if len(y) < 8:
        return 0.0, 1.0
    order = np.random.default_rng(0).permutation(len(y))
    first, second = order[: len(y) // 2], order[len(y) // 2 :]
    at = params.astype(np.float64)
    for epoch in range(_LEARNING_EPOCHS):
        turn = np.random.default_rng(epoch).permutation(len(first))
        for i in range(0, len(first), batch):
            visits = first[turn[i : i + batch]]
            at -= learning_rate * probe.gradient(at.astype(np.float32), (x[visits], y[visits]))[1]
    accuracy = probe.fit(at.astype(np.float32), (x[second], y[second])).accuracy
    return accuracy, float(np.bincount(y[second]).max() / len(second))


def expected(fit: Fit, reference: Fit) -> tuple[float, float]:
    """Returns (loss, accuracy) that a client with the label mix of `fit` would have if its data were like the others'.

    The mean over its labels of what `reference`, the hold-out data, has for each; labels that it lacks count as its
    mean. So a client with unusual labels is not taken for one with wrong ones.
    """
    total = sum(count for count, _, _ in fit.by_label.values())
    loss = accuracy = 0.0
    for label, (count, _, _) in fit.by_label.items():
        _, usual_loss, usual_recall = reference.by_label.get(label, (0, reference.loss, reference.accuracy))
        loss += count / total * usual_loss
        accuracy += count / total * usual_recall
    return loss, accuracy


def feature_distance(probe: Probe, params: Params, examples: Examples, reference: Examples) -> float:
    """Returns how far the features are from those of `reference`, in its sd; 0 is as near as a sample of it.

    Examples are compared with those of the reference that the model takes for the same label, so that neither an
    unusual label mix nor wrong labels count: sqrt(sum over labels of n_c/n (mean over features of ((m_cf - r_cf) /
    s_f)^2 - 1/n_c - 1/N_c)), with s_f the reference's sd within a label, plus a tenth of its mean over the features.
    Labels that the reference lacks are compared with all of it.
    """
    x, base = _flat(examples[0]), _flat(reference[0])
    taken, known = probe.logits(params, examples[0]).argmax(1), probe.logits(params, reference[0]).argmax(1)
    spread = np.zeros(base.shape[1])
    for label in np.unique(known):
        rows = base[known == label]
        spread += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
    sd = np.sqrt(spread / len(base))
    sd = sd + 0.1 * max(float(sd.mean()), 1e-12)
    square = 0.0
    for label in np.unique(taken):
        rows, like = x[taken == label], base[known == label]
        like = like if len(like) else base
        apart = float((((rows.mean(axis=0) - like.mean(axis=0)) / sd) ** 2).mean())
        square += len(rows) / len(x) * (apart - 1 / len(rows) - 1 / len(like))
    return float(np.sqrt(max(square, 0.0)))


def structure(x: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Returns how much features hang together, as a fraction of how much those of `reference` do; NaN if these do not.

    The mean size of the correlation between two features, less what noise of as many examples has. Another device
    changes brightness, contrast or place, and leaves neighbours alike; noise has no neighbours.
    """
    whole, part = _correlation(reference), _correlation(x)
    return part / whole if whole > 0.05 else np.nan


def _correlation(x: NDArray[np.float32]) -> float:
    rows = _flat(x)
    rows = rows[:, rows.std(axis=0) > 1e-9]
    if rows.shape[1] < 2 or len(rows) < 8:
        return 0.0
    some = np.random.default_rng(0).permutation(rows.shape[1])[:_FEATURES]
    sizes = np.abs(np.corrcoef(rows[:, some], rowvar=False))
    mean = (sizes.sum() - len(sizes)) / (sizes.size - len(sizes))
    # Independent features have the mean |r| of a normal of variance 1 / n.
    return float(mean - np.sqrt(2 / np.pi / len(rows)))


def _flat(x: NDArray[np.float32]) -> Floats:
    return x.reshape(len(x), -1).astype(np.float64)


def left_out_losses(
    loss: Callable[[Params], float], params: Params, updates: Mapping[str, Params], weights: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """Returns the loss of the weighted mean model of a round, and for each client that of the mean without it.

    With one client only, the model without it is the one that the round began with.
    """

    def mean_without(client: str | None) -> Params:
        left = [c for c in updates if c != client]
        total = sum(weights[c] for c in left)
        if not left or total == 0:
            return params
        return np.asarray(params + np.sum([weights[c] / total * updates[c] for c in left], axis=0), np.float32)

    return loss(mean_without(None)), {client: loss(mean_without(client)) for client in updates}
