from typing import get_args

import numpy as np
import pytest
import tensorflow_federated as tff

from tasks.errors import DataError
from tasks.federate.aggregators import FACTORIES, RULES, client_weights
from tasks.settings import AggregatorSettings


def kinds(field):
    return set(get_args(AggregatorSettings.model_fields[field].annotation))


@pytest.fixture(scope="module")
def combine(one_thread):
    """(kind, updates (K, P), weights (K,)) -> the aggregate (P,)."""

    def run(kind, updates, weights):
        vector = tff.TensorType(np.float32, [len(updates[0])])
        process = FACTORIES[kind](AggregatorSettings(kind=kind)).create(vector, tff.TensorType(np.float32))
        with one_thread():
            state = process.initialize()
            return process.next(state, list(updates), [np.float32(w) for w in weights]).result

    return run


def test_registry_has_the_kinds_of_the_settings():
    assert set(FACTORIES) | set(RULES) == kinds("kind")


def test_mean_is_the_weighted_mean(combine):
    updates = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    weights = np.array([1.0, 20.0, 0.0, 3.5, 1e-3])
    expected = weights @ updates.astype(np.float64) / weights.sum()
    np.testing.assert_allclose(combine("mean", updates, weights), expected, atol=1e-6)


def test_mean_with_equal_weights_is_the_plain_mean(combine):
    updates = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(combine("mean", updates, [2.5] * 4), updates.mean(axis=0), atol=1e-6)


def test_mean_does_not_depend_on_the_order_of_clients(combine):
    rng = np.random.default_rng(2)
    updates, weights = rng.normal(size=(9, 11)).astype(np.float32), rng.integers(1, 90, 9)
    shuffled = rng.permutation(9)
    np.testing.assert_allclose(
        combine("mean", updates, weights), combine("mean", updates[shuffled], weights[shuffled]), atol=1e-6
    )


def test_mean_of_one_client_is_its_update(combine):
    update = np.array([[1.5, -2.0]], np.float32)
    np.testing.assert_allclose(combine("mean", update, [40]), update[0], rtol=1e-6)


def test_mean_of_no_weight_at_all_is_zero_not_nan(combine):
    np.testing.assert_array_equal(combine("mean", np.ones((3, 2), np.float32), [0, 0, 0]), [0, 0])


DATA = {
    "a": np.array([[0.0, 2.0]], np.float32),  # variance 1
    "b": np.array([[0.0, 0.0], [4.0, 4.0], [0.0, 4.0]], np.float32),  # variance 4
    "c": np.array([[1.0, 1.0], [1.0, 2.0]], np.float32),  # variance 3/16
}


def test_weights_by_examples_uniform_and_inverse_variance():
    assert client_weights("examples", DATA) == {"a": 1, "b": 3, "c": 2}
    assert client_weights("uniform", DATA) == {"a": 1, "b": 1, "c": 1}
    assert client_weights("inverse_variance", DATA) == pytest.approx({"a": 1, "b": 1 / 4, "c": 16 / 3})
    assert kinds("weighting") == {"examples", "uniform", "inverse_variance"}


def test_inverse_variance_of_many_large_values_does_not_overflow_float32():
    # 10^6 entries of ±1e19, the size of whose squares is float32's limit: variance 1e38.
    x = np.tile(np.array([1e19, -1e19], np.float32), 500_000).reshape(-1, 10)
    assert client_weights("inverse_variance", {"a": x})["a"] == pytest.approx(1e-38, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_inverse_variance_of_equal_features_is_an_error_that_names_the_client(value):
    data = {**DATA, "dark": np.full((7, 3), value, np.float32)}
    with pytest.raises(DataError, match=r"inverse_variance: .*client dark have zero variance.*use examples or uniform"):
        client_weights("inverse_variance", data)


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting 'size'"):
        client_weights("size", DATA)
