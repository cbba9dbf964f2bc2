import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tasks.runtime.in_turn import InTurn
from tasks.signals import Abandoned


def by_threads(work, number):
    """Calls `work` on so many threads; returns the exception of each that raised."""
    with ThreadPoolExecutor(number) as pool:
        calls = [pool.submit(work) for _ in range(number)]
    return [call.exception() for call in calls if call.exception() is not None]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("num", [0, 1, 2, 40])
def test_each_is_computed_once_and_added_in_order_however_long_it_takes(num, threads):
    ahead = 2 * threads
    seconds = np.random.default_rng(num + threads).uniform(0, 0.002, num)
    computed, added, most, under_way = [], [], 0, set()
    counting = threading.Lock()

    def compute(place):
        nonlocal most
        with counting:
            under_way.add(place)
            most = max(most, len(under_way))
        time.sleep(seconds[place])
        computed.append(place)
        return place**2

    def add(place, value):
        assert value == place**2
        under_way.discard(place)
        added.append(place)

    assert by_threads(InTurn(num, compute, add, ahead).work, threads) == []
    assert sorted(computed) == added == list(range(num))
    assert most <= ahead


def test_adding_is_never_done_by_two_threads_at_once():
    adding, together = threading.Lock(), []

    def add(place, value):
        together.append(not adding.acquire(blocking=False))
        time.sleep(0.0005)
        if not together[-1]:
            adding.release()

    assert by_threads(InTurn(60, lambda place: place, add, 8).work, 4) == []
    assert together == [False] * 60


def test_while_one_thread_adds_the_others_go_on():
    begun = threading.Event()

    def compute(place):
        if place == 1:
            begun.set()
        return place

    def add(place, value):
        if place == 0:
            assert begun.wait(10)  # until another thread has begun the next

    assert by_threads(InTurn(2, compute, add, 2).work, 2) == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("part", ["compute", "add"])
@pytest.mark.parametrize("wrong", [0, 7, 19])
def test_an_error_ends_all_threads_and_nothing_after_it_is_added(part, wrong, threads):
    added = []

    def compute(place):
        time.sleep(0.0005)
        if part == "compute" and place == wrong:
            raise KeyError(place)
        return place

    def add(place, value):
        if part == "add" and place == wrong:
            raise KeyError(place)
        added.append(place)

    (raised,) = by_threads(InTurn(20, compute, add, 2).work, threads)
    assert raised.args == (wrong,)
    assert added == list(range(len(added)))
    assert len(added) <= wrong


def test_threads_that_are_all_abandoned_all_end():
    added = []

    def compute(place):
        time.sleep(0.0005)
        if place >= 5:
            raise Abandoned
        return place

    raised = by_threads(InTurn(50, compute, lambda place, _: added.append(place), 6).work, 3)
    assert 1 <= len(raised) <= 3
    assert all(isinstance(each, Abandoned) for each in raised)
    assert added == list(range(len(added)))
    assert len(added) <= 5


def test_stopped_threads_end_after_what_they_compute():
    begun, stopped, computed = threading.Barrier(3), threading.Event(), []

    def compute(place):
        begun.wait(10)
        assert stopped.wait(10)
        computed.append(place)
        return place

    in_turn = InTurn(50, compute, lambda place, value: None, 4)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(in_turn.work)
        begun.wait(10)  # both threads compute
        in_turn.stop()
        stopped.set()
    assert sorted(computed) == [0, 1]
