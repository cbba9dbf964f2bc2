"""One federated round in TFF: broadcast, local updates, aggregation, server optimiser.

The whole round, and the file of each step. A step without a file is in this file.

1. tasks/federate/loop.py runs the rounds of a phase, one after the other: `Loop.run` calls `Runner.step`.
2. tasks/federate/runner.py draws the clients (tasks/federate/schedule.py). tasks/federate/inputs.py makes each client's
   input when the client is about to compute: its examples (tasks/local/own_examples.py), their order, its learning
   rate, its weight and share p_k (tasks/federate/cohort.py), and the vector c_k it keeps (tasks/federate/kept.py). With
   `federate.runtime.kind: dask`, this and step 4 are on a worker (tasks/runtime/on_dask).
3. `_Parts.train` broadcasts the parameters x, the pruning mask and the server's vector s.
4. tasks/local/update.py computes a client's round. It makes the steps (tasks/local/descent.py) with the terms of the
   client update (tasks/federate/client_updates), and returns Δ_k, the losses and the next c_k.
5. tasks/federate/aggregators.py combines the Δ_k: by sums (`_build_summing`), or by a rule that needs all of them
   (`_build_gathering`, tasks/federate/robust.py). A sum is in blocks of clients (tasks/runtime/sums.py), and Δ_k is
   dropped when it has been added up and its statistics have been taken (tasks/federate/updates.py).
6. tasks/federate/server.py computes the next s, and applies the client update's `server_update` to the combined Δ. The
   server optimiser (tasks/federate/server_optimizers.py) then moves x.
7. tasks/federate/runner.py prunes, stores each client's c_k, measures the hold-out loss (tasks/federate/validation.py)
   and makes the rows of the logs (tasks/federate/record.py).
8. tasks/federate/loop.py applies the guard, and writes the log line and the checkpoint (tasks/federate/checkpoint.py).
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.federate.robust import Rule
from tasks.federate.server import build_apply, build_initialize, build_select
from tasks.federate.state import ClientInput, ClientReport, ClientResult, ServerState
from tasks.federate.statistics import Vector
from tasks.local.architecture import Architecture
from tasks.local.descent import LocalTraining
from tasks.local.tff_names import Computation, Traced
from tasks.local.update import broadcast_names, build_local_update, build_measure, client_type
from tasks.parameters import Params
from tasks.runtime.failed import Failed
from tasks.runtime.taking import taking

Results = list[ClientResult | Failed]
"""In the order of the clients."""

Reports = list[ClientReport | Failed]
"""In the order of the clients."""

Take = Callable[[int, ClientResult], None]
"""Gets the place among the clients and the result of each client that did not fail, in their order, once."""

Initialize = Callable[[Params], ServerState]
Advance = Callable[[ServerState, Sequence[ClientInput], Take], tuple[ServerState, Reports]]


@dataclass(frozen=True)
class Round:
    """The computations of one run; call them inside a runtime's context."""

    initialize: Initialize
    """params (P,) -> the state before the first round: nothing is pruned, and no client keeps a vector."""
    next: Advance
    """(state, clients, take) -> (next state, the clients' reports).

    `clients[place]` is asked for when the client is about to compute. A client's vectors are dropped after `take`, if
    the aggregator needs only sums.
    """
    train: Callable[[ServerState, Sequence[ClientInput]], Results]
    """(state, clients) -> the clients' results; the state stays."""
    measure: Callable[[ServerState, Sequence[ClientInput]], list[float | Failed]]
    """(state, clients) -> the global model's mean loss on each client's data."""
    draws: bool
    """Whether a model draws random numbers while it trains, so that the clients need a seed."""


