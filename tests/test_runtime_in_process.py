import gc
import threading
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tasks.errors import DataError
from tasks.runtime.failed import Failed
from tasks.runtime.sums import BLOCK
from tasks.runtime.taking import taking

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


@tff.tensorflow.computation(np.float32)
def half(value):
    return value / 2


@tff.tensorflow.computation(np.float32, np.float32)
def difference(value, other):
    return value - other


@tff.tensorflow.computation(tff.TensorType(np.float32, [None]))
def first(vector):
    return vector[0]


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


@tff.tensorflow.computation(np.float32)
def tenfold(value):
    return 10 * value


@tff.federated_computation(at_clients(np.float32))
def huge(values):
    products = tff.federated_map(tenfold, values)
    return products, tff.federated_sum(values), tff.federated_mean(products)


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


@tff.federated_computation(at_clients(np.float32))
def total_and_halves(values):
    return tff.federated_sum(values), tff.federated_mean(values), tff.federated_map(half, values)


@pytest.mark.parametrize("num", [1, 7, 8, 9, 24, 61])
def test_sum_is_of_blocks_of_eight_that_are_added_in_their_order(num):
    values = (np.random.default_rng(num).standard_normal(num) * 1e6).astype(np.float32)
    expected = np.float32(0)
    for begin in range(0, num, BLOCK):
        block = np.float32(0)
        for value in values[begin : begin + BLOCK]:
            block = np.float32(block + value)
        expected = block if begin == 0 else np.float32(expected + block)
    total, mean, _ = total_and_halves(list(values))
    assert total == expected
    assert mean == np.float32(expected / np.float32(num))


class OneAtATime(Sequence):
    """Values that are made when they are asked for, and counted as long as they live."""

    def __init__(self, num):
        self.num, self.alive, self.most, self.asked = num, 0, 0, []
        self._lock = threading.Lock()

    def __len__(self):
        return self.num

    def __getitem__(self, place):
        value = np.full(100_000, place, np.float32)
        with self._lock:
            self.asked.append(place)
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(value, self._gone)
        return value

    def _gone(self):
        with self._lock:
            self.alive -= 1


VECTORS = at_clients(tff.TensorType(np.float32, [None]))


@tff.federated_computation(VECTORS)
def copies(vectors):
    return tff.federated_map(first, vectors), tff.federated_sum(tff.federated_map(first, vectors))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_clients_values_are_asked_for_when_they_are_needed_and_dropped_then(threads, one_thread):
    values, taken = OneAtATime(200), []

    def take(result):
        taken.append((float(result), len(values.asked)))
        return float(result)

    with one_thread(threads), taking(take):
        found, total = copies(values)
    assert found == [float(place) for place in range(200)]  # in their order, once each
    assert total == sum(range(200))
    assert sorted(values.asked) == list(range(200))
    assert values.most <= 2 * threads + 1
    assert taken[0][1] < 200  # taken while others have not been asked for


def test_client_whose_value_cannot_be_made_has_failed():
    class Broken(OneAtATime):
        def __getitem__(self, place):
            if place == 3:
                raise DataError("its files are gone")
            return super().__getitem__(place)

    found, total = copies(Broken(6))
    assert found[3] == Failed("its files are gone")
    assert total == 0 + 1 + 2 + 4 + 5


@tff.federated_computation(at_clients(np.float32))
def deviations(values):
    mean = tff.federated_broadcast(tff.federated_mean(values))
    apart = tff.federated_map(difference, tff.federated_zip((values, mean)))
    return apart, tff.federated_sum(apart), tff.federated_mean(values)


@pytest.mark.filterwarnings("error")  # TensorFlow does not warn of an overflow, so NumPy must not
@pytest.mark.parametrize("threads", [1, 3])
def test_overflow_is_infinite_and_no_warning(threads, one_thread):
    with one_thread(threads):
        # 2 · 2e38 and 10 · 2e38 are more than 3.4e38, the largest float32.
        assert huge([2e38] * 30) == ([np.inf] * 30, np.inf, np.inf)


def test_clients_can_wait_for_a_sum_over_the_clients():
    assert deviations([1.0, 2.0, 6.0]) == ([-2.0, -1.0, 3.0], 0.0, 3.0)


def test_no_thread_is_left_after_the_block(one_thread):
    with one_thread(3):
        roots([1.0, 2.0, 3.0])
        assert any(thread.name.startswith("client") for thread in threading.enumerate())
    assert not any(thread.name.startswith("client") for thread in threading.enumerate())


def test_argument_and_result_are_dropped_after_the_call():
    given = np.ones(3, np.float32)
    found = copies([given, given])
    assert found == ([1.0, 1.0], 2.0)
    dropped = weakref.ref(given)
    del given
    gc.collect()
    assert dropped() is None


def test_sequences_are_refused_with_a_reason():
    @tff.tensorflow.computation(tff.SequenceType(np.float32))
    def total(values):
        return values.reduce(0.0, lambda a, b: a + b)

    with pytest.raises(NotImplementedError, match="takes tensors and structures of them, not float32"):
        total([1.0, 2.0])
