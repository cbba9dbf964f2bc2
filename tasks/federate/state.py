"""What a round begins with and what its clients send: values of the host, between TFF's computations."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.parameters import Params

OptimizerState = Any
"""Tensors in the structure of the server's `tff.learning.optimizers.Optimizer`, which has no type of its own."""

AggregatorState = Any
"""Tensors in the structure of the `tff.aggregators` process, which has no type of its own; empty for a `Rule`."""

ClientInput = Mapping[str, Any]
"""What the host sends one client, in the names and types of `tasks.local.update.client_type`."""


@dataclass(frozen=True)
class ServerState:
    """What training goes on from after a round.

    Attributes:
        params: (P,) the global model.
        optimizer: of the server optimiser.
        aggregator: of the aggregator.
        mask: (P,) ones and zeros of pruning; None without pruning.
        shared: (P,) the server's vector of the client update (SCAFFOLD's c, FedDyn's h, MimeLite's m); None without.
        kept: (P,) of each client, what it keeps between its rounds (SCAFFOLD's and FedDyn's c_k); None without. The
            clients are simulated, so their vectors are in the checkpoints too.
    """

    params: Params
    optimizer: OptimizerState
    aggregator: AggregatorState
    mask: Params | None = None
    shared: Params | None = None
    kept: Mapping[str, Params] | None = None

    @property
    def server(self) -> OrderedDict[str, Any]:
        """What TFF's computations know of it, in their order; without the aggregator's state."""
        parts = OrderedDict(params=self.params, mask=self.mask, optimizer=self.optimizer, shared=self.shared)
        return OrderedDict((name, part) for name, part in parts.items() if part is not None)

    @property
    def nested(self) -> OrderedDict[str, Any]:
        """The same in mappings, in whose order a checkpoint holds its arrays."""
        nested = OrderedDict(server=self.server, aggregator=self.aggregator)
        if self.kept is not None:
            nested["kept"] = dict(self.kept)
        return nested

    @classmethod
    def of(
        cls, server: Mapping[str, Any], aggregator: AggregatorState, kept: Mapping[str, Params] | None = None
    ) -> "ServerState":
        """Returns the state of these parts; see `server` and `nested`."""
        return cls(server["params"], server["optimizer"], aggregator, server.get("mask"), server.get("shared"), kept)


@dataclass(frozen=True)
class ClientResult:
    """What a client sends after its local training; the losses are in nats per example.

    Attributes:
        update: (P,) local − global; zero where it is not finite.
        weight: in the average; 0 where the update is not finite.
        finite: whether update and losses are.
        loss_before: of the first batch under the global model.
        loss_after: of the batches that hold the last `batch_size` visits, each before its own step.
        loss_mean: of all visits.
        num_steps: local steps.
        normalizer: FedNova's ‖a‖₁; else 1.
        kept: (P,) what the client keeps until its next round; None without.
        influence: share in the combined update, where a rule decided that.
    """

    update: Params
    weight: float
    finite: bool
    loss_before: float
    loss_after: float
    loss_mean: float
    num_steps: int
    normalizer: float
    kept: Params | None = None
    influence: float | None = None

    @classmethod
    def of(cls, sent: Mapping[str, Any]) -> "ClientResult":
        """Returns the result of what `tasks.local.update` gives."""
        return cls(
            sent["update"],
            float(sent["weight"]),
            bool(sent["finite"]),
            float(sent["loss_before"]),
            float(sent["loss_after"]),
            float(sent["loss_mean"]),
            int(sent["num_steps"]),
            float(sent["normalizer"]),
            sent.get("kept"),
        )