def build_round(
    architectures: Sequence[Architecture],
    training: LocalTraining,
    aggregator: Computation | Rule,
    optimizer: Computation,
    masked: bool,
) -> Round:
    """Returns the computations of a run.

    Args:
        architectures: the models that clients train, the global model first.
        training: the local training.
        aggregator: a `tff.aggregators.WeightedAggregationFactory` on flat updates (P,), or a `Rule` that needs all
            updates at once. A rule runs on the host, between two computations. The rejected alternative is to gather
            the updates by TFF's aggregation. It would copy them K times, which takes seconds for 100 clients of 230,000
            parameters.
        optimizer: a `tff.learning.optimizers.Optimizer` of the server.
        masked: whether the state has a pruning mask. Clients and server keep a parameter at zero if its mask is zero.
    """
    parts = _Parts(architectures, training, optimizer, masked)
    build = _build_summing if isinstance(aggregator, tff.aggregators.WeightedAggregationFactory) else _build_gathering
    draws = any(architecture.draws for architecture in architectures)
    return Round(*build(parts, aggregator), parts.train_alone, parts.measure, draws)


class _Parts:
    """The parts that both kinds of round share."""

    def __init__(
        self, architectures: Sequence[Architecture], training: LocalTraining, optimizer: Computation, masked: bool
    ) -> None:
        self.training, self._architectures, self._masked = training, architectures, masked
        self.local_update = build_local_update(architectures, training, masked)
        self.vector = tff.TensorType(np.float32, [training.num_params])
        self.clients = tff.FederatedType(client_type(training), tff.CLIENTS)
        sent = broadcast_names(training, masked)
        initial = tff.types.to_type(OrderedDict((name, self.vector) for name in sent if name != "shared"))
        self.initialize_server = build_initialize(initial, training, optimizer)
        self.server = self.initialize_server.type_signature.result
        self._select = build_select(self.server, sent)
        sums = self.local_update.type_signature.result["summands"]
        self.apply = build_apply(self.server, self.vector, sums, architectures, training, optimizer, masked)
        self.gather = self._build_gather()

    def initial(self, params: Params) -> OrderedDict[str, Params]:
        """Returns the input of `initialize_server`: params (P,) and, if masked, a mask (P,) that prunes nothing."""
        masks = {"mask": np.ones_like(params)} if self._masked else {}
        return OrderedDict(params=params, **masks)

    def train(self, server: Traced, clients: Traced) -> Traced:
        """(server's state, clients) -> results, inside a federated computation."""
        broadcast = tff.federated_broadcast(tff.federated_map(self._select, server))
        return tff.federated_map(self.local_update, (clients, broadcast))

    def returned(self, results: Traced) -> Traced:
        """Returns the results as the host gets them: without the summands, because the server needs only their sums."""
        sent = tff.structure.name_list(self.local_update.type_signature.result)
        names = [name for name in sent if name != "summands"]
        return tff.federated_zip(OrderedDict((name, getattr(results, name)) for name in names))

    def _build_gather(self) -> Callable[[ServerState, Sequence[ClientInput]], tuple[Results, Traced]]:
        @tff.federated_computation(tff.FederatedType(self.server, tff.SERVER), self.clients)
        def gather(server: Traced, clients: Traced) -> Traced:
            results = self.train(server, clients)
            return self.returned(results), tff.federated_sum(results.summands)

        def gathered(state: ServerState, clients: Sequence[ClientInput]) -> tuple[Results, Traced]:
            with taking(self.result):
                results, sums = gather(state.server, clients)
            return results, sums

        return gathered

    def train_alone(self, state: ServerState, clients: Sequence[ClientInput]) -> Results:
        """(state, clients) -> the clients' results."""
        return [self.scaled(result) for result in self.gather(state, clients)[0]]

    @cached_property
    def _losses(self) -> Computation:
        # Traced at the first call, because only one kind of sampling needs it.
        measure = build_measure(self._architectures[0], self.training)

        @tff.federated_computation(tff.FederatedType(self.vector, tff.SERVER), self.clients)
        def losses(params: Traced, clients: Traced) -> Traced:
            return tff.federated_map(measure, (clients, tff.federated_broadcast(params)))

        return losses

    def measure(self, state: ServerState, clients: Sequence[ClientInput]) -> list[float | Failed]:
        """(state, clients) -> the global model's mean loss on each client's data."""
        losses = self._losses(state.params, clients)
        return [loss if isinstance(loss, Failed) else float(loss) for loss in losses]

    def result(self, sent: Any) -> ClientResult | Failed:
        """Returns a client's answer as a result."""
        return sent if isinstance(sent, Failed) else ClientResult.of(sent)

    def scaled(self, result: ClientResult | Failed) -> ClientResult | Failed:
        """Returns the result with update = local − global: FedNova's clients send it divided by ‖a‖₁."""
        if isinstance(result, Failed) or not self.training.algorithm.normalized:
            return result
        return replace(result, update=result.update * np.float32(result.normalizer))


