"""The local steps of one client, and the gradient over all of its data, as TensorFlow graphs on lists of tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.local.architecture import Tensors
from tasks.local.client_update import ClientUpdate, NamedTensors
from tasks.local.functional import Forward
from tasks.settings import FaultSettings

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(labels (B,), logits (B, C)) -> loss of each example (B,)."""


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy (B,) of each example, in nats."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


PASS_BATCH = 128
"""Examples that a pass over all data computes at a time. It affects only speed and memory."""


_OF_MODEL = 2
"""Folded into a step's seed for the model's random layers, so that they do not repeat the augmentation's draws."""


@dataclass(frozen=True)
class LocalTraining:
    """The settings of local training, the same for all clients and rounds."""

    input_shape: tuple[int, ...]
    num_classes: int
    num_params: int
    """P, the number of trainable parameters of the global model."""
    batch_size: int
    algorithm: ClientUpdate
    loss: Loss = cross_entropy
    flip: bool = False
    brightness: bool = False
    public: tuple[NDArray[np.float32], NDArray[np.int32]] | None = field(default=None, compare=False)
    """Public examples that every client adds after its own."""
    faults: FaultSettings = field(default_factory=FaultSettings)


_LOSSES = ("loss_before", "loss_sum", "late_sum", "late_count")
"""What a step adds to: the mean loss of the first batch; the sum of the losses of all visits; the same of the batches
that hold the last `batch_size` visits; the number of these visits."""


def descend(
    forward: Forward,
    training: LocalTraining,
    client: NamedTensors,
    x: tf.Tensor,
    y: tf.Tensor,
    start: Tensors,
    constant: Tensors | None,
    mask: Tensors | None,
) -> dict[str, Any]:
    """Returns the state after the local steps, from the parameters `start` over the visits in `client["order"]`.

    A step is v ← momentum·v + d, w ← w − rate·v, with d = g + constant + pull·(w − start). d is zero for entries with a
    `mask` of zero, so pruned parameters stay zero. The state has the parameters, the number of steps, and the sums from
    which the losses, the mean gradient and FedNova's ‖a‖₁ follow.
    """
    settings, algorithm = training.algorithm.settings, training.algorithm
    order, size, rate = client["order"], training.batch_size, client["learning_rate"]
    momentum = settings.momentum if algorithm.local_momentum else 0.0
    summed = _sums_gradients(training)
    num_examples, num_visits = client["num_examples"], tf.size(order)
    steps_per_epoch = (num_examples + size - 1) // size
    late_from = num_visits - size

    def step(state: dict[str, Any]) -> tuple[dict[str, Any]]:
        begin = state["begin"]
        epoch = begin // num_examples
        end = tf.minimum(begin + size, (epoch + 1) * num_examples)
        visits = order[begin:end]
        step_num = epoch * steps_per_epoch + begin % num_examples // size
        seed = tf.random.experimental.stateless_fold_in(client["seed"], step_num)
        inputs = _augment(tf.gather(x, visits), training, client, seed)
        of_model = tf.random.experimental.stateless_fold_in(seed, _OF_MODEL)
        losses, gradient = _gradient(forward, training.loss, state["params"], inputs, tf.gather(y, visits), of_model)
        total, number = tf.reduce_sum(losses), tf.cast(end - begin, tf.float32)
        if settings.clip_norm:
            gradient, _ = tf.clip_by_global_norm(gradient, settings.clip_norm)
        gradient = _decayed(gradient, state["params"], settings.weight_decay)
        direction = gradient
        if constant is not None:
            direction = [d + c for d, c in zip(direction, constant, strict=True)]
        if algorithm.pull:
            away = [p - s for p, s in zip(state["params"], start, strict=True)]
            direction = [d + algorithm.pull * a for d, a in zip(direction, away, strict=True)]
        if mask is not None:
            direction = [d * m for d, m in zip(direction, mask, strict=True)]
        velocity = state["velocity"]
        if momentum:
            velocity = direction = [momentum * v + d for v, d in zip(velocity, direction, strict=True)]
        first, late = tf.equal(begin, 0), end > late_from
        counts = tf.cast(tf.stack([first, True, late, late]), tf.float32)
        # Not tf.where: three of them take as long as the loss itself, of a small model.
        parts = tf.math.multiply_no_nan(tf.stack([total / number, total, total, number]), counts)
        following = {
            "begin": end,
            "params": [p - rate * d for p, d in zip(state["params"], direction, strict=True)],
            "velocity": velocity,
            "losses": state["losses"] + parts,
            "gradient_sum": [s + g for s, g in zip(state["gradient_sum"], gradient, strict=True)] if summed else [],
        }
        if algorithm.normalized:
            # ‖a‖₁ is the distance, in learning rates, that the same recursion moves if every gradient is 1.
            following["response"] = momentum * state["response"] + 1.0 - algorithm.pull * rate * state["normalizer"]
            following["normalizer"] = state["normalizer"] + following["response"]
        return (following,)

    zeros = [tf.zeros_like(p) for p in start]
    # Each loop variable costs time in each step, as much as a small operation: so there are few.
    begin_state = {
        "begin": tf.constant(0),
        "params": start,
        "velocity": zeros if momentum else [],
        "losses": tf.zeros(len(_LOSSES)),
        "gradient_sum": zeros if summed else [],
    }
    if algorithm.normalized:
        begin_state |= {"response": tf.constant(0.0), "normalizer": tf.constant(0.0)}
    with _few_loop_variables():
        (end_state,) = tf.while_loop(lambda state: state["begin"] < num_visits, step, (begin_state,))
    losses = dict(zip(_LOSSES, tf.unstack(end_state["losses"]), strict=True))
    num_steps = num_visits // num_examples * steps_per_epoch
    return {"normalizer": tf.constant(1.0), "step": num_steps, **losses, **end_state}


