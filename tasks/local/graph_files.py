"""Reads a client's own files inside the graph, so that no example crosses a process boundary."""

import tensorflow as tf

from tasks.scrub import ours


def read_examples(
    folder: tf.Tensor, num_examples: tf.Tensor, input_shape: tuple[int, ...], num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns x (N, *input_shape) float32 and y (N,) int32 from a client's folder.

    The graph fails if a file (1) is missing, cut short or not a version 1 .npy, (2) does not have `num_examples`
    examples, or (3) has a label outside 0 … num_classes − 1. The error holds no label.
    """
    x = tf.reshape(_npy(folder, "x.npy", tf.float32), [-1, *input_shape])
    y = _npy(folder, "y.npy", tf.int32)
    # tf.equal, because `==` compares identities in the graphs that TFF builds.
    # TensorFlow's own error for a bad label prints the labels of the whole batch, which are private, into a log.
    sizes = tf.debugging.Assert(
        tf.reduce_all(tf.equal([tf.shape(x)[0], tf.size(y)], num_examples)),
        [ours("its files changed since the step began")],
    )
    labels = tf.debugging.Assert(
        tf.reduce_all((y >= 0) & (y < num_classes)), [ours(f"labels must be 0 to {num_classes - 1}")]
    )
    with tf.control_dependencies([sizes, labels]):
        return tf.identity(x), tf.identity(y)


def _npy(folder: tf.Tensor, name: str, dtype: tf.DType) -> tf.Tensor:
    """Returns the entries of a version 1 .npy file. It holds 8 bytes, the header's length, the header, the entries."""
    content = tf.io.read_file(folder + "/" + name)
    head, length = tf.strings.substr(content, 0, 10) + bytes(10), tf.strings.length(content)
    begin = 10 + tf.cast(tf.io.decode_raw(tf.strings.substr(head, 8, 2), tf.uint16)[0], tf.int32)
    # TensorFlow's own error for a file cut short prints its content.
    whole = tf.equal(tf.strings.substr(head, 0, 7), b"\x93NUMPY\x01") & (begin <= length)
    with tf.control_dependencies([tf.debugging.Assert(whole, [ours(f"{name} is not a .npy file of version 1")])]):
        length = tf.identity(length)
    return tf.io.decode_raw(tf.strings.substr(content, begin, length - begin), dtype)
