# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "dm-haiku==0.0.12", "fedjax==0.0.17", "jax==0.4.25", "jaxlib==0.4.25", "numpy<2", "optax==0.2.2", "scipy<1.13",
# ]
# ///
"""FedJAX's FedAvg, FedProx, MimeLite and FedAvgM against ours: `uv run` this file with the file of peer_ours.py.

FedJAX 0.0.17 pads the last batch of a client to the full size; here it gets our batches.
"""

import sys
from collections.abc import Iterator
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
from fedjax.algorithms import fed_avg, fed_prox, mime_lite
from fedjax.core import client_datasets, models, optimizers
from peer_case import Batch, Case, Row, Vector, arguments, compare, flat

PER_PASS = client_datasets.PaddedBatchHParams(batch_size=128)


class Client(client_datasets.ClientDataset):  # type: ignore[misc]
    """A client's data, which gives our batches of one round."""

    def __init__(self, data: Batch, batches: list[Batch]) -> None:
        super().__init__({"x": data[0], "y": data[1]})
        self._batches = [{"x": x, "y": y} for x, y in batches]

    def shuffle_repeat_batch(self, hparams: Any = None, **named: Any) -> list[dict[str, Any]]:
        del hparams, named
        return self._batches


def per_example_loss(params: list[Any], batch: dict[str, Any], rng: Any) -> Any:
    """Returns the cross-entropy of linear layers with tanh between them."""
    del rng
    x = batch["x"]
    for i in range(0, len(params), 2):
        x = (jnp.tanh(x) if i else x) @ params[i] + params[i + 1]
    return -jnp.take_along_axis(jax.nn.log_softmax(x), batch["y"][:, None], axis=1)[:, 0]


def train(case: Case, algorithm: fedjax.FederatedAlgorithm) -> Vector:
    """Returns the global parameters after all rounds of FedJAX's own algorithm."""
    state = algorithm.init([jnp.asarray(tensor) for tensor in case.tensors(case.initial)])
    for orders in case.orders:
        clients = [
            (client, Client(case.data[client], case.batches(client, order)), jax.random.PRNGKey(0))
            for client, order in orders.items()
        ]
        state, _ = algorithm.apply(state, clients)
    return flat(state.params)


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields FedJAX's results."""
    gradient, plain = models.grad(per_example_loss), optimizers.sgd(1.0)
    batching = client_datasets.ShuffleRepeatBatchHParams(batch_size=1)

    def sgd(case: Case) -> Any:
        return optimizers.sgd(case["federate.client.learning_rate"], case["federate.client.momentum"] or None)

    for name in ("fedavg", "fedavg, momentum"):
        case = cases[name]
        yield Row(case, train(case, fed_avg.federated_averaging(gradient, sgd(case), plain, batching)))
    case = cases["fedprox"]
    mu = case["federate.client.mu"]
    yield Row(case, train(case, fed_prox.fed_prox(per_example_loss, sgd(case), plain, batching, mu)))
    case = cases["mimelite"]
    yield Row(case, train(case, mime_lite.mime_lite(per_example_loss, sgd(case), batching, PER_PASS, 1.0)))
    case, section = cases["fedavgm"], "federate.server_optimizer"
    server = optimizers.sgd(case[f"{section}.learning_rate"], case[f"{section}.momentum"])
    yield Row(case, train(case, fed_avg.federated_averaging(gradient, sgd(case), server, batching)))


if __name__ == "__main__":
    sys.exit(compare("FedJAX 0.0.17", rows(arguments(__doc__))))
