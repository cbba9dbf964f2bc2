# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["numpy", "pfl==0.6.0", "torch>=2.1,<2.14"]
# ///
"""pfl-research's FedAvg, FedProx and SCAFFOLD against ours: `uv run` this file with the file of peer_ours.py.

All clients have the same weight. SCAFFOLD of pfl 0.6.0 has a wrong sign of its control variates, in both options. It
computes c_k from y − x; the paper (Karimireddy 2020, Algorithm 1 and equation 4) has x − y. So c_k is the negative of a
gradient, but pfl still subtracts it: the drift is doubled and not removed. SCAFFOLD is run twice, as it is, and with c
and c_k exchanged in the local steps, which corrects the sign.

The clients' c_k are copied before they are kept. The reasons: pfl's storage in memory keeps references, with option I
all to one buffer, and its storage on disk cannot load its own files with PyTorch 2.6 or later.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from peer_case import Batch, Case, Row, Vector, arguments, compare
from peer_torch import Batches, Network
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import FederatedNNAlgorithm, NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.algorithm.fedprox import FedProx, FedProxParams
from pfl.algorithm.scaffold import SCAFFOLD, SCAFFOLDParams
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.user_state import InMemoryUserStateStorage
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel


class Model(Network):
    """The network with the methods that pfl needs."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        del x, y
        return {}


class Mended(PyTorchModel):  # type: ignore[misc]
    """Exchanges c and c_k in the local steps: they then add c_k − c, and both have the wrong sign in pfl."""

    def do_multiple_epochs_of(self, *given: Any, **named: Any) -> Any:
        if "local_c" in named:
            named |= {"local_c": named["server_c"], "server_c": named["local_c"]}
        return super().do_multiple_epochs_of(*given, **named)


class Copies(InMemoryUserStateStorage):  # type: ignore[misc]
    """Keeps copies, so that later changes of the tensors do not change what was saved."""

    def save_state(self, state: Any, user_id: str, key: str | None = None) -> None:
        super().save_state(state.apply_elementwise(torch.clone), user_id, key)


class Client(Dataset):  # type: ignore[misc]
    """A client's data of one round: one epoch after the other in our order."""

    def __init__(self, user_id: str, data: Batch, batches: list[Batch], epochs: int) -> None:
        super().__init__(tuple(torch.from_numpy(part) for part in data), user_id=user_id)
        per_epoch = len(batches) // epochs
        self._epochs = iter([Batches(batches[e * per_epoch : (e + 1) * per_epoch]) for e in range(epochs)])

    def iter(self, batch_size: int | None) -> Any:
        # All data at once are for option I's full gradient and for the evaluation in round 1.
        return [self.raw_data] if batch_size in (None, len(self)) else next(self._epochs)


def train(case: Case, algorithm: FederatedNNAlgorithm, params: NNAlgorithmParams, model: type = PyTorchModel) -> Vector:
    """Returns the global parameters after all rounds of pfl's own algorithm and simulation."""
    network, rate = Model(case), case["federate.client.learning_rate"]
    epochs = case["federate.local_work.epochs"]
    visits = iter([(client, order) for orders in case.orders for client, order in orders.items()])

    def next_client(client: str) -> Client:
        sampled, order = next(visits)
        assert sampled == client
        return Client(client, case.data[client], case.batches(client, order), epochs)

    names = iter([client for orders in case.orders for client in orders])
    algorithm.run(
        params,
        SimulatedBackend(FederatedDataset(next_client, lambda: next(names)), None),
        model(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
        NNTrainHyperParams(
            local_num_epochs=epochs, local_learning_rate=rate, local_batch_size=case["federate.client.batch_size"]
        ),
        send_metrics_to_platform=False,
    )
    return network.flat()


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields pfl's results."""

    def shared(case: Case) -> dict[str, Any]:
        return {
            "central_num_iterations": len(case.orders),
            "evaluation_frequency": 10**6,
            "train_cohort_size": len(case.orders[0]),
            "val_cohort_size": None,
        }

    case = cases["fedavg, uniform"]
    yield Row(case, train(case, FederatedAveraging(), NNAlgorithmParams(**shared(case))))
    case = cases["fedprox, uniform"]
    yield Row(case, train(case, FedProx(), FedProxParams(**shared(case), mu=case["federate.client.mu"])))
    for name in ("scaffold I", "scaffold II", "scaffold II, half of the clients"):
        case = cases[name]
        for note, model in {"as it is": PyTorchModel, "sign of the control variates mended": Mended}.items():
            options = SCAFFOLDParams(
                **shared(case),
                population=len(case.clients),
                use_gradient_as_control_variate=case["federate.client.option"] == "I",
                user_state_storage=Copies(),
            )
            yield Row(case, train(case, SCAFFOLD(), options, model), note, agrees=model is Mended)


if __name__ == "__main__":
    sys.exit(compare("pfl 0.6.0", rows(arguments(__doc__))))
