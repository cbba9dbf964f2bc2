"""What one client computes in a round: local SGD from the global model, with the statistics that fall out of it.

The client reads its own files inside the graph: no example leaves it, only an update and a few numbers do. All of it is
one `tf.while_loop` over slices of the client's tensors; the host says in which order to visit the examples, and the
length of that order is the amount of local work, so unequal work needs no other graph.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

Predict = Callable[[Sequence[tf.Tensor], tf.Tensor], tf.Tensor]
"""(parameters, batch (B, ...)) -> logits (B, C)."""

CLIENT_TYPE = tff.types.to_type(
    OrderedDict(
        folder=tff.TensorType(np.str_),
        num_examples=np.int32,
        order=tff.TensorType(np.int32, [None]),
        weight=np.float32,
        learning_rate=np.float32,
        seed=tff.TensorType(np.int32, [2]),
        brightness=tff.TensorType(np.float32, [None]),
    )
)
"""What the host tells a client: its folder, N, the order of visits (E·N,), its weight in the average, this round's
learning rate, a seed, and the largest brightness shift in units of its preprocessed pixels (channels,)."""


@dataclass(frozen=True)
class LocalTraining:
    """What is the same for all clients and rounds."""

    input_shape: tuple[int, ...]
    num_classes: int
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the trainable parameters; P is the number of all their entries."""
    batch_size: int
    momentum: float = 0.0
    weight_decay: float = 0.0
    flip: bool = False
    brightness: bool = False

    @property
    def num_params(self) -> int:
        """P."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Entries of each parameter tensor."""
        return [int(np.prod(shape)) for shape in self.shapes]


def build_local_update(predict: Predict, training: LocalTraining, masked: bool) -> Any:
    """Returns the TFF computation (client, broadcast) -> result of one client's round.

    `broadcast` is the flat global parameters (P,), with the pruning masks (P,) of zeros and ones if `masked`.
    The result holds `update` = local − global (P,), zero where it is not finite; `weight`, zero then; `finite`; and
    `loss_before`, `loss_after`, `loss_mean` in nats per example and `num_steps`. The losses are by-products of the
    training steps, so they cost no pass of their own: `loss_before` is that of the first batch under the global model
    (batch size ≥ N: the exact loss before), `loss_after` of the batches that hold the last `batch_size` visits, each
    before its own step, `loss_mean` of all visits.
    """
    vector = tff.TensorType(np.float32, [training.num_params])
    broadcast_type = tff.types.to_type(
        OrderedDict(params=vector, mask=vector) if masked else OrderedDict(params=vector)
    )

    @tff.tensorflow.computation(CLIENT_TYPE, broadcast_type)
    def local_update(client: Any, broadcast: Any) -> Any:
        x, y = _read(client, training)
        mask = _unflatten(broadcast["mask"], training) if masked else None
        trained = _train(predict, training, client, x, y, _unflatten(broadcast["params"], training), mask)
        update = tf.concat([tf.reshape(p, [-1]) for p in trained["params"]], 0) - broadcast["params"]
        finite = tf.math.is_finite(tf.reduce_sum(tf.square(update))) & tf.math.is_finite(trained["loss_sum"])
        return OrderedDict(
            update=tf.where(finite, update, 0.0),
            weight=tf.where(finite, client["weight"], 0.0),
            finite=finite,
            loss_before=trained["loss_before"],
            loss_after=trained["late_sum"] / trained["late_count"],
            loss_mean=trained["loss_sum"] / tf.cast(tf.size(client["order"]), tf.float32),
            num_steps=trained["step"],
        )

    return local_update


def _read(client: Any, training: LocalTraining) -> tuple[tf.Tensor, tf.Tensor]:
    x = tf.reshape(_npy(client["folder"], "x.npy", tf.float32), [-1, *training.input_shape])
    y = _npy(client["folder"], "y.npy", tf.int32)
    # tf.equal, for `==` compares identities in the graphs that TFF builds.
    # TensorFlow's own error for a bad label prints the labels of the whole batch: private data in a log.
    sizes = tf.debugging.Assert(
        tf.reduce_all(tf.equal([tf.shape(x)[0], tf.size(y)], client["num_examples"])),
        ["its files changed since the step began"],
    )
    labels = tf.debugging.Assert(
        tf.reduce_all((y >= 0) & (y < training.num_classes)), [f"labels must be 0 to {training.num_classes - 1}"]
    )
    with tf.control_dependencies([sizes, labels]):
        return tf.identity(x), tf.identity(y)


