import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from tasks.clients import CLIENTS
from tasks.errors import DataError
from tasks.federate.cohort import cohort_of
from tasks.federate.inputs import Inputs, Plan, order
from tasks.federate.schedule import client_rng
from tasks.settings import FaultSettings, LocalWorkSettings, parse
from tests.shards import write_client

NUM = 21
"""Clients: more than are prepared at a time, and no multiple of it."""


@pytest.fixture
def inputs(make_clients, tmp_path):
    folder = make_clients(sizes=tuple(range(3, 3 + NUM))).write(tmp_path)
    infos = cohort_of(parse({}), folder).clients
    work = LocalWorkSettings(kind="range", low=1, high=3)
    plan = Plan(4, 7, 7, 0.1, 1.0, draws=True, local_work=work, faults=FaultSettings())
    return Inputs(list(infos), infos, {}, None, plan)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_order_is_drawn_from_seed_round_and_client_alone(inputs):
    # Client by client: the number of epochs, then a permutation for each.
    for place, client in enumerate(inputs.clients):
        rng, num = client_rng(7, 4, client), inputs.infos[client].num_examples
        epochs = int(rng.integers(1, 3, endpoint=True))
        expected = np.concatenate([rng.permutation(num) for _ in range(epochs)])
        np.testing.assert_array_equal(inputs[place]["order"], expected)
        np.testing.assert_array_equal(
            order(inputs.infos[client], client, 4, 7, inputs.plan.local_work), inputs[place]["order"]
        )


def test_input_depends_neither_on_the_other_clients_nor_on_when_it_is_asked_for(inputs):
    alone = [replace(inputs, clients=[client])[0] for client in inputs.clients]
    for places in (range(NUM), [0, 0, 5, 5], reversed(range(NUM)), [20, 3, 11, 3]):
        again = replace(inputs)
        for place in places:
            same(again[place], alone[place])


def test_slices_and_copies_for_other_processes_give_the_same_inputs(inputs):
    whole = [inputs[place] for place in range(NUM)]
    part = pickle.loads(pickle.dumps(inputs[5:14]))
    assert len(part) == 9
    for place in range(9):
        same(part[place], whole[5 + place])


def test_threads_get_the_inputs_that_one_thread_gets(inputs):
    whole = [inputs[place] for place in range(NUM)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            for one, other in zip(pool.map(replace(inputs).__getitem__, range(NUM)), whole, strict=True):
                same(one, other)


def test_examples_that_changed_between_two_rounds_are_found_and_break_only_their_client(inputs, tmp_path):
    before = [inputs[place] for place in range(NUM)]
    client = inputs.clients[2]
    write_client(tmp_path / CLIENTS, client, before[2]["x"] + 1, before[2]["y"])
    later = replace(inputs)
    for place in range(NUM):
        if place == 2:
            with pytest.raises(DataError, match="changed since"):
                later[place]
        else:
            same(later[place], before[place])


def test_a_client_whose_order_cannot_be_drawn_breaks_no_other(inputs):
    client = inputs.clients[6]
    infos = {**inputs.infos, client: replace(inputs.infos[client], num_examples=2**60)}
    broken = replace(inputs, infos=infos)
    for place in range(NUM):
        if place == 6:
            with pytest.raises((MemoryError, ValueError)):
                broken[place]
        else:
            same(broken[place], inputs[place])


def test_inputs_are_a_sequence(inputs):
    assert len(list(inputs)) == len(inputs) == NUM
    same(inputs[-1], inputs[NUM - 1])
    with pytest.raises(IndexError):
        inputs[NUM]
