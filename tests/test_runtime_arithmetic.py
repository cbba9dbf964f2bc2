"""Blocks that NumPy computes give what a TensorFlow session gives; all others are left to the session."""

from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import computation_pb2

from tasks.runtime.arithmetic import arithmetic_call, without_warnings
from tasks.runtime.sessions import session_call

VECTOR = tff.TensorType(np.float32, [5])
RNG = np.random.default_rng(4)
FIRST, SECOND = RNG.normal(size=(2, 5)).astype(np.float32)


def block_of(computation):
    proto = computation_pb2.Computation.FromString(tff.framework.serialize_computation(computation).SerializeToString())
    return proto.tensorflow


@tff.tensorflow.computation(VECTOR, np.float32)
def weighted(update, weight):
    return update * weight


@tff.tensorflow.computation(
    OrderedDict(a=VECTOR, b=(np.int32, np.float64)), OrderedDict(a=VECTOR, b=(np.int32, np.float64))
)
def added(left, right):
    return tf.nest.map_structure(tf.add, left, right)


@tff.tensorflow.computation(VECTOR, VECTOR)
def several(one, other):
    moved = one - 0.3 * other
    return OrderedDict(moved=moved, again=-moved, given=other, constant=tf.constant([1.5, 2.5]), square=moved * moved)


@tff.tensorflow.computation
def nothing_given():
    return tf.constant(7), tf.constant([0.5, 1.5, 0.0])


@tff.tensorflow.computation(np.int32, np.int32)
def product(one, other):
    return one * other


@pytest.mark.parametrize(
    ("computation", "argument"),
    [
        (weighted, (FIRST, np.float32(0.7))),
        (weighted, (FIRST, np.float32(np.inf))),
        (weighted, (np.float32([1e30, -1e30, 0, np.nan, 1e-30]), np.float32(1e30))),
        (added, ((FIRST, (np.int32(3), 0.1)), (SECOND, (np.int32(2**31 - 1), 0.2)))),
        (several, (FIRST, SECOND)),
        (nothing_given, None),
        (product, (np.int32(2**30), np.int32(5))),
    ],
)
@pytest.mark.filterwarnings("error")  # TensorFlow does not warn of an overflow
def test_sums_and_products_have_the_bits_of_a_session(computation, argument):
    block = block_of(computation)
    run = arithmetic_call(block)
    assert run is not None
    expected = tf.nest.flatten(session_call(block)(argument))
    for _ in range(2):
        found = tf.nest.flatten(without_warnings(run)(argument))
        for one, other in zip(found, expected, strict=True):
            assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()


def test_constants_cannot_be_changed():
    # Every call returns the same array.
    _, constant = arithmetic_call(block_of(nothing_given))(None)
    with pytest.raises(ValueError, match="read-only"):
        constant[0] = 1.0


@tff.tensorflow.computation(VECTOR)
def root(vector):
    return vector + tf.sqrt(vector)


@tff.tensorflow.computation(np.str_)
def words(text):
    return tf.identity(text)


@tff.tensorflow.computation(VECTOR)
def checked(vector):
    with tf.control_dependencies([tf.debugging.assert_positive(vector)]):
        return vector + 1.0


@tff.tensorflow.computation(VECTOR)
def drawn(vector):
    return vector + tf.random.stateless_uniform([5], (1, 2))


@tff.tensorflow.computation(VECTOR)
def long(vector):
    for _ in range(1500):
        vector = vector + vector
    return vector


@pytest.mark.parametrize("computation", [root, words, checked, drawn, long])
def test_other_blocks_are_left_to_tensorflow(computation):
    assert arithmetic_call(block_of(computation)) is None
