"""The state that a round begins with, and its clients' input and results: values on the host, outside of TFF."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.parameters import Params

OptimizerState = Any
"""Tensors in the structure of the server's `tff.learning.optimizers.Optimizer`; TFF has no type for it."""

AggregatorState = Any
"""Tensors in the structure of the `tff.aggregators` process, for which TFF has no type; empty for a `Rule`."""

ClientInput = Mapping[str, Any]
"""The input of one client, with the names and types of `tasks.local.update.client_type`."""


@dataclass(frozen=True)
class ServerState:
    """The server's state after a round; the next round begins with it.

    Attributes:
        params: (P,) the global model.
        optimizer: the state of the server optimiser.
        aggregator: the state of the aggregator.
        mask: (P,) ones and zeros of pruning; None without pruning.
        shared: (P,) the server's vector of the client update (SCAFFOLD's c, FedDyn's h, MimeLite's m), or None.
        kept: by client, the vector (P,) that it keeps until its next round (SCAFFOLD's and FedDyn's c_k), or None. The
            clients are simulated, so the checkpoints hold their vectors too.
    """

    params: Params
    optimizer: OptimizerState
    aggregator: AggregatorState
    mask: Params | None = None
    shared: Params | None = None
    kept: Mapping[str, Params] | None = None

    @property
    def server(self) -> OrderedDict[str, Any]:
        """The parts that TFF's computations get, in their order; without the states of aggregator and clients."""
        parts = OrderedDict(params=self.params, mask=self.mask, optimizer=self.optimizer, shared=self.shared)
        return OrderedDict((name, part) for name, part in parts.items() if part is not None)

    @property
    def nested(self) -> OrderedDict[str, Any]:
        """The whole state in mappings. A checkpoint holds the arrays in their order."""
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
    """The result that a client sends after its local training; losses are in nats per example.

    Attributes:
        update: (P,) local − global; all zero if not `finite`.
        weight: its weight in the average; 0 if not `finite`.
        finite: whether the update and the losses are finite, and the full gradient, if the client update needs one.
        loss_before: mean loss of the first batch under the global model.
        loss_after: mean loss of the batches that hold the last `batch_size` visits, each before its own step.
        loss_mean: mean loss of all visits.
        num_steps: number of local steps.
        normalizer: FedNova's ‖a‖₁; else 1.
        kept: (P,) the vector that the client keeps until its next round, or None.
        influence: share in the combined update, if a rule decides it, or None.
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
        """Returns the result in `sent`, the output of `tasks.local.update`."""
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
