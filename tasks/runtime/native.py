"""Walks a computation in TFF's native form: a lambda over calls to intrinsics and TensorFlow blocks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import Computation, TffType
from tasks.runtime.failed import Failed
from tasks.runtime.sessions import session_call
from tasks.runtime.values import AtClients, Value

BuildingBlock = Any
"""A part of a TFF computation."""

ClientMap = Callable[[Callable[[Value], Value], Sequence[Value]], list[Value]]
"""(function, a value for each client) -> the function's result, or `Failed`, for each client."""


class Compiled:
    """A computation in native form, with one session for each of its TensorFlow blocks."""

    def __init__(self, comp: Computation, client_map: ClientMap) -> None:
        native = tff.backends.native.desugar_and_transform_to_native(comp)
        self._root = native.to_building_block()
        self._map = client_map
        self._sessions: dict[int, Callable[[Value], Value]] = {}
        self._num_clients = 0

    def __call__(self, num_clients: int) -> Value:
        """Returns the computation's value: a function, or a constant wrapped in one."""
        self._num_clients = num_clients
        value = self._evaluate(self._root, {})
        return value if callable(value) else lambda _: value

    def _evaluate(self, block: BuildingBlock, names: Mapping[str, Value]) -> Value:
        framework = tff.framework
        match block:
            case framework.Reference():
                return names[block.name]
            case framework.Call():
                argument = None if block.argument is None else self._evaluate(block.argument, names)
                return self._evaluate(block.function, names)(argument)
            case framework.Selection():
                return self._evaluate(block.source, names)[block.as_index()]
            case framework.Lambda():
                return lambda argument: self._evaluate(block.result, {**names, block.parameter_name: argument})
            case framework.Block():
                inner = dict(names)
                for name, local in block.locals:
                    inner[name] = self._evaluate(local, inner)
                return self._evaluate(block.result, inner)
            case framework.CompiledComputation():
                if id(block) not in self._sessions:
                    self._sessions[id(block)] = session_call(block.proto.tensorflow)
                return self._sessions[id(block)]
            case framework.Intrinsic():
                return self._intrinsic(block.uri, block.type_signature)
            case framework.Literal():
                return np.asarray(block.value)
            case framework.Struct():
                return tuple(self._evaluate(element, names) for element in block)
        raise NotImplementedError(f"the in_process runtime cannot run {type(block).__name__}")

    def _intrinsic(self, uri: str, signature: TffType) -> Callable[[Value], Value]:
        match uri:
            case "federated_apply":
                return lambda argument: argument[0](argument[1])
            case "federated_map" | "federated_map_all_equal":
                return self._federated_map
            case "federated_broadcast" | "federated_value_at_clients":
                return lambda argument: AtClients([argument] * self._num_clients)
            case "federated_eval_at_clients":
                return lambda argument: AtClients(self._map(argument, [None] * self._num_clients))
            case "federated_value_at_server":
                return lambda argument: argument
            case "federated_eval_at_server":
                return lambda argument: argument(None)
            case "federated_zip_at_clients":
                return self._federated_zip
            case "federated_zip_at_server":
                return lambda argument: argument
            case "federated_aggregate":
                return _federated_aggregate
            case "federated_sum":
                return lambda argument: _federated_sum(argument, signature.result.member)
        raise NotImplementedError(f"the in_process runtime does not know the intrinsic {uri}")

    def _federated_map(self, argument: Value) -> Value:
        function, value = argument
        # TFF uses the same intrinsic for a map over a SERVER-placed value.
        return AtClients(self._map(function, value.values)) if isinstance(value, AtClients) else function(value)

    def _federated_zip(self, argument: Value) -> AtClients:
        return AtClients([_zip(argument, client) for client in range(self._num_clients)])


def _zip(value: Value, client: int) -> Value:
    if isinstance(value, AtClients):
        return value.values[client]
    if not isinstance(value, tuple):
        return value  # an all-equal value: the same for every client
    elements = tuple(_zip(element, client) for element in value)
    return next((element for element in elements if isinstance(element, Failed)), elements)


def _federated_aggregate(argument: Value) -> Value:
    """Returns one accumulator over the clients in their order, so that threads do not change the bits of the sum."""
    value, zero, accumulate, _merge, report = argument
    for client in value.values:
        if not isinstance(client, Failed):
            zero = accumulate((zero, client))
    return report(zero)


def _federated_sum(argument: AtClients, member: TffType) -> Value:
    total = _zeros(member)
    for client in argument.values:
        if not isinstance(client, Failed):
            total = _add(total, client)
    return total


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, tuple):
        return tuple(_add(a, b) for a, b in zip(left, right, strict=True))
    return left + right


def _zeros(signature: TffType) -> Value:
    if isinstance(signature, tff.StructType):
        return tuple(_zeros(element) for _, element in tff.structure.iter_elements(signature))
    return np.zeros(signature.shape, signature.dtype)
