"""The state that a round begins with, and its clients' input and results: values on the host, outside of TFF."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tasks.federate.kept import Kept
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
            clients are simulated, so the server keeps their vectors, on disk, and the checkpoints hold them too.
    """

    params: Params
    optimizer: OptimizerState
    aggregator: AggregatorState
    mask: Params | None = None
    shared: Params | None = None
    kept: Kept | None = None

    @property
    def server(self) -> OrderedDict[str, Any]:
        """The parts that TFF's computations get, in their order; without the states of aggregator and clients."""
        parts = OrderedDict(params=self.params, mask=self.mask, optimizer=self.optimizer, shared=self.shared)
        return OrderedDict((name, part) for name, part in parts.items() if part is not None)

    @property
    def nested(self) -> OrderedDict[str, Any]:
        """The state in mappings, without `kept`. A checkpoint holds the arrays in their order."""
        return OrderedDict(server=self.server, aggregator=self.aggregator)

    @classmethod
    def of(cls, server: Mapping[str, Any], aggregator: AggregatorState, kept: Kept | None = None) -> "ServerState":
        """Returns the state of these parts; see `server` and `nested`."""
        return cls(server["params"], server["optimizer"], aggregator, server.get("mask"), server.get("shared"), kept)


@dataclass(frozen=True, kw_only=True)
class ClientReport:
    """What the server keeps of a client's result after the round; losses are in nats per example.

    Attributes:
        weight: its weight in the average; 0 if not `finite`.
        finite: whether the update and the losses are finite, and the full gradient, if the client update needs one.
        loss_before: mean loss of the first batch under the global model.
        loss_after: mean loss of the batches that hold the last `batch_size` visits, each before its own step.
        loss_mean: mean loss of all visits.
        num_steps: number of local steps.
        normalizer: FedNova's ‖a‖₁; else 1.
        influence: share in the combined update, if a rule decides it, or None.
    """

    weight: float
    finite: bool
    loss_before: float
    loss_after: float
    loss_mean: float
    num_steps: int
    normalizer: float
    influence: float | None = None


_REPORTED = tuple(each.name for each in fields(ClientReport))


@dataclass(frozen=True, kw_only=True)
class ClientResult(ClientReport):
    """The result that a client sends after its local training.

    Attributes:
        update: (P,) local − global; all zero if not `finite`.
        kept: (P,) the vector that the client keeps until its next round, or None.
    """

    update: Params
    kept: Params | None = None

    @property
    def report(self) -> ClientReport:
        """The result without its vectors."""
        return ClientReport(**{name: getattr(self, name) for name in _REPORTED})

    @classmethod
    def of(cls, sent: Mapping[str, Any]) -> "ClientResult":
        """Returns the result in `sent`, the output of `tasks.local.update`."""
        return cls(
            update=sent["update"],
            weight=float(sent["weight"]),
            finite=bool(sent["finite"]),
            loss_before=float(sent["loss_before"]),
            loss_after=float(sent["loss_after"]),
            loss_mean=float(sent["loss_mean"]),
            num_steps=int(sent["num_steps"]),
            normalizer=float(sent["normalizer"]),
            kept=sent.get("kept"),
        )
