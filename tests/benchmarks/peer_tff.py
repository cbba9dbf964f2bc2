"""TFF's own FedAvg, FedProx, MimeLite and FedAvgM against ours, in our environment and in TFF's worker.

    .venv/bin/python tests/benchmarks/peer_tff.py FILE.npz

FILE is the output of peer_ours.py. The algorithms are tff.learning.algorithms as TFF 0.87 builds them. Each client's
data set gives our batches of the round.

FedProx of TFF 0.87 has a wrong sign of its term: it adds μ(x − y) to the gradient, for local parameters y and global x
(templates/proximal_client_work.py). The gradient of μ/2 ‖y − x‖² (Li 2020, Algorithm 2) is μ(y − x), so TFF's FedProx
pushes clients away from the global model. It is run twice, as it is, and with an optimiser that adds the missing
2μ(y − x). FedLab, FedJAX and pfl have the right sign.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from peer_case import Batch, Case, Row, Vector, arguments, compare, flat

from tasks.models import build
from tests.oracle import oracle

algorithms, optimizers = tff.learning.algorithms, tff.learning.optimizers


def batched(batches: list[Batch]) -> tf.data.Dataset:
    """Returns our batches as a client's data set."""
    x, y = batches[0]
    spec = tf.TensorSpec([None, x.shape[1]], tf.float32), tf.TensorSpec([None], tf.int32)
    sizes = np.array([len(y) for _, y in batches])
    ends = np.cumsum(sizes)
    whole = [np.concatenate(part) for part in zip(*batches, strict=True)]
    dataset = tf.data.Dataset.from_tensor_slices((ends - sizes, ends))
    x, y = tf.constant(whole[0]), tf.constant(whole[1], tf.int32)
    dataset = dataset.map(lambda begin, end: (tf.ensure_shape(x[begin:end], spec[0].shape), y[begin:end]))
    assert dataset.element_spec == spec, dataset.element_spec
    return dataset


class Mended(optimizers.Optimizer):  # type: ignore[misc]
    """SGD that adds 2μ(y − x) to the gradient, with x the weights of the first step."""

    def __init__(self, rate: float, mu: float) -> None:
        self._sgd, self._mu = optimizers.build_sgdm(rate), mu

    def initialize(self, specs: Any) -> Any:
        start = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        return {"sgd": self._sgd.initialize(specs), "start": start, "begun": tf.constant(False)}

    def next(self, state: Any, weights: Any, gradients: Any) -> Any:
        start = tf.nest.map_structure(lambda x, y: tf.where(state["begun"], x, y), state["start"], weights)
        missing = tf.nest.map_structure(lambda g, y, x: g + 2 * self._mu * (y - x), gradients, weights, start)
        sgd, weights = self._sgd.next(state["sgd"], weights, missing)
        return {"sgd": sgd, "start": start, "begun": tf.constant(True)}, weights


def train(case: Case, make: Callable[[Any], Any]) -> Vector:
    """Returns the global parameters after all rounds of the process that `make` builds for a model."""
    model = build(case["federate.model"], case.data[case.clients[0]][0].shape[1:], 10, case["seed"])
    x, y = tf.TensorSpec([None, model.input_shape[1]], tf.float32), tf.TensorSpec([None], tf.int32)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    functional = tff.learning.models.functional_model_from_keras(model, loss, (x, y))
    process = make(functional)
    state = process.initialize()
    initial = tff.learning.models.ModelWeights(tuple(case.tensors(case.initial)), ())
    state = process.set_model_weights(state, initial)
    for orders in case.orders:
        data = [batched(case.batches(client, order)) for client, order in orders.items()]
        state = process.next(state, data).state
    return flat(process.get_model_weights(state).trainable)


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields TFF's results."""

    def sgd(case: Case) -> Any:
        return optimizers.build_sgdm(case["federate.client.learning_rate"], case["federate.client.momentum"] or None)

    for name in ("fedavg", "fedavg, momentum"):
        case = cases[name]
        yield Row(case, train(case, lambda m, c=case: algorithms.build_weighted_fed_avg(m, sgd(c))))
    case = cases["fedavg, uniform"]
    yield Row(case, train(case, lambda m: algorithms.build_unweighted_fed_avg(m, sgd(case))))
    case_p = cases["fedprox"]
    mu = case_p["federate.client.mu"]
    params = train(case_p, lambda m: algorithms.build_weighted_fed_prox(m, mu, sgd(case_p)))
    yield Row(case_p, params, "as it is", agrees=False)
    mended = Mended(case_p["federate.client.learning_rate"], mu)
    params = train(case_p, lambda m: algorithms.build_weighted_fed_prox(m, mu, mended))
    yield Row(case_p, params, "sign of the term mended")
    case_m = cases["mimelite"]
    yield Row(case_m, train(case_m, lambda m: algorithms.build_weighted_mime_lite(m, sgd(case_m))))
    case_s, section = cases["fedavgm"], "federate.server_optimizer"
    server = optimizers.build_sgdm(case_s[f"{section}.learning_rate"], case_s[f"{section}.momentum"])
    yield Row(case_s, train(case_s, lambda m: algorithms.build_weighted_fed_avg(m, sgd(case_s), server)))


if __name__ == "__main__":
    chosen = arguments(__doc__)
    with oracle(threads=2) as worker, tff.framework.get_context_stack().install(worker):
        sys.exit(compare("TFF 0.87", rows(chosen)))
