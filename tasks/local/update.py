"""What one client computes in a round: local SGD from the global model, and statistics of the steps.

The client's own examples are a part of its input; they are read where the client is (own_examples.py). Only an update
and a few numbers leave it, no example does. All steps are one `tf.while_loop` over slices of the client's tensors. The
host gives the order in which to visit the examples; the length of this order is the amount of local work, so unequal
local work needs no other graph.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.local import faults
from tasks.local.architecture import Architecture
from tasks.local.client_update import NamedTensors, Trained
from tasks.local.descent import PASS_BATCH, LocalTraining, descend, full_gradient, losses_of, mean_gradient
from tasks.local.tff_names import Computation, TffType


def client_type(training: LocalTraining) -> TffType:
    """Returns the type of a client's input: its examples, and what the host sends it.

    - `x` (N, ...) and `y` (N,): its own examples.
    - `num_examples`: N, with the public examples.
    - `order`: the examples to visit (E·N,), for E epochs.
    - `weight`: its weight in the average; `share`: its share of the weight of all clients.
    - `learning_rate`: of this round.
    - `seed`: of everything that it draws.
    - `brightness`: the largest shift (channels,), in units of its preprocessed pixels.
    - `architecture`: the index of the architecture that it trains.
    - What faults.py adds, and `kept` (P,) if the client update keeps a vector.
    """
    members = OrderedDict(
        x=tff.TensorType(np.float32, [None, *training.input_shape]),
        y=tff.TensorType(np.int32, [None]),
        num_examples=np.int32,
        order=tff.TensorType(np.int32, [None]),
        weight=np.float32,
        share=np.float32,
        learning_rate=np.float32,
        seed=tff.TensorType(np.int32, [2]),
        brightness=tff.TensorType(np.float32, [None]),
        architecture=np.int32,
    )
    members |= faults.input_types(training.faults)
    if training.algorithm.kept:
        members["kept"] = tff.TensorType(np.float32, [training.num_params])
    return tff.types.to_type(members)


def broadcast_names(training: LocalTraining, masked: bool) -> list[str]:
    """Returns the names of the vectors (P,) that the server sends: parameters, pruning masks, the client update's s."""
    return ["params", *(["mask"] if masked else []), *(["shared"] if training.algorithm.shared else [])]


def build_local_update(architectures: Sequence[Architecture], training: LocalTraining, masked: bool) -> Computation:
    """Returns the TFF computation (client, broadcast) -> result of one client's round.

    The result holds

    - `update` = local − global (P,). It is divided by ‖a‖₁ for FedNova. It is zero if it is not finite.
    - `weight`: the client's weight; 0 if the update is not finite. `finite`: whether it is finite.
    - `loss_before`: mean loss of the first batch under the global model (with a batch size ≥ N, the exact loss).
    - `loss_after`: mean loss of the batches that hold the last `batch_size` visits, each before its own step.
    - `loss_mean`: mean loss of all visits.
    - `num_steps`, and `normalizer`: ‖a‖₁ for FedNova, otherwise 1.
    - `kept` (P,): the client's next vector, if the client update keeps one.
    - `summands`: its part of the sums that the server needs: `weight`; `normalizer` times weight; `message` (P,) for s;
      `held` (A,), the weight by architecture.

    Losses are in nats per example. They come from the training steps, so they cost no pass of their own.
    """
    vector = tff.TensorType(np.float32, [training.num_params])
    broadcast_type = tff.types.to_type(OrderedDict((name, vector) for name in broadcast_names(training, masked)))

    @tff.tensorflow.computation(client_type(training), broadcast_type)
    def local_update(client: NamedTensors, broadcast: NamedTensors) -> OrderedDict[str, Any]:
        x, y = _examples(client, training)

        def branch(architecture: Architecture) -> Callable[[], dict[str, tf.Tensor]]:
            return lambda: _train(architecture, training, client, broadcast, x, y)

        if len(architectures) == 1:
            trained = branch(architectures[0])()
        else:
            trained = tf.switch_case(client["architecture"], [branch(a) for a in architectures])
        return _result(training, client, trained, len(architectures))

    return local_update


