"""Surgery on the clients' examples in a replay: each example keeps its label, also at another client."""

import numpy as np
import pytest

from tasks.diagnose.replay.surgery import labels_changed_back, labels_dealt_evenly, sizes_made_equal


@pytest.fixture
def sites():
    """Examples of one pixel, which encodes the client, the example and its label."""
    rng, made = np.random.default_rng(0), {}
    for k, size in enumerate((40, 7, 23)):
        y = rng.integers(0, 3, size).astype(np.int32)
        made[f"{k:02}"] = (1000 * k + 10 * np.arange(size) + y).astype(np.float32).reshape(size, 1, 1, 1), y
    return made


def pairs(sites):
    return [(float(pixel), int(label)) for x, y in sites.values() for pixel, label in zip(x.ravel(), y, strict=True)]


def test_dealt_examples_keep_their_labels(sites):
    dealt = labels_dealt_evenly(5)(sites)
    assert sorted(pairs(dealt)) == sorted(pairs(sites))
    assert pairs(dealt) != pairs(sites)


def test_examples_dealt_among_some_keep_their_labels(sites):
    dealt = labels_dealt_evenly(5, kept=("01",))(sites)
    assert sorted(pairs(dealt)) == sorted(pairs(sites))
    np.testing.assert_array_equal(dealt["01"][1], sites["01"][1])


def test_examples_of_equal_sizes_keep_their_labels_and_their_client(sites):
    before = sites
    for client, examples in sizes_made_equal(5)(before).items():
        assert set(pairs({client: examples})) <= set(pairs({client: before[client]}))


def test_labels_that_are_changed_back_are_of_the_clients_that_are_named(sites):
    changed = labels_changed_back({"01": (2, 0, 1)})(sites)
    np.testing.assert_array_equal(changed["01"][1], np.array([2, 0, 1])[sites["01"][1]])
    np.testing.assert_array_equal(changed["01"][0], sites["01"][0])
    assert pairs({"00": changed["00"]}) == pairs({"00": sites["00"]})
