import threading
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tasks.runtime.failed import Failed

Point = namedtuple("Point", "x y")
PAIR = tff.types.to_type(OrderedDict(a=np.float32, b=np.int32))


@tff.tensorflow.computation(PAIR)
def point(pair):
    return Point(pair["a"], [2 * pair["b"], (pair["a"],)])


@tff.tensorflow.computation
def one():
    return OrderedDict(one=tf.constant(1.0))


@tff.tensorflow.computation(tff.TensorType(np.str_))
def greeting(name):
    return tf.strings.join(["hello ", name])


@tff.tensorflow.computation(np.float32)
def root_of_positive(value):
    with tf.control_dependencies([tf.debugging.Assert(value > 0, ["not positive"])]):
        return tf.sqrt(value)


@tff.tensorflow.computation(np.int32)
def as_float(value):
    return tf.cast(value, tf.float32)


def at_clients(kind, all_equal=False):
    return tff.FederatedType(kind, tff.CLIENTS, all_equal)


@tff.federated_computation(at_clients(PAIR))
def sums(pairs):
    return tff.federated_sum(pairs), tff.federated_mean(pairs.a, weight=tff.federated_map(as_float, pairs.b))


@tff.federated_computation(at_clients(tff.TensorType(np.str_)))
def greetings(names):
    return tff.federated_map(greeting, names)


@tff.federated_computation(tff.FederatedType(np.int32, tff.SERVER), at_clients(np.float32))
def broadcast(number, values):
    return tff.federated_zip((tff.federated_broadcast(number), values)), number


@tff.federated_computation(at_clients(np.float32, all_equal=True), at_clients(np.float32))
def equal_and_not(shared, values):
    return shared, tff.federated_zip((shared, values))


@tff.federated_computation(at_clients(np.float32))
def constants(values):
    del values
    return (
        tff.federated_eval(one, tff.SERVER),
        tff.federated_eval(one, tff.CLIENTS),
        tff.federated_value(3, tff.SERVER),
        tff.federated_value(4, tff.CLIENTS),
    )


@tff.federated_computation(at_clients(np.float32))
def roots(values):
    found = tff.federated_map(root_of_positive, values)
    return found, tff.federated_zip((values, found)), tff.federated_sum(found), tff.federated_mean(found)


@tff.tensorflow.computation(tff.TensorType(np.float32, [None]))
def rounded_sum(values):
    return tf.foldl(lambda total, value: tf.sin(total * 1.7 + value), values)


@tff.federated_computation(at_clients(tff.TensorType(np.float32, [None])))
def order_of_addition(values):
    found = tff.federated_map(rounded_sum, values)
    return tff.federated_mean(found), tff.federated_sum(found)


@pytest.fixture(scope="module", autouse=True)
def in_this_process(one_thread):
    with one_thread():
        yield


def test_structures_go_in_and_come_out_in_their_containers():
    found = point(OrderedDict(a=1.5, b=3))
    assert isinstance(found, Point)
    assert found == Point(1.5, [6, (1.5,)])
    assert isinstance(found.y, list)
    assert isinstance(found.y[1], tuple)
    assert one() == OrderedDict(one=1.0)


def test_strings_go_in_and_come_out_as_bytes():
    assert greeting("you") == b"hello you"
    assert greetings(["a", "ü"]) == [b"hello a", "hello ü".encode()]


def test_sum_and_weighted_mean_of_structures():
    total, mean = sums([OrderedDict(a=1.0, b=2), OrderedDict(a=4.0, b=1), OrderedDict(a=-2.0, b=5)])
    assert total == OrderedDict(a=3.0, b=8)
    assert mean == pytest.approx((1 * 2 + 4 * 1 - 2 * 5) / 8)


def test_sum_over_no_client_is_zero():
    total, _ = sums([])
    assert total == OrderedDict(a=0.0, b=0)


def test_broadcast_reaches_every_client():
    assert broadcast(5, [1.0, 2.0]) == ([(5, 1.0), (5, 2.0)], 5)


def test_all_equal_value_is_given_and_returned_once():
    assert equal_and_not(7.0, [1.0, 2.0]) == (7.0, [(7.0, 1.0), (7.0, 2.0)])


def test_constants_at_server_and_clients():
    assert constants([0.0, 0.0]) == ({"one": 1.0}, [{"one": 1.0}] * 2, 3, [4, 4])


def test_client_that_fails_holds_its_place_and_is_not_aggregated():
    found, zipped, total, mean = roots([4.0, -1.0, 9.0])
    assert (found[0], found[2]) == (2, 3)
    assert isinstance(found[1], Failed)
    assert found[1].reason == "assertion failed: [not positive]"
    assert zipped[0] == (4, 2)
    assert zipped[1] is found[1]
    assert total == 5
    assert mean == pytest.approx(2.5)


def test_computation_works_again_after_a_client_failed():
    roots([-1.0])
    assert roots([1.0, 16.0])[2] == 5


def test_many_threads_give_the_bits_of_one_and_the_order_of_the_arguments(one_thread):
    rng = np.random.default_rng(0)
    # Unequal work, so that clients end in another order than they began in.
    values = [rng.normal(size=rng.integers(1, 3000)).astype(np.float32) for _ in range(24)]
    expected = order_of_addition(values)
    for threads in (2, 5):
        with one_thread(threads):
            assert order_of_addition(values) == expected
            found = roots([float(i * i) for i in range(1, 40)])[0]
            assert found == [float(i) for i in range(1, 40)]
            failed = roots([(-1.0) ** i for i in range(20)])[0]
            assert [isinstance(value, Failed) for value in failed] == [False, True] * 10


def test_no_thread_is_left_after_the_block(one_thread):
    with one_thread(3):
        roots([1.0, 2.0, 3.0])
        assert any(thread.name.startswith("client") for thread in threading.enumerate())
    assert not any(thread.name.startswith("client") for thread in threading.enumerate())


def test_sequences_are_refused_with_a_reason():
    @tff.tensorflow.computation(tff.SequenceType(np.float32))
    def total(values):
        return values.reduce(0.0, lambda a, b: a + b)

    with pytest.raises(NotImplementedError, match="takes tensors and structures of them, not float32"):
        total([1.0, 2.0])