@contextmanager
def _few_loop_variables() -> Iterator[None]:
    """Within the block, a loop reads what does not change from outside.

    TensorFlow 2's own loops carry every tensor that they read from step to step, which takes 6 % of the steps of a
    small model. In a function, such as a branch of `tf.switch_case`, TensorFlow always makes its own loops.
    """
    before = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        if before:
            tf.compat.v1.enable_control_flow_v2()


def _sums_gradients(training: LocalTraining) -> bool:
    return training.algorithm.needs_mean_gradient and training.algorithm.settings.momentum > 0


def mean_gradient(
    training: LocalTraining, client: NamedTensors, end: Mapping[str, Any], update: Tensors, constant: Tensors | None
) -> Tensors:
    """Returns the mean of g over the K steps: SCAFFOLD's option II.

    With momentum, the steps have summed the gradients. Without momentum, Δ = −η Σ (g + constant), so the mean of g is
    −Δ/(Kη) − constant. With SCAFFOLD's constant c − c_k this is c_k − c + (x − y)/(Kη), as in the paper.
    """
    num_steps = tf.cast(end["step"], tf.float32)
    if _sums_gradients(training):
        return [total / num_steps for total in end["gradient_sum"]]
    factor = -1 / (num_steps * client["learning_rate"])
    return [factor * u - c for u, c in zip(update, constant or [0.0] * len(update), strict=True)]


def full_gradient(forward: Forward, training: LocalTraining, x: tf.Tensor, y: tf.Tensor, params: Tensors) -> Tensors:
    """Returns the gradient of the mean loss over all examples at `params`, weight decay included.

    It is without augmentation and without the draws of random layers.
    """
    num = tf.shape(y)[0]

    def add(begin: tf.Tensor, sums: Tensors) -> tuple[tf.Tensor, Tensors]:
        labels = y[begin : begin + PASS_BATCH]
        _, gradient = _gradient(forward, training.loss, params, x[begin : begin + PASS_BATCH], labels)
        size = tf.cast(tf.size(labels), tf.float32)
        return begin + PASS_BATCH, [s + size * g for s, g in zip(sums, gradient, strict=True)]

    zeros = [tf.zeros_like(p) for p in params]
    _, sums = tf.while_loop(lambda begin, _: begin < num, add, (tf.constant(0), zeros))
    gradient = [s / tf.cast(num, tf.float32) for s in sums]
    return _decayed(gradient, params, training.algorithm.settings.weight_decay)


def losses_of(
    forward: Forward, loss: Loss, params: Tensors, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns each example's loss (B,) plus the penalty of the model's regularisers; the mean is Keras's loss."""
    logits, penalty = forward(params, x, seed)
    losses = loss(y, logits)
    # Without a penalty, the sum with 0.0 would cost six operations in the gradient.
    return losses if isinstance(penalty, float) else losses + penalty


def _gradient(
    forward: Forward, loss: Loss, params: Tensors, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor | None = None
) -> tuple[tf.Tensor, Tensors]:
    """Returns each example's loss (B,) and the gradient of their mean."""
    with tf.GradientTape() as tape:
        tape.watch(params)
        losses = losses_of(forward, loss, params, x, y, seed)
    # The derivatives of the mean, which TensorFlow takes six small operations to find.
    each = tf.fill(tf.shape(losses), 1.0 / tf.cast(tf.size(losses), tf.float32))
    gradient = tape.gradient(losses, params, output_gradients=each, unconnected_gradients="zero")
    # The gradient of an Embedding is sparse, and its shape is unknown.
    return losses, [_dense(g, p.shape) for g, p in zip(gradient, params, strict=True)]


def _dense(gradient: tf.Tensor | tf.IndexedSlices, shape: tf.TensorShape) -> tf.Tensor:
    gradient = tf.convert_to_tensor(gradient)
    return gradient if gradient.shape == shape else tf.ensure_shape(gradient, shape)


def _decayed(gradient: Tensors, params: Tensors, weight_decay: float) -> Tensors:
    if not weight_decay:
        return gradient
    return [g + weight_decay * p for g, p in zip(gradient, params, strict=True)]


def _augment(images: tf.Tensor, training: LocalTraining, client: NamedTensors, seed: tf.Tensor) -> tf.Tensor:
    """Returns the images, augmented as `training` says, with draws from the step's `seed`.

    `flip` mirrors each image with probability 1/2. `brightness` shifts each image by a uniform draw from (-1, 1) times
    the client's largest shift of each channel.
    """
    if not (training.flip or training.brightness):
        return images
    flip_seed, brightness_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    per_image = [tf.shape(images)[0], 1, 1, 1]
    if training.flip:
        mirrored = tf.random.stateless_uniform(per_image, flip_seed) < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
    if training.brightness:
        images += tf.random.stateless_uniform(per_image, brightness_seed, -1.0, 1.0) * client["brightness"]
    return images