def build_measure(architecture: Architecture, training: LocalTraining) -> Computation:
    """Returns the TFF computation (client, params (P,)) -> mean loss on all the client's examples, in nats."""

    @tff.tensorflow.computation(client_type(training), tff.TensorType(np.float32, [training.num_params]))
    def measure(client: NamedTensors, params: tf.Tensor) -> tf.Tensor:
        x, y = _examples(client, training)
        tensors = architecture.take(params)
        num = client["num_examples"]

        def add(begin: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = slice(begin, begin + PASS_BATCH)
            losses = losses_of(architecture.forward, training.loss, tensors, x[batch], y[batch])
            return begin + PASS_BATCH, total + tf.reduce_sum(losses)

        _, total = tf.while_loop(lambda begin, _: begin < num, add, (tf.constant(0), tf.constant(0.0)))
        return total / tf.cast(num, tf.float32)

    return measure


def _examples(client: NamedTensors, training: LocalTraining) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = faults.faulty_examples(training.faults, client, client["x"], client["y"], training.num_classes)
    if training.public is None:
        return x, y
    public_x, public_y = training.public
    return tf.concat([x, public_x], 0), tf.concat([y, public_y], 0)


def _result(
    training: LocalTraining, client: NamedTensors, trained: NamedTensors, num_architectures: int
) -> OrderedDict[str, Any]:
    loss_sum, update = trained["loss_sum"], faults.faulty_update(training.faults, client, trained["update"])
    finite = tf.math.is_finite(tf.nn.l2_loss(update)) & tf.math.is_finite(loss_sum)
    if training.algorithm.needs_full_gradient:
        # The other vectors are finite if the update is.
        finite &= tf.math.is_finite(tf.nn.l2_loss(trained["full_gradient"]))

    def or_else(value: tf.Tensor, otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
        # Not tf.where, which copies: with many parameters, copies take most of a round's time.
        return tf.cond(finite, lambda: value, otherwise)

    # Not tf.where, which takes ten times as long for one number.
    counts = tf.cast(finite, tf.float32)
    weight = client["weight"] * counts
    result = OrderedDict(
        update=or_else(
            update / trained["normalizer"] if training.algorithm.normalized else update, lambda: tf.zeros_like(update)
        ),
        weight=weight,
        finite=finite,
        loss_before=trained["loss_before"],
        loss_after=trained["late_sum"] / trained["late_count"],
        loss_mean=loss_sum / tf.cast(tf.size(client["order"]), tf.float32),
        num_steps=trained["step"],
        normalizer=trained["normalizer"],
    )
    summands = OrderedDict(
        weight=weight,
        normalizer=weight * tf.math.multiply_no_nan(trained["normalizer"], counts),
        held=weight * tf.one_hot(client["architecture"], num_architectures),
    )
    if training.algorithm.kept:
        # With a learning rate that decayed to 0, the mean gradient of the steps would be 0 / 0.
        moved = finite & (client["learning_rate"] > 0)
        result["kept"] = tf.cond(moved, lambda: trained["kept"], lambda: client["kept"])
        summands["message"] = client["share"] * (result["kept"] - client["kept"])
    elif training.algorithm.shared:
        summands["message"] = or_else(client["weight"] * trained["full_gradient"], lambda: tf.zeros_like(update))
    result["summands"] = summands
    return result


def _train(
    architecture: Architecture,
    training: LocalTraining,
    client: NamedTensors,
    broadcast: NamedTensors,
    x: tf.Tensor,
    y: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Returns the client's update (P,), the sums of its losses, and its next vectors."""
    algorithm, start = training.algorithm, architecture.take(broadcast["params"])
    mask = architecture.take(broadcast["mask"]) if "mask" in broadcast else None
    shared = architecture.take(broadcast["shared"]) if algorithm.shared else [None] * len(start)
    kept = architecture.take(client["kept"]) if algorithm.kept else [None] * len(start)
    constant = None
    if algorithm.shared or algorithm.kept:
        constant = [algorithm.constant(s, c) for s, c in zip(shared, kept, strict=True)]
    end = descend(architecture.forward, training, client, x, y, start, constant, mask)
    update = [after - before for after, before in zip(end["params"], start, strict=True)]
    result = {name: end[name] for name in ("loss_before", "loss_sum", "late_sum", "late_count", "step", "normalizer")}
    result["update"] = architecture.put(update, training.num_params)
    full = full_gradient(architecture.forward, training, x, y, start) if algorithm.needs_full_gradient else None
    if full is not None:
        result["full_gradient"] = architecture.put(full, training.num_params)
    if algorithm.kept:
        mean = mean_gradient(training, client, end, update, constant) if algorithm.needs_mean_gradient else None
        missing = [None] * len(start)
        after = [Trained(*parts) for parts in zip(update, mean or missing, full or missing, strict=True)]
        next_kept = [algorithm.next_kept(c, trained) for c, trained in zip(kept, after, strict=True)]
        result["kept"] = architecture.put(next_kept, training.num_params)
    return result
