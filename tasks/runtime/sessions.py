"""One TensorFlow block of a computation as a function: a session in this process, run on the caller's thread."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from tasks.runtime.values import Value

Block = Any
"""The protocol buffer of a TFF computation in TensorFlow."""

Binding = Any
"""The tensors of a block's graph that make up a structure."""


def session_call(block: Block) -> Callable[[Value], Value]:
    """Returns a block as a function from its argument to its result."""
    fetched = _tensor_names(block.result)
    if not fetched:
        # The empty state of an aggregator, as in TFF's DP and encoded sums. A session needs something to fetch.
        return lambda _: _pack(block.result, iter(()))
    graph_def = tf.compat.v1.GraphDef()
    block.graph_def.Unpack(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    config = tf.compat.v1.ConfigProto()
    # TFF's compiler has already optimised the graph.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    session = tf.compat.v1.Session(graph=graph, config=config)
    if block.initialize_op:
        session.run(block.initialize_op)
    options = config_pb2.CallableOptions()
    options.feed.extend(_tensor_names(block.parameter) if block.HasField("parameter") else [])
    options.fetch.extend(fetched)
    # On the caller's thread, because handing each small operation to a pool costs more than the operation.
    options.run_options.inter_op_thread_pool = -1
    # Session.make_callable is public, but with run options it looks them up again in every call.
    call = _one_call_at_a_time(lambda: session._make_callable_from_options(options))

    def run(argument: Value) -> Value:
        results = iter(call(*_leaves(argument)))
        return _pack(block.result, results)

    return run


def _one_call_at_a_time(make: Callable[[], Callable[..., Value]]) -> Callable[..., Value]:
    """Returns a function that calls a callable from `make`; simultaneous calls each get a callable of their own.

    Each callable of a session has its own kernels, and two simultaneous calls must not share a kernel. Keras's
    LayerNormalization calls oneDNN's FusedBatchNormV3. This kernel keeps the number of channels and pointers to its
    tensors (TensorFlow 2.14), so one call would write past the end of the other call's tensors.
    """
    idle: list[Callable[..., Value]] = []

    def call(*arguments: Value) -> Value:
        try:
            own = idle.pop()  # atomic, so no two threads get the same one
        except IndexError:
            own = make()
        try:
            return own(*arguments)
        finally:
            idle.append(own)

    return call


def _tensor_names(binding: Binding) -> list[str]:
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


def _pack(binding: Binding, leaves: Iterator[Any]) -> Value:
    if binding.WhichOneof("binding") == "struct":
        return tuple(_pack(element, leaves) for element in binding.struct.element)
    return next(leaves)
