"""Walks a computation in TFF's native form: a lambda over calls to intrinsics and TensorFlow blocks.

The walk itself computes nothing at the clients. For each aggregate and each CLIENTS-placed result, it gives what a
client has to compute for it. For each value that the server sends to the clients, it gives the value. So a process that
has no part of the server's state can walk the same computation, and compute some of the clients from what was sent.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import TffType
from tasks.runtime.arithmetic import arithmetic_call
from tasks.runtime.failed import Failed
from tasks.runtime.sessions import session_call
from tasks.runtime.sums import Sum, plain_sum
from tasks.runtime.values import AtClients, Attempt, Later, Memo, Value, settled, waits_of

BuildingBlock = Any
"""A part of a TFF computation."""

Program = Callable[[Mapping[str, Value]], Value]
"""Values by name -> the value of a part of the computation."""


class Walk:
    """Turns a computation into functions, once. Before each call of them, call `begin`.

    Attributes:
        sums: the sums over the clients of the last call, in the order of the walk.
        sent: what the server sends to the clients, in the order of the walk.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._blocks: dict[int, Callable[[Value], Value]] = {}
        self.begin()

    def begin(self, received: Mapping[int, Value] | None = None) -> None:
        """Forgets the last call.

        Args:
            received: where the server is elsewhere, what it has sent so far: place in `sent` -> value.
        """
        self.sums: list[Sum] = []
        self.sent: list[Value] = []
        self._received = received

    def program(self, block: BuildingBlock) -> Program:
        """Returns the function that computes `block`."""
        framework = tff.framework
        match block:
            case framework.Reference():
                return operator.itemgetter(block.name)
            case framework.Call():
                return self._call(block)
            case framework.Selection():
                source, index = self.program(block.source), block.as_index()
                return lambda names: _selected(source(names), index)
            case framework.Lambda():
                return self._lambda(block)
            case framework.Block():
                return self._with_locals(block)
            case framework.CompiledComputation():
                if id(block) not in self._blocks:
                    tensorflow = block.proto.tensorflow
                    self._blocks[id(block)] = arithmetic_call(tensorflow) or session_call(tensorflow)
                run = self._blocks[id(block)]
                return lambda names: run
            case framework.Intrinsic():
                intrinsic = self._intrinsic(block.uri, block.type_signature)
                return lambda names: intrinsic
            case framework.Literal():
                literal = np.asarray(block.value)
                return lambda names: literal
            case framework.Struct():
                elements = [self.program(element) for element in block]
                return lambda names: tuple(element(names) for element in elements)
        raise NotImplementedError(f"the in_process runtime cannot run {type(block).__name__}")

    def _call(self, block: BuildingBlock) -> Program:
        function = self.program(block.function)
        if block.argument is None:
            return lambda names: function(names)(None)
        argument = self.program(block.argument)
        return lambda names: function(names)(argument(names))

    def _lambda(self, block: BuildingBlock) -> Program:
        index = _selects(block)
        if index is not None:
            selector = Selector(index)
            return lambda names: selector
        body, name, own = self.program(block.result), block.parameter_name, {block.parameter_name}
        if _names_in(block.result) <= own:
            # It needs no other name, which a function that every client calls can save.
            def alone(argument: Value) -> Value:
                return body({name: argument})

            return lambda names: alone
        return lambda names: lambda argument: body({**names, name: argument})

    def _with_locals(self, block: BuildingBlock) -> Program:
        parts, body = [(name, self.program(local)) for name, local in block.locals], self.program(block.result)

        def run(names: Mapping[str, Value]) -> Value:
            inner = dict(names)
            for name, part in parts:
                inner[name] = part(inner)
            return body(inner)

        return run

    def _intrinsic(self, uri: str, signature: TffType) -> Callable[[Value], Value]:
        match uri:
            case "federated_apply" | "federated_map" | "federated_map_all_equal":
                return self._federated_map
            case "federated_broadcast" | "federated_value_at_clients":
                return self._to_clients
            case "federated_eval_at_clients":
                return lambda function: AtClients(lambda place, memo: self._attempt(function, None))
            case "federated_value_at_server" | "federated_zip_at_server":
                return lambda argument: argument
            case "federated_eval_at_server":
                return lambda argument: argument(None)
            case "federated_zip_at_clients":
                return lambda argument: AtClients(lambda place, memo: _zip(argument, place, memo), waits_of(argument))
            case "federated_aggregate":
                return lambda argument: self._summed(Sum(*argument))
            case "federated_sum":
                return lambda argument: self._summed(plain_sum(argument, signature.result.member))
        raise NotImplementedError(f"the in_process runtime does not know the intrinsic {uri}")

    def _to_clients(self, value: Value) -> AtClients:
        number, received = len(self.sent), self._received
        self.sent.append(value)
        if received is None:
            return AtClients(lambda place, memo: settled(value), waits_of(value))
        return AtClients(lambda place, memo: received[number])

    def _federated_map(self, argument: Value) -> Value:
        function, value = argument
        if isinstance(value, AtClients):
            if isinstance(function, Selector):
                return AtClients(lambda place, memo: function(value.of(place, memo)), value.waits)
            return AtClients(lambda place, memo: self._attempt(function, value.of(place, memo)), value.waits)
        # At the server: TFF uses one intrinsic for both.
        waits = waits_of(value)
        return Later(lambda: function(settled(value)), waits) if waits else function(value)

    def _summed(self, over: Sum) -> Later:
        self.sums.append(over)
        return Later(lambda: over.result, over.waits | {over})


class Selector:
    """The function x -> x[index]. It cannot fail: of a client that failed, the part is its `Failed`."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __call__(self, whole: Value) -> Value:
        """Returns the part."""
        return whole if isinstance(whole, Failed) else _selected(whole, self._index)


def _selects(block: BuildingBlock) -> int | None:
    """Returns which part of its argument a lambda returns; None if it does anything else."""
    part, framework = block.result, tff.framework
    if isinstance(part, framework.Selection) and isinstance(part.source, framework.Reference):
        return int(part.as_index()) if part.source.name == block.parameter_name else None
    return None


def _names_in(block: BuildingBlock) -> set[str]:
    """Returns the names that occur in a part of a computation."""
    framework = tff.framework
    match block:
        case framework.Reference():
            return {block.name}
        case framework.Call():
            return _names_in(block.function) | (set() if block.argument is None else _names_in(block.argument))
        case framework.Selection():
            return _names_in(block.source)
        case framework.Lambda():
            return _names_in(block.result)
        case framework.Block():
            return _names_in(block.result).union(*(_names_in(local) for _, local in block.locals))
        case framework.Struct():
            return set().union(*map(_names_in, block))
    return set()


def _selected(source: Value, index: int) -> Value:
    return Later(lambda: source.value[index], source.waits) if isinstance(source, Later) else source[index]


def _zip(value: Value, place: int, memo: Memo) -> Value:
    if isinstance(value, AtClients):
        return value.of(place, memo)
    if not isinstance(value, tuple):
        return settled(value)  # an all-equal value: the same for every client
    elements = tuple(_zip(element, place, memo) for element in value)
    return next((element for element in elements if isinstance(element, Failed)), elements)
