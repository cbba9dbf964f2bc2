"""The vectors that clients keep, on disk."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tasks.federate.kept import Kept
from tests.rounds import kept_of

CLIENTS = [f"{k:03}" for k in range(100)]


def written(kept, clients, number, size=50):
    """The same after a round in which `clients` got vectors of `number` + their place."""
    writer = kept.writer()
    for client in clients:
        writer.write(client, np.full(size, number + CLIENTS.index(client), np.float32))
    return kept.updated(writer)


def test_client_without_a_round_keeps_zeros_and_an_unknown_one_nothing(tmp_path):
    kept = written(Kept(CLIENTS, 50, tmp_path), CLIENTS[:2], 5)
    assert list(kept) == CLIENTS
    assert kept.written == CLIENTS[:2]
    np.testing.assert_array_equal(kept["001"], np.full(50, 6))
    np.testing.assert_array_equal(kept["099"], np.zeros(50))
    with pytest.raises(KeyError):
        kept["x"]


def test_earlier_states_keep_their_vectors(tmp_path):
    states = [Kept(CLIENTS, 50, tmp_path)]
    rng = np.random.default_rng(0)
    expected = [dict.fromkeys(CLIENTS, 0)]
    for number in range(1, 101):
        drawn = sorted(rng.choice(CLIENTS, 7, replace=False).tolist())
        states.append(written(states[-1], drawn, 1000 * number))
        expected.append(expected[-1] | {client: 1000 * number + CLIENTS.index(client) for client in drawn})
    for state, values in zip(states, expected, strict=True):
        assert {client: int(state[client][49]) for client in CLIENTS} == values


def test_files_in_use_are_few_and_have_no_name(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    kept = Kept(CLIENTS, 50, tmp_path)
    for number in range(200):  # one client a round, so that each round's file stays in use
        kept = written(kept, [CLIENTS[number % 100]], 10 * number)
        assert len(os.listdir("/proc/self/fd")) <= before + 35
    assert list(tmp_path.iterdir()) == []
    assert [int(kept[client][0]) for client in CLIENTS] == [10 * (100 + k) + k for k in range(100)]
    del kept
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_read_at_once():
    kept = kept_of({client: np.full(10_000, k, np.float32) for k, client in enumerate(CLIENTS)})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda client: kept[client], CLIENTS * 20))
    for place, vector in enumerate(found):
        np.testing.assert_array_equal(vector, place % 100)


def test_full_disk_is_an_error_that_names_the_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = Kept(CLIENTS, 1_000_000, tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            written(kept, CLIENTS[:4], 1, size=1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path)
    np.testing.assert_array_equal(kept["000"], np.zeros(1_000_000))