def _reporting(take: Take) -> Callable[[ClientResult | Failed], ClientReport | Failed]:
    """Returns a function that gives each result to `take`, and returns its report. Call it in the clients' order."""
    places = itertools.count()

    def report(result: ClientResult | Failed) -> ClientReport | Failed:
        place = next(places)
        if isinstance(result, Failed):
            return result
        take(place, result)
        return result.report

    return report


def _build_summing(parts: _Parts, factory: Computation) -> tuple[Initialize, Advance]:
    """Returns the round as one computation, with an aggregation that needs only sums over the clients."""
    aggregation = factory.create(parts.vector, tff.TensorType(np.float32))

    @tff.federated_computation(tff.FederatedType(parts.initialize_server.type_signature.parameter, tff.SERVER))
    def begin(broadcast: Traced) -> Traced:
        server = tff.federated_map(parts.initialize_server, broadcast)
        return tff.federated_zip(OrderedDict(server=server, aggregator=aggregation.initialize()))

    @tff.federated_computation(begin.type_signature.result, parts.clients)
    def next_round(state: Traced, clients: Traced) -> Traced:
        results = parts.train(state.server, clients)
        aggregated = aggregation.next(state.aggregator, results.update, results.weight)
        sums = tff.federated_sum(results.summands)
        server = tff.federated_map(parts.apply, (state.server, aggregated.result, sums))
        return tff.federated_zip(OrderedDict(server=server, aggregator=aggregated.state)), parts.returned(results)

    def initialize(params: Params) -> ServerState:
        return ServerState.of(**begin(parts.initial(params)))

    def advance(state: ServerState, clients: Sequence[ClientInput], take: Take) -> tuple[ServerState, Reports]:
        before = OrderedDict(server=state.server, aggregator=state.aggregator)
        report = _reporting(take)
        with taking(lambda sent: report(parts.scaled(parts.result(sent)))):
            after, reports = next_round(before, clients)
        return ServerState.of(**after, kept=state.kept), reports

    return initialize, advance


def _build_gathering(parts: _Parts, rule: Rule) -> tuple[Initialize, Advance]:
    """Returns the round as two computations, with the rule between them."""

    @tff.federated_computation(tff.FederatedType(parts.initialize_server.type_signature.parameter, tff.SERVER))
    def begin(broadcast: Traced) -> Traced:
        return tff.federated_map(parts.initialize_server, broadcast)

    sums_type = parts.local_update.type_signature.result["summands"]

    @tff.federated_computation(tff.FederatedType((parts.server, parts.vector, sums_type), tff.SERVER))
    def apply(arguments: Traced) -> Traced:
        return tff.federated_map(parts.apply, arguments)

    def initialize(params: Params) -> ServerState:
        return ServerState.of(begin(parts.initial(params)), OrderedDict())

    def advance(state: ServerState, clients: Sequence[ClientInput], take: Take) -> tuple[ServerState, Reports]:
        results, sums = parts.gather(state, clients)
        used = [r for r in results if not isinstance(r, Failed) and r.finite]
        if used:
            combined = rule([r.update for r in used], np.array([r.weight for r in used], np.float64))
            state = ServerState.of(apply((state.server, combined.update, sums)), state.aggregator, state.kept)
            results = _with_influence(results, combined.influence)
        return state, [*map(_reporting(take), map(parts.scaled, results))]

    return initialize, advance


def _with_influence(results: Results, influence: Vector | None) -> Results:
    """Returns the results; the K results that were combined get their `influence` (K,), in their order."""
    if influence is None:
        return results
    shares = iter(influence)
    return [
        replace(r, influence=float(next(shares))) if isinstance(r, ClientResult) and r.finite else r for r in results
    ]
