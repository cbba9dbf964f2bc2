# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "dm-haiku==0.0.12", "fedjax==0.0.17", "jax==0.4.25", "jaxlib==0.4.25", "numpy<2", "optax==0.2.2", "scipy<1.13",
# ]
# ///
"""FedJAX's federated averaging for peers_speed.py, with one of FedJAX's two backends for clients.

- `jit`, FedJAX's default: one client after the other; JAX divides large operations among the cores.
- `pmap`: as many clients at once as there are devices. JAX makes a device of each core.

The clients' random keys are made once. FedJAX's diagnostics (the norm of each update) are computed and not read.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg
from fedjax.core import client_datasets, models, optimizers
from speed_case import RATE, Case, Turns, flat, read


class Client(client_datasets.ClientDataset):  # type: ignore[misc]
    """A client's data, which gives our batches of the present round."""

    def __init__(self, case: Case, client: int, turns: Turns) -> None:
        super().__init__({"x": case.x[client], "y": case.y[client]})
        self._case, self._client, self._turns = case, client, turns

    def shuffle_repeat_batch(self, hparams: Any = None, **named: Any) -> Iterator[dict[str, Any]]:
        x, y = self.raw_examples["x"], self.raw_examples["y"]
        for batch in self._case.batches(self._client, self._turns.round_num):
            yield {"x": x[batch], "y": y[batch]}


def logits(params: list[Any], x: Any) -> Any:
    """Returns the logits (B, C): blocks of convolution, ReLU and max-pool, then dense layers with ReLU between them."""
    dense = 0
    while params[dense].ndim == 4:
        x = jax.lax.conv_general_dilated(x, params[dense], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params[dense + 1])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        dense += 2
    x = x.reshape(len(x), -1)
    for i in range(dense, len(params), 2):
        x = (jax.nn.relu(x) if i > dense else x) @ params[i] + params[i + 1]
    return x


def per_example_loss(params: list[Any], batch: dict[str, Any], rng: Any) -> Any:
    """Returns the cross-entropy of each example."""
    of_class = jax.nn.log_softmax(logits(params, batch["x"]))
    return -jnp.take_along_axis(of_class, batch["y"][:, None], axis=1)[:, 0]


def main(case: Case, backend: str) -> None:
    """Runs the rounds."""
    turns = Turns()
    if backend == "pmap":
        # JAX reads it when it is first used.
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={case.cores}"
        assert jax.local_device_count() == case.cores
    with fedjax.for_each_client_backend(backend):
        algorithm = fed_avg.federated_averaging(
            models.grad(per_example_loss),
            optimizers.sgd(RATE),
            optimizers.sgd(1.0),
            client_datasets.ShuffleRepeatBatchHParams(batch_size=1),  # not used: a Client gives our batches
        )
    key = jax.random.PRNGKey(0)
    clients = [(client, Client(case, client, turns), key) for client in range(case.num_clients)]
    state = algorithm.init([jnp.asarray(tensor) for tensor in case.tensors()])
    while turns.wait(lambda state=state: flat([np.asarray(tensor) for tensor in state.params])):
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)


if __name__ == "__main__":
    main(read(Path(sys.argv[1])), sys.argv[2])
