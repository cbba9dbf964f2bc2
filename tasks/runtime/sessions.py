"""One TensorFlow block of a computation as a function: a session in this process, run on the caller's thread."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from tasks.runtime.blocks import Block, arguments_of, leaves, packer, tensor_names
from tasks.runtime.values import Value


def session_call(block: Block) -> Callable[[Value], Value]:
    """Returns a block as a function from its argument to its result."""
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
    options.feed.extend(arguments_of(block))
    options.fetch.extend(tensor_names(block.result))
    # On the caller's thread, because handing each small operation to a pool costs more than the operation.
    options.run_options.inter_op_thread_pool = -1
    # Session.make_callable is public, but with run options it looks them up again in every call.
    call = _one_call_at_a_time(lambda: session._make_callable_from_options(options))

    pack = packer(block.result)

    def run(argument: Value) -> Value:
        return pack(iter(call(*leaves(argument))))

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