def _npy(folder: tf.Tensor, name: str, dtype: tf.DType) -> tf.Tensor:
    """Returns the entries of a version 1 .npy file: 8 bytes, the header's length, the header, the entries."""
    content = tf.io.read_file(folder + "/" + name)
    head, length = tf.strings.substr(content, 0, 10) + bytes(10), tf.strings.length(content)
    begin = 10 + tf.cast(tf.io.decode_raw(tf.strings.substr(head, 8, 2), tf.uint16)[0], tf.int32)
    # TensorFlow's own error for a file cut short prints its content.
    whole = tf.equal(tf.strings.substr(head, 0, 7), b"\x93NUMPY\x01") & (begin <= length)
    with tf.control_dependencies([tf.debugging.Assert(whole, [f"{name} is not a .npy file of version 1"])]):
        length = tf.identity(length)
    return tf.io.decode_raw(tf.strings.substr(content, begin, length - begin), dtype)


def _unflatten(vector: tf.Tensor, training: LocalTraining) -> list[tf.Tensor]:
    parts = tf.split(vector, training.sizes)
    return [tf.reshape(part, shape) for part, shape in zip(parts, training.shapes, strict=True)]


def _train(
    predict: Predict,
    training: LocalTraining,
    client: Any,
    x: tf.Tensor,
    y: tf.Tensor,
    params: list[tf.Tensor],
    mask: list[tf.Tensor] | None,
) -> dict[str, Any]:
    order, size = client["order"], training.batch_size
    steps_per_epoch = (client["num_examples"] + size - 1) // size
    num_steps = tf.size(order) // client["num_examples"] * steps_per_epoch

    def step(state: dict[str, Any]) -> tuple[dict[str, Any]]:
        epoch, batch = state["step"] // steps_per_epoch, state["step"] % steps_per_epoch
        begin = epoch * client["num_examples"] + batch * size
        end = tf.minimum(begin + size, (epoch + 1) * client["num_examples"])
        visits = order[begin:end]
        inputs = _augment(tf.gather(x, visits), training, client, state["step"])
        with tf.GradientTape() as tape:
            tape.watch(state["params"])
            logits = predict(state["params"], inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, visits), logits)
            loss = tf.reduce_mean(losses)
        gradient = tape.gradient(loss, state["params"], unconnected_gradients="zero")
        params, velocity = _sgd(training, client["learning_rate"], state["params"], gradient, state["velocity"], mask)
        total = tf.reduce_sum(losses)
        late = tf.cast(end > tf.size(order) - size, tf.float32)
        return (
            {
                "step": state["step"] + 1,
                "params": params,
                "velocity": velocity,
                "loss_before": tf.where(tf.equal(state["step"], 0), loss, state["loss_before"]),
                "loss_sum": state["loss_sum"] + total,
                "late_sum": state["late_sum"] + tf.where(late > 0, total, 0.0),
                "late_count": state["late_count"] + late * tf.cast(end - begin, tf.float32),
            },
        )

    start = {
        "step": tf.constant(0),
        "params": params,
        "velocity": [tf.zeros_like(p) for p in params] if training.momentum else [],
        "loss_before": tf.constant(0.0),
        "loss_sum": tf.constant(0.0),
        "late_sum": tf.constant(0.0),
        "late_count": tf.constant(0.0),
    }
    (end_state,) = tf.while_loop(lambda state: state["step"] < num_steps, step, (start,))
    return end_state  # type: ignore[no-any-return]


def _sgd(
    training: LocalTraining,
    learning_rate: tf.Tensor,
    params: list[tf.Tensor],
    gradient: list[tf.Tensor],
    velocity: list[tf.Tensor],
    mask: list[tf.Tensor] | None,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """One step: v ← momentum·v + g + weight_decay·w; w ← w − rate·v; masked entries never move from zero."""
    if training.weight_decay:
        gradient = [g + training.weight_decay * p for g, p in zip(gradient, params, strict=True)]
    if mask is not None:
        gradient = [g * m for g, m in zip(gradient, mask, strict=True)]
    if training.momentum:
        velocity = gradient = [training.momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
    return [p - learning_rate * g for p, g in zip(params, gradient, strict=True)], velocity


def _augment(images: tf.Tensor, training: LocalTraining, client: Any, step: tf.Tensor) -> tf.Tensor:
    """Mirrors and brightens each image of the batch by draws from (client's seed of the round, step)."""
    if not (training.flip or training.brightness):
        return images
    seed = tf.random.experimental.stateless_fold_in(client["seed"], step)
    flip_seed, brightness_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    per_image = [tf.shape(images)[0], 1, 1, 1]
    if training.flip:
        mirrored = tf.random.stateless_uniform(per_image, flip_seed) < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
    if training.brightness:
        images += tf.random.stateless_uniform(per_image, brightness_seed, -1.0, 1.0) * client["brightness"]
    return images
