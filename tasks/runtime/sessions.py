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
        return lambda _: _packer(block.result)(iter(()))
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

    pack = _packer(block.result)

    def run(argument: Value) -> Value:
        return pack(iter(call(*_leaves(argument))))

    return run


def only_adds(block: Block) -> bool:
    """Returns whether a block takes two values of one structure and returns their sum, entry by entry.

    TFF's sums over the clients consist of such blocks, and a session takes ten times as long as NumPy for a small one.
    """
    pair = block.parameter.struct.element if block.HasField("parameter") else ()
    if len(pair) != 2:
        return False
    graph_def = tf.compat.v1.GraphDef()
    block.graph_def.Unpack(graph_def)
    nodes = {node.name: node for node in graph_def.node}

    def source(tensor: str) -> Any:
        node = nodes[tensor.partition(":")[0]]
        return source(node.input[0]) if node.op == "Identity" else node

    left, right, results = map(_tensor_names, (*pair, block.result))
    if not len(left) == len(right) == len(results) or block.initialize_op:
        return False
    for one, other, result in zip(left, right, results, strict=True):
        node = source(result)
        if node.op != "AddV2" or [source(name).name for name in node.input] != [source(one).name, source(other).name]:
            return False
    return True


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


def _packer(binding: Binding) -> Callable[[Iterator[Any]], Value]:
    """Returns the function that puts the leaves of a structure, in their order, into their places."""
    if binding.WhichOneof("binding") != "struct":
        return next
    parts = [_packer(element) for element in binding.struct.element]
    return lambda leaves: tuple([part(leaves) for part in parts])
