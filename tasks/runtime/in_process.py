"""TFF's computations in this process: no child process, no open port, no copies over gRPC.

TFF's own compiler brings a computation into its native form (a lambda over calls to intrinsics and TensorFlow blocks);
this context walks that form and runs each TensorFlow block in a session of this process, clients on a few threads.
Each block runs on its caller's thread, so what the clients share is only the order in which their results are added
up, which is the order of the arguments: one thread and many give the same bits.

A client whose call raises is one failed call, not a failed computation: it takes no further part, its place in every
CLIENTS-placed result holds a `Failed`, and what is aggregated is aggregated over the others.

All of it runs apart from the thread that calls (see tasks/signals.py): a cancellation is raised beside a computation,
never in it, so that it cannot be taken for a client's failure.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.core.protobuf import config_pb2

from tasks.runtime.failed import Failed
from tasks.scrub import scrubbed, scrubbing
from tasks.signals import Apart, Call

Value = Any
"""A leaf is an array, a structure a tuple, a function a callable, a CLIENTS-placed value a `_AtClients`."""


@dataclass(frozen=True)
class _AtClients:
    values: Sequence[Value]


@contextmanager
def in_process(threads: int) -> Iterator["InProcessContext"]:
    """Yields a context that computes at most `threads` clients at a time."""
    context = InProcessContext(threads)
    try:
        yield context
    finally:
        context.close()


class InProcessContext(tff.framework.SyncContext):
    """Runs TFF computations here; see the module's docstring."""

    def __init__(self, threads: int) -> None:
        """Computes at most `threads` >= 1 clients at a time."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="client") if threads > 1 else None
        self._compiled: weakref.WeakKeyDictionary[Any, Callable[[int], Value]] = weakref.WeakKeyDictionary()
        self._apart = Apart("computations", self._end)

    def close(self) -> None:
        """Waits for the clients under way, and starts no others."""
        self._apart.close()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Returns what `comp` gives for `arg`; a client that failed is a `Failed` in the CLIENTS-placed results.

        Raises:
            RunError: what runs on the server's side failed.
        """

        def run(under_way: Call[Any]) -> Any:
            self._under_way = under_way
            return scrubbing("what the server computes failed", lambda: self._invoke(comp, arg))

        return self._apart.call(run)

    def _invoke(self, comp: Any, arg: Any) -> Any:
        if comp not in self._compiled:
            self._compiled[comp] = _Compiled(comp, self._map)
        signature = comp.type_signature
        if signature.parameter is None:
            return _extract(self._compiled[comp](0)(None), signature.result)
        embedded = _embed(arg, signature.parameter)
        return _extract(self._compiled[comp](_num_clients(embedded))(embedded), signature.result)

    def _map(self, function: Callable[[Value], Value], values: Sequence[Value]) -> list[Value]:
        under_way = self._under_way

        def call(value: Value) -> Value:
            under_way.check()  # after a cancellation, only the clients that have begun go on to their end
            if isinstance(value, Failed):
                return value
            try:
                return function(value)
            except Exception as exc:
                # Whatever a client's data or a user's model does to TensorFlow: no list of it could be whole.
                return Failed(scrubbed(exc))

        if self._pool is None or len(values) < 2:
            return [call(value) for value in values]
        futures = [self._pool.submit(call, value) for value in values]
        return [future.result() for future in futures]


class _Compiled:
    """A computation in native form, with one session for each of its TensorFlow blocks."""

    def __init__(self, comp: Any, client_map: Callable[..., list[Value]]) -> None:
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

    def _evaluate(self, block: Any, names: Mapping[str, Value]) -> Value:
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
                known = dict(names)
                for name, local in block.locals:
                    known[name] = self._evaluate(local, known)
                return self._evaluate(block.result, known)
            case framework.CompiledComputation():
                if id(block) not in self._sessions:
                    self._sessions[id(block)] = _session_call(block.proto.tensorflow)
                return self._sessions[id(block)]
            case framework.Intrinsic():
                return self._intrinsic(block.uri, block.type_signature)
            case framework.Literal():
                return np.asarray(block.value)
            case framework.Struct():
                return tuple(self._evaluate(element, names) for element in block)
        raise NotImplementedError(f"the in_process runtime cannot run {type(block).__name__}")

    def _intrinsic(self, uri: str, signature: Any) -> Callable[[Value], Value]:
        match uri:
            case "federated_apply":
                return lambda argument: argument[0](argument[1])
            case "federated_map" | "federated_map_all_equal":
                return self._federated_map
            case "federated_broadcast" | "federated_value_at_clients":
                return lambda argument: _AtClients([argument] * self._num_clients)
            case "federated_eval_at_clients":
                return lambda argument: _AtClients(self._map(argument, [None] * self._num_clients))
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
        # TFF writes a map over a SERVER-placed value with the same intrinsic.
        return _AtClients(self._map(function, value.values)) if isinstance(value, _AtClients) else function(value)

    def _federated_zip(self, argument: Value) -> _AtClients:
        return _AtClients([_zip(argument, client) for client in range(self._num_clients)])


def _zip(value: Value, client: int) -> Value:
    if isinstance(value, _AtClients):
        return value.values[client]
    if not isinstance(value, tuple):
        return value  # an all-equal value, the same for every client
    elements = tuple(_zip(element, client) for element in value)
    return next((element for element in elements if isinstance(element, Failed)), elements)


