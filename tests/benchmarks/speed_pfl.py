# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["numpy", "pfl==0.6.0", "torch>=2.1,<2.14"]
# ///
# ruff: noqa: E402 - pfl connects the processes when it is imported
"""pfl-research's federated averaging for peers_speed.py, in its own simulation; the second argument is its processes.

One process has a thread for each core. Of several processes, each trains its part of the clients on one thread, and
they add up with torch.distributed, as pfl does it under `torchrun`.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

from speed_case import BATCH, RATE, Case, Turns, read

TURNS, CASE, PROCESSES = Turns(), read(Path(sys.argv[1])), int(sys.argv[2])


def fork() -> int:
    """Starts the other processes, and sets what `torchrun` sets; returns the rank of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = next((rank for rank in range(1, PROCESSES) if os.fork() == 0), 0)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "speed",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(PROCESSES),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    return rank


RANK = fork() if PROCESSES > 1 else 0

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from speed_network import Data, in_keras_layout, network

NEVER = 10**6


class Model(torch.nn.Module):
    """The network with the methods that pfl needs."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.network = network(case)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.network(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        del x, y
        return {}


class Client(Dataset):  # type: ignore[misc]
    """A client's data, which gives our batches of the present round."""

    def __init__(self, data: Data, client: int, round_num: int) -> None:
        super().__init__(data.of(client), user_id=client)
        self._data, self._client, self._round_num = data, client, round_num

    def iter(self, batch_size: int | None) -> Any:
        # All data at once are for the evaluation in round 1.
        whole = batch_size in (None, len(self))
        return [self.raw_data] if whole else self._data.batches(self._client, self._round_num)


class InTurns(TrainingProcessCallback):  # type: ignore[misc]
    """Waits before each round; the other processes wait for the first one."""

    def __init__(self) -> None:
        self.round_num = 0

    def _wait(self, model: PyTorchModel) -> bool:
        self.round_num += 1
        goes_on = RANK != 0 or TURNS.wait(lambda: in_keras_layout([*model.pytorch_model.parameters()]))
        if PROCESSES > 1:
            shared = torch.tensor([goes_on], dtype=torch.int32)
            torch.distributed.broadcast(shared, 0)
            goes_on = bool(shared[0])
        return goes_on

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        if not self._wait(model):
            sys.exit()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Metrics, model: PyTorchModel, **named: Any) -> Any:
        return not self._wait(model), Metrics()


def main(case: Case) -> None:
    """Runs the rounds."""
    torch.set_num_threads(1 if PROCESSES > 1 else case.cores)
    model, data, turns, sampled = Model(case), Data(case), InTurns(), -1

    def next_client() -> int:
        nonlocal sampled
        sampled = (sampled + 1) % case.num_clients
        return sampled

    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=NEVER,
            evaluation_frequency=NEVER,
            train_cohort_size=case.num_clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(FederatedDataset(lambda client: Client(data, client, turns.round_num), next_client), None),
        PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), 1.0)),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        callbacks=[turns],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main(CASE)
