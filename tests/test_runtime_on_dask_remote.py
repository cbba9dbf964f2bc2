"""tasks/runtime/on_dask/remote.py: clients that are computed from what was sent give the bits of one process."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow_federated as tff
from test_runtime_in_process import BLOCK, at_clients, deviations, huge, order_of_addition, roots, sums

from tasks.errors import DataError
from tasks.runtime.failed import Failed
from tasks.runtime.on_dask import machine, task
from tasks.runtime.on_dask.context import DaskContext
from tasks.runtime.on_dask.exchange import Exchange
from tasks.runtime.on_dask.remote import Part, answer

loaded = Exchange(None).loaded


class Here:
    """In place of a cluster: computes each task at once, from what would be sent."""

    threads = 1

    def __init__(self):
        self.parts = []

    def open(self):
        pass

    def close(self):
        pass

    def compute(self, jobs, check):
        for job in jobs._all:
            check()
            part = job.pickled(True, True, "")
            self.parts.append(pickle.loads(part))
            yield loaded(answer(part))


@pytest.fixture
def elsewhere():
    """Runs computations as on a cluster, in this process."""
    here = Here()
    context = DaskContext(here)
    try:
        with tff.framework.get_context_stack().install(context):
            yield here
    finally:
        context.close()


@pytest.fixture
def expected(one_thread):
    def compute(comp, values):
        with one_thread():
            return comp(values)

    return compute


VALUES = [np.random.default_rng(k).normal(size=9 + 7 * k).astype(np.float32) for k in range(29)]


def test_sums_and_means_have_the_bits_of_one_process(elsewhere, expected):
    assert order_of_addition(VALUES) == expected(order_of_addition, VALUES)
    assert [part.num for part in elsewhere.parts] == [BLOCK, BLOCK, BLOCK, 29 - 3 * BLOCK]


@pytest.mark.filterwarnings("error")
def test_overflow_is_infinite_and_no_warning(elsewhere):
    assert huge([2e38] * 30) == ([np.inf] * 30, np.inf, np.inf)


def test_structures_have_the_bits_of_one_process(elsewhere, expected):
    pairs = [OrderedDict(a=0.1 * k, b=k) for k in range(20)]
    assert sums(pairs) == expected(sums, pairs)


def test_clients_can_wait_for_a_sum_over_the_clients(elsewhere):
    assert deviations([1.0, 2.0, 6.0]) == ([-2.0, -1.0, 3.0], 0.0, 3.0)
    first, second = elsewhere.parts  # of the two passes; the second one gets the mean
    assert [second.received[i] for i in second.received.keys() - first.received.keys()] == [3.0]


def test_a_block_whose_clients_all_fail_adds_nothing(elsewhere, expected):
    values = [-1.0] * BLOCK + [4.0, 9.0]
    found, _, total, mean = roots(values)
    assert [isinstance(value, Failed) for value in found] == [True] * BLOCK + [False, False]
    assert (total, mean) == (5, 2.5)
    assert found[0] == expected(roots, values)[0][0]


@tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [None]), tff.SERVER), at_clients(np.float32))
def server_and_clients(vector, values):
    return vector, tff.federated_sum(values), values


def test_the_servers_values_stay_with_the_server(elsewhere):
    kept, total, _ = server_and_clients(np.arange(1000, dtype=np.float32), [1.0, 2.0])
    assert (kept.tolist(), total) == (list(range(1000)), 3)
    (part,) = elsewhere.parts
    assert (part.argument, part.received) == ([None, [1.0, 2.0]], {})


class Unreadable(list):
    """The value of a client whose file is gone."""

    def __getitem__(self, place):
        if isinstance(place, slice):
            return Unreadable(list.__getitem__(self, place))
        if list.__getitem__(self, place) == 3.0:
            raise DataError("its file is gone")
        return list.__getitem__(self, place)


def test_the_answer_names_the_clients_whose_inputs_cannot_be_made(elsewhere):
    found = roots(Unreadable([4.0, 3.0, -1.0, 9.0]))[0]
    assert found[1] == Failed("its file is gone")
    part = pickle.dumps(elsewhere.parts[0])
    assert loaded(answer(part)).unread == {1: "its file is gone"}


def test_a_worker_that_lacks_what_a_task_builds_on_says_so():
    part = Part("no program", "nothing sent", [0], [[1.0]], 1)
    assert answer(pickle.dumps(part)) == task.MISSING


def test_a_worker_with_another_description_computes_nothing():
    part = pickle.dumps(Part("no program", "nothing sent", [0], [[1.0]], 1))
    assert task.compute(machine.digest(), part) == task.MISSING
    assert task.compute("another", part) == task.REFUSED


def test_the_same_machine_does_not_differ_from_itself():
    assert machine.differences(task.describe(), machine.describe()) == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("code", "another", "other code of the project"),
        ("Python", "3.12.0", "Python 3.12.0 instead of "),
        ("TensorFlow", "2.15.0", "TensorFlow 2.15.0 instead of 2.14"),
        ("processor", ["sse", "avx"], "another processor ("),
        ("results", "another", "other bits in a test computation"),
    ],
)
def test_what_differs_is_said(name, value, says):
    (reason,) = machine.differences({**machine.describe(), name: value}, machine.describe())
    assert reason.startswith(says)


def test_the_features_of_another_processor_are_named():
    mine, theirs = {"processor": ["avx", "avx2", "fma"]}, {"processor": ["avx", "avx512f"]}
    assert machine.differences(theirs, mine) == ["another processor (with avx512f; without avx2, fma)"]


def test_other_bits_are_no_reason_beside_the_one_that_explains_them():
    theirs = {**machine.describe(), "TensorFlow": "2.15.0", "results": "another"}
    (reason,) = machine.differences(theirs, machine.describe())
    assert reason.startswith("TensorFlow")