def _federated_aggregate(argument: Value) -> Value:
    """One accumulator over the clients in their order, so that the sum has the same bits however they were run."""
    value, zero, accumulate, _merge, report = argument
    for client in value.values:
        if not isinstance(client, Failed):
            zero = accumulate((zero, client))
    return report(zero)


def _federated_sum(argument: _AtClients, member: Any) -> Value:
    total = _embed_zero(member)
    for client in argument.values:
        if not isinstance(client, Failed):
            total = _add(total, client)
    return total


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, tuple):
        return tuple(_add(a, b) for a, b in zip(left, right, strict=True))
    return left + right


def _embed_zero(signature: Any) -> Value:
    if isinstance(signature, tff.StructType):
        return tuple(_embed_zero(element) for _, element in tff.structure.iter_elements(signature))
    return np.zeros(signature.shape, signature.dtype)


def _session_call(block: Any) -> Callable[[Value], Value]:
    fetched = _tensor_names(block.result)
    if not fetched:
        # The state of an aggregator that has none, as TFF's DP and encoded sums make it; a session wants a fetch.
        return lambda _: _pack(block.result, iter(()))
    graph_def = tf.compat.v1.GraphDef()
    block.graph_def.Unpack(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    config = tf.compat.v1.ConfigProto()
    # TFF's compiler has optimised the graph already.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    session = tf.compat.v1.Session(graph=graph, config=config)
    if block.initialize_op:
        session.run(block.initialize_op)
    options = config_pb2.CallableOptions()
    options.feed.extend(_tensor_names(block.parameter) if block.HasField("parameter") else [])
    options.fetch.extend(fetched)
    # On the caller's thread: handing each small operation to a pool costs more than the operation.
    options.run_options.inter_op_thread_pool = -1
    # Session.make_callable is public, but takes no run options without looking them up again in every call.
    call = _one_call_at_a_time(lambda: session._make_callable_from_options(options))

    def run(argument: Value) -> Value:
        results = iter(call(*_leaves(argument)))
        return _pack(block.result, results)

    return run


def _one_call_at_a_time(make: Callable[[], Callable[..., Value]]) -> Callable[..., Value]:
    """Returns a function that calls what `make` returns, of which it makes as many as there are calls at once.

    Each callable of a session has its own kernels. Two calls at once must not share one: oneDNN's FusedBatchNormV3,
    which Keras's LayerNormalization calls, keeps the number of channels and pointers to its tensors in the kernel
    (TensorFlow 2.14), so that one call writes past the end of the other's tensors.
    """
    idle: list[Callable[..., Value]] = []

    def call(*arguments: Value) -> Value:
        try:
            own = idle.pop()  # in one step, whichever thread calls
        except IndexError:
            own = make()
        try:
            return own(*arguments)
        finally:
            idle.append(own)

    return call


def _tensor_names(binding: Any) -> list[str]:
    match binding.WhichOneof("binding"):
        case "tensor":
            return [binding.tensor.tensor_name]
        case "struct":
            return [name for element in binding.struct.element for name in _tensor_names(element)]
    raise NotImplementedError("the in_process runtime runs computations on tensors, not on sequences")


def _leaves(value: Value) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, tuple):
        return [leaf for element in value for leaf in _leaves(element)]
    return [value]


def _pack(binding: Any, leaves: Iterator[Any]) -> Value:
    if binding.WhichOneof("binding") == "struct":
        return tuple(_pack(element, leaves) for element in binding.struct.element)
    return next(leaves)


def _embed(value: Any, signature: Any) -> Value:
    if isinstance(signature, tff.FederatedType):
        if signature.placement is tff.CLIENTS and not signature.all_equal:
            return _AtClients([_embed(client, signature.member) for client in value])
        return _embed(value, signature.member)
    if isinstance(signature, tff.StructType):
        elements = tff.structure.from_container(value) if not isinstance(value, tff.structure.Struct) else value
        return tuple(
            _embed(elements[i], element) for i, (_, element) in enumerate(tff.structure.iter_elements(signature))
        )
    if not isinstance(signature, tff.TensorType):
        raise NotImplementedError(f"the in_process runtime takes tensors and structures of them, not {signature}")
    return np.asarray(value, dtype=object if signature.dtype is np.str_ else signature.dtype)


def _extract(value: Value, signature: Any) -> Any:
    if isinstance(value, Failed):
        return value
    if isinstance(signature, tff.FederatedType):
        if isinstance(value, _AtClients):
            return [_extract(client, signature.member) for client in value.values]
        return _extract(value, signature.member)
    if isinstance(signature, tff.StructType):
        items = [
            (name, _extract(v, t)) for (name, t), v in zip(tff.structure.iter_elements(signature), value, strict=True)
        ]
        container = signature.python_container if isinstance(signature, tff.types.StructWithPythonType) else None
        if all(name is None for name, _ in items):
            return (container or list)(v for _, v in items)
        return container(**dict(items)) if container not in (None, dict) else dict(items)
    return value


def _num_clients(value: Value) -> int:
    if isinstance(value, _AtClients):
        return len(value.values)
    return max((_num_clients(element) for element in value), default=0) if isinstance(value, tuple) else 0
