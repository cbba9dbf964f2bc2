"""Walks a computation in TFF's native form: a lambda over calls to intrinsics and TensorFlow blocks.

The walk itself computes nothing at the clients. For each aggregate and each CLIENTS-placed result, it gives what a
client has to compute for it. One pass over the clients then computes all of them. A client's values are dropped as soon
as they have been added up and taken. If clients need a sum over the clients, such as a mean that is sent back to them,
a second pass computes what still waits.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import Computation, TffType
from tasks.runtime.failed import Failed
from tasks.runtime.sessions import only_adds, session_call
from tasks.runtime.sums import Sum, add_pair, plain_sum
from tasks.runtime.taking import Take
from tasks.runtime.values import (
    Answers,
    AtClients,
    Attempt,
    Later,
    Memo,
    Value,
    embedder,
    extractor,
    num_clients,
    placed_at_clients,
    settled,
    waits_of,
)

BuildingBlock = Any
"""A part of a TFF computation."""

Each = Callable[[int, Callable[[int], list[Value]], Callable[[int, list[Value]], None]], None]
"""(number of clients, compute, take): calls take(place, compute(place)) for each client, in the order of the clients.

`compute` may run on several threads at once.
"""


class Compiled:
    """A computation in native form, with one session for each of its TensorFlow blocks."""

    def __init__(self, comp: Computation, attempt: Attempt) -> None:
        native = tff.backends.native.desugar_and_transform_to_native(comp)
        self._signature = comp.type_signature
        parameter = self._signature.parameter
        self._embed = None if parameter is None else embedder(parameter, attempt)
        self._extract = extractor(self._signature.result)
        self._walk = _Walk(attempt)
        self._evaluate = self._walk.program(native.to_building_block())

    def __call__(self, argument: Any, each: Each, take: Take) -> Any:
        """Returns the result for `argument`, both Python's values; `take` says what is kept of the clients' results."""
        num, embedded = 0, None
        if self._embed is not None:
            num, embedded = num_clients(argument, self._signature.parameter), self._embed(argument)
        self._walk.sums = []
        value = self._evaluate({})
        value = value(embedded) if callable(value) else value
        answers = [_Taken(part, member, take) for part, member in placed_at_clients(value, self._signature.result)]
        _pass_over_clients([*self._walk.sums, *answers], num, each)
        return self._extract(_with_answers(value, {one.of: one.answers for one in answers}))


class _Taken:
    """A CLIENTS-placed result, of which `take` decides what is kept."""

    def __init__(self, of: AtClients, member: TffType, take: Take) -> None:
        self.of, self.waits, self._extract, self._take = of, of.waits, extractor(member), take
        self.answers = Answers([])

    def add(self, place: int, value: Value) -> None:
        del place  # they come in their order
        self.answers.values.append(self._take(value if isinstance(value, Failed) else self._extract(value)))

    def finish(self) -> None:
        pass


def _pass_over_clients(wanted: Sequence[Sum | _Taken], num: int, each: Each) -> None:
    """Computes all of `wanted`, in as few passes over the `num` clients as what they wait for allows."""
    waiting = list(wanted)
    while waiting:
        ready = [want for want in waiting if all(other.known for other in want.waits)]

        def compute(place: int, ready: list[Sum | _Taken] = ready) -> list[Value]:
            memo: Memo = {}
            return [want.of.of(place, memo) for want in ready]

        def take(place: int, values: list[Value], ready: list[Sum | _Taken] = ready) -> None:
            for want, value in zip(ready, values, strict=True):
                want.add(place, value)

        each(num, compute, take)
        for want in ready:
            want.finish()
        waiting = [want for want in waiting if want not in ready]


def _with_answers(value: Value, answers: Mapping[AtClients, Answers]) -> Value:
    if isinstance(value, AtClients):
        return answers[value]
    if isinstance(value, tuple):
        return tuple(_with_answers(part, answers) for part in value)
    return _with_answers(settled(value), answers) if isinstance(value, Later) else value


Program = Callable[[Mapping[str, Value]], Value]
"""Values by name -> the value of a part of the computation."""


class _Walk:
    """Turns a computation into functions, once; each call of them gives the sums over the clients anew in `sums`."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._blocks: dict[int, Callable[[Value], Value]] = {}
        self.sums: list[Sum] = []

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
                    self._blocks[id(block)] = add_pair if only_adds(tensorflow) else session_call(tensorflow)
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
                return lambda argument: AtClients(lambda place, memo: settled(argument), waits_of(argument))
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

    def _federated_map(self, argument: Value) -> Value:
        function, value = argument
        if isinstance(value, AtClients):
            return AtClients(lambda place, memo: self._attempt(function, value.of(place, memo)), value.waits)
        # At the server: TFF uses one intrinsic for both.
        waits = waits_of(value)
        return Later(lambda: function(settled(value)), waits) if waits else function(value)

    def _summed(self, over: Sum) -> Later:
        self.sums.append(over)
        return Later(lambda: over.result, over.waits | {over})


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
