# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["fedlab==1.3.0", "numpy", "pillow", "torch>=2.1,<2.14"]
# [tool.uv]
# override-dependencies = ["torchvision ; sys_platform == 'never'"]
# ///
# ruff: noqa: E402 - one module has to be replaced before the imports
"""FedLab's FedAvg, FedProx, SCAFFOLD, FedNova and FedDyn against ours: `uv run` this file with peer_ours.py's file.

FedLab 1.3.0 gives every client the same weight. Its FedDyn departs from the paper (Acar 2021, Algorithm 1) in two
places. It is run twice, as it is and mended:

- The client's linear and quadratic terms are computed on a detached copy of the parameters, so they have no gradient,
  and the client does plain SGD.
- The server's h gets Σ θ_k − θ instead of Σ (θ_k − θ).
"""

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# FedLab imports torchvision for data sets that are not used here, and its wheel fails with a PyTorch for the CPU only.
sys.modules["torchvision"] = ModuleType("torchvision")
sys.modules["torchvision"].transforms = None  # type: ignore[attr-defined]

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.algorithm.feddyn import FedDynSerialClientTrainer, FedDynServerHandler
from fedlab.contrib.algorithm.fednova import FedNovaSerialClientTrainer, FedNovaServerHandler
from fedlab.contrib.algorithm.fedprox import FedProxSerialClientTrainer, FedProxServerHandler
from fedlab.contrib.algorithm.scaffold import ScaffoldSerialClientTrainer, ScaffoldServerHandler
from peer_case import Case, Row, Vector, arguments, compare
from peer_torch import Batches, Network


class MendedFedDynTrainer(FedDynSerialClientTrainer):  # type: ignore[misc]
    """FedLab's FedDyn client, with the parameters in the graph of its loss."""

    @property
    def model_parameters(self) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(self._model.parameters())

    def train(self, id: int, model_parameters: torch.Tensor, train_loader: Any) -> list[torch.Tensor]:  # noqa: A002
        (params,) = super().train(id, model_parameters, train_loader)
        self.L[id] = self.L[id].detach()
        return [params.detach()]


class MendedFedDynServer(FedDynServerHandler):  # type: ignore[misc]
    """FedLab's FedDyn server, with h moved by the sum of the clients' updates."""

    def global_update(self, buffer: list[list[torch.Tensor]]) -> None:
        before = self.model_parameters
        # FedLab subtracts θ from the sum once instead of K times. Here h gets the missing K − 1 times.
        self.h = self.h + self.alpha / self.num_clients * (len(buffer) - 1) * before
        super().global_update(buffer)


class Data:
    """The batches of one round, as a FedLab data set."""

    def __init__(self, case: Case) -> None:
        self.case, self.round = case, 0

    def get_dataloader(self, id: int, batch_size: int) -> Batches:  # noqa: A002
        del batch_size
        client = self.case.clients[id]
        return Batches(self.case.batches(client, self.case.orders[self.round][client]))


def train(case: Case, server: type, trainer: type, on_server: dict[str, Any], on_client: dict[str, Any]) -> Vector:
    """Returns the global parameters after all rounds of FedLab's own handler and trainer."""
    ids = [[case.clients.index(client) for client in order] for order in case.orders]
    num = len(case.clients)
    handler = server(Network(case), len(ids), len(ids[0]) / num)
    handler.num_clients = num
    if on_server:
        handler.setup_optim(**on_server)
    clients, data = trainer(Network(case), num), Data(case)
    clients.setup_dataset(data)
    # The batches hold all epochs.
    clients.setup_optim(1, case["federate.client.batch_size"], case["federate.client.learning_rate"], **on_client)
    for data.round, sampled in enumerate(ids):
        clients.local_process(handler.downlink_package, sampled)
        for package in clients.uplink_package:
            handler.load(package)
    return handler._model.flat()  # type: ignore[no-any-return]


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields FedLab's results."""
    case = cases["fedavg, uniform"]
    yield Row(case, train(case, SyncServerHandler, SGDSerialClientTrainer, {}, {}))
    case = cases["fedprox, uniform"]
    mu = {"mu": case["federate.client.mu"]}
    yield Row(case, train(case, FedProxServerHandler, FedProxSerialClientTrainer, {}, mu))
    for name in ("scaffold II", "scaffold II, half of the clients"):
        case = cases[name]
        yield Row(case, train(case, ScaffoldServerHandler, ScaffoldSerialClientTrainer, {"lr": 1.0}, {}))
    case = cases["fednova, uniform"]
    option = {"option": "weighted_scale"}
    yield Row(case, train(case, FedNovaServerHandler, FedNovaSerialClientTrainer, option, {}))
    for name in ("feddyn", "feddyn, half of the clients"):
        case = cases[name]
        alpha = {"alpha": case["federate.client.alpha"]}
        params = train(case, FedDynServerHandler, FedDynSerialClientTrainer, alpha, alpha)
        yield Row(case, params, "as it is", agrees=False)
        params = train(case, MendedFedDynServer, MendedFedDynTrainer, alpha, alpha)
        yield Row(case, params, "gradient of both terms, h by the sum of updates")


if __name__ == "__main__":
    logging.disable()
    torch.manual_seed(0)
    sys.exit(compare("FedLab 1.3.0", rows(arguments(__doc__))))
