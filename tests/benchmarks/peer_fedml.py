# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["fedml==0.9.6", "numpy<2", "torch>=2.1,<2.14"]
# [[tool.uv.dependency-metadata]]
# name = "fedml"
# version = "0.9.6"
# requires-dist = []
# ///
"""FedML's FedNova, the authors' own optimiser, against ours: `uv run` this file with the file of peer_ours.py.

FedML 0.9.6 contains the optimiser of the paper's authors (github.com/JYWa/FedNova) with its momentum and proximal
variants. To import the package would start its platform, so the two files that are needed are loaded by path.

With the proximal term the server, like the authors' code, takes τ_eff = Σ p_k τ_k (τ_k: steps) instead of equation 6's
Σ p_k ‖a_k‖₁, which only makes the server's step longer. It is run twice, as it is and with equation 6's τ_eff.

FedML's SCAFFOLD is not run, because two other packages have it. FedML's FedDyn is not run either: (1) its penalties
have no gradient, like FedLab's, because it computes them on `param.data`, and (2) its server takes the last client's
parameters as the global ones.
"""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from peer_case import Case, Row, Vector, arguments, compare
from peer_torch import Batches, Network


def fednova() -> tuple[Any, Any]:
    """Returns FedML's client and server of FedNova."""
    # The server's file imports wandb for logs that are not written here.
    sys.modules["wandb"] = ModuleType("wandb")
    folder = Path(str(distribution("fedml").locate_file("fedml/simulation/sp/fednova")))
    spec = importlib.util.spec_from_file_location(
        "fednova", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules["fednova"] = importlib.util.module_from_spec(spec)
    client = importlib.import_module("fednova.client")
    return client.Client, importlib.import_module("fednova.fednova_trainer").FedNovaTrainer


def train(case: Case, by_normalizer: bool = False) -> Vector:
    """Returns the global parameters after all rounds; `by_normalizer`: τ_eff from ‖a_k‖₁ in every variant."""
    client_class, server = fednova()
    settings = SimpleNamespace(
        dataset="",
        learning_rate=case["federate.client.learning_rate"],
        momentum=case["federate.client.momentum"],
        mu=case["federate.client.fednova_mu"],
        gmf=0,
        dampening=0,
        wd=0,
        nesterov=False,
        epochs=1,  # the batches hold all epochs
    )

    class Client(client_class):  # type: ignore[misc]
        def get_local_tau_eff(self, opt: Any) -> Any:
            return opt.local_normalizing_vec * opt.ratio if by_normalizer else super().get_local_tau_eff(opt)

    network = Network(case)
    for orders in case.orders:
        total = sum(len(case.data[client][1]) for client in orders)
        start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        norm_grads, tau_effs = [], []
        for k, (name, order) in enumerate(orders.items()):
            num = len(case.data[name][1])
            network.load_state_dict(start)
            client = Client(k, Batches(case.batches(name, order)), None, num, settings, "cpu")
            _, norm_grad, tau_eff = client.train(network, num / total)
            norm_grads.append(norm_grad)
            tau_effs.append(tau_eff)
        network.load_state_dict(server.aggregate(SimpleNamespace(args=settings), start, norm_grads, tau_effs))
    return network.flat()


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields FedML's results."""
    for name in ("fednova", "fednova, momentum"):
        yield Row(cases[name], train(cases[name]))
    case = cases["fednova, proximal"]
    yield Row(case, train(case), "as it is", agrees=False)
    yield Row(case, train(case, by_normalizer=True), "τ_eff = Σ p_k ‖a_k‖₁")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(compare("FedML 0.9.6", rows(arguments(__doc__))))
