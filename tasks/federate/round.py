"""One federated round in TFF: broadcast, local updates, aggregation, server optimiser.

The whole round, and the file of each step. A step without a file is in this file.

1. tasks/federate/loop.py runs the rounds of a phase, one after the other: `Loop.run` calls `Runner.step`.
2. tasks/federate/runner.py draws the clients (tasks/federate/schedule.py). It makes each client's input: the order of
   its examples, its learning rate, its weight and share p_k (tasks/federate/cohort.py), and the vector c_k it keeps.
3. `_Parts.train` broadcasts the parameters x, the pruning mask and the server's vector s.
4. tasks/local/update.py computes a client's round. It reads the examples, makes the steps (tasks/local/descent.py) with
   the terms of the client update (tasks/federate/client_updates), and returns Δ_k, the losses and the next c_k.
5. tasks/federate/aggregators.py combines the Δ_k: by sums (`_build_summing`), or by a rule that needs all of them
   (`_build_gathering`, tasks/federate/robust.py).
6. `_build_apply` computes the next s, and applies the client update's `server_update` to the combined Δ. The server
   optimiser (tasks/federate/server_optimizers.py) then moves x.
7. tasks/federate/runner.py prunes, stores each client's c_k, measures the hold-out loss (tasks/federate/validation.py)
   and makes the rows of the logs (tasks/federate/record.py).
8. tasks/federate/loop.py applies the guard, and writes the log line and the checkpoint (tasks/federate/checkpoint.py).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.federate.robust import Rule
from tasks.federate.state import ClientInput, ClientResult, ServerState
from tasks.federate.statistics import Vector
from tasks.local.architecture import Architecture
from tasks.local.descent import LocalTraining
from tasks.local.tff_names import Computation, TffType, Traced
from tasks.local.update import broadcast_names, build_local_update, build_measure, client_type
from tasks.parameters import Params
from tasks.runtime.failed import Failed

Results = list[ClientResult | Failed]
"""In the order of the clients."""

Gather = Callable[[ServerState, Sequence[ClientInput]], tuple[Results, Traced]]
"""(state, clients) -> (the clients' results as they sent them, the sums over the clients); the state stays."""

Initialize = Callable[[Params], ServerState]
Advance = Callable[[ServerState, Sequence[ClientInput]], tuple[ServerState, Results]]


@dataclass(frozen=True)
class Round:
    """The computations of one run; call them inside a runtime's context."""

    initialize: Initialize
    """params (P,) -> the state before the first round: nothing is pruned, and no client keeps a vector."""
    next: Advance
    """(state, clients) -> (next state, the clients' results)."""
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
            updates at once. A rule runs on the host, between two computations; the updates reach the host in any case.
            The rejected alternative is to gather them by TFF's aggregation. It would copy them K times, which takes
            seconds for 100 clients of 230,000 parameters.
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
        self.initialize_server = _build_initialize(initial, training, optimizer)
        self.server = self.initialize_server.type_signature.result
        self._select = _build_select(self.server, sent)
        sums = self.local_update.type_signature.result["summands"]
        self.apply = _build_apply(self.server, self.vector, sums, architectures, training, optimizer, masked)
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

    def _build_gather(self) -> Gather:
        @tff.federated_computation(tff.FederatedType(self.server, tff.SERVER), self.clients)
        def gather(server: Traced, clients: Traced) -> Traced:
            results = self.train(server, clients)
            return self.returned(results), tff.federated_sum(results.summands)

        def gathered(state: ServerState, clients: Sequence[ClientInput]) -> tuple[Results, Traced]:
            sent, sums = gather(state.server, list(clients))
            return as_results(sent), sums

        return gathered

    def train_alone(self, state: ServerState, clients: Sequence[ClientInput]) -> Results:
        """(state, clients) -> the clients' results."""
        return self.results(self.gather(state, clients)[0])

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
        losses = self._losses(state.params, list(clients))
        return [loss if isinstance(loss, Failed) else float(loss) for loss in losses]

    def results(self, results: Results) -> Results:
        """Returns the results with update = local − global: FedNova's clients send it divided by ‖a‖₁."""
        if not self.training.algorithm.normalized:
            return results
        return [r if isinstance(r, Failed) else replace(r, update=r.update * np.float32(r.normalizer)) for r in results]


def as_results(sent: Sequence[Any]) -> Results:
    """Returns the clients' answers as results."""
    return [r if isinstance(r, Failed) else ClientResult.of(r) for r in sent]


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

    def advance(state: ServerState, clients: Sequence[ClientInput]) -> tuple[ServerState, Results]:
        before = OrderedDict(server=state.server, aggregator=state.aggregator)
        after, sent = next_round(before, list(clients))
        return ServerState.of(**after, kept=state.kept), parts.results(as_results(sent))

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

    def advance(state: ServerState, clients: Sequence[ClientInput]) -> tuple[ServerState, Results]:
        results, sums = parts.gather(state, clients)
        used = [r for r in results if not isinstance(r, Failed) and r.finite]
        if not used:
            return state, parts.results(results)
        combined = rule([r.update for r in used], np.array([r.weight for r in used], np.float64))
        after = ServerState.of(apply((state.server, combined.update, sums)), state.aggregator, state.kept)
        return after, parts.results(_with_influence(results, combined.influence))

    return initialize, advance


def _with_influence(results: Results, influence: Vector | None) -> Results:
    """Returns the results; the K results that were combined get their `influence` (K,), in their order."""
    if influence is None:
        return results
    shares = iter(influence)
    return [
        replace(r, influence=float(next(shares))) if isinstance(r, ClientResult) and r.finite else r for r in results
    ]


def _build_initialize(broadcast_type: TffType, training: LocalTraining, optimizer: Computation) -> Computation:
    @tff.tensorflow.computation(broadcast_type)
    def initialize(broadcast: Traced) -> Traced:
        specs = tf.TensorSpec(broadcast["params"].shape, tf.float32)
        state = OrderedDict(broadcast, optimizer=optimizer.initialize(specs))
        if training.algorithm.shared:
            state["shared"] = tf.zeros_like(broadcast["params"])
        return state

    return initialize


def _build_select(server_type: TffType, names: Sequence[str]) -> Computation:
    @tff.tensorflow.computation(server_type)
    def select(server: Traced) -> Traced:
        return OrderedDict((name, server[name]) for name in names)

    return select


def _build_apply(
    server_type: TffType,
    vector: TffType,
    sums_type: TffType,
    architectures: Sequence[Architecture],
    training: LocalTraining,
    optimizer: Computation,
    masked: bool,
) -> Computation:
    algorithm = training.algorithm
    held = [np.zeros(training.num_params, np.float32) for _ in architectures]
    for architecture, holds in zip(architectures, held, strict=True):
        holds[slice(None) if architecture.held is None else architecture.held] = 1

    @tff.tensorflow.computation(server_type, vector, sums_type)
    def apply_update(server: Traced, update: Traced, sums: Traced) -> Traced:
        changed = {}
        if algorithm.normalized:
            update *= tf.math.divide_no_nan(sums["normalizer"], sums["weight"])
        if len(architectures) > 1:
            # HeteroFL (Diao 2021, arXiv 2010.01264, Algorithm 1) averages a parameter over the clients that hold it.
            weight = tf.linalg.matvec(np.stack(held), sums["held"], transpose_a=True)
            update = tf.math.divide_no_nan(update * sums["weight"], weight)
        if algorithm.shared:
            message = sums["message"] if algorithm.kept else tf.math.divide_no_nan(sums["message"], sums["weight"])
            shared = algorithm.next_shared(server["shared"], message)
            # A round without a usable client changes nothing.
            changed["shared"] = tf.where(sums["weight"] > 0, shared, server["shared"])
            update = tf.where(sums["weight"] > 0, algorithm.server_update(update, changed["shared"]), update)
        # TFF's optimisers step against a gradient, so they get the negative update.
        optimizer_state, params = optimizer.next(server["optimizer"], server["params"], -update)
        if masked:
            params *= server["mask"]
        return OrderedDict(server, params=params, optimizer=optimizer_state, **changed)

    return apply_update
