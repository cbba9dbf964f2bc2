"""A client stands apart from the others by one number, beyond their spread and beyond its own noise."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from tasks.diagnose.standing.outlying import FEWEST, heights


def slow_heights(values, variances, significance):
    """The same, one client after the other, with Python's numbers."""
    ordered = sorted(values)
    half = len(ordered) // 2

    def median(some):
        some = sorted(some)
        return some[half] if len(some) % 2 else (some[half - 1] + some[half]) / 2

    middle = median(values)
    s2 = (1.4826 * median([abs(x - middle) for x in values])) ** 2
    found = []
    for x, v in zip(values, variances, strict=True):
        # Welch: (s^2 + v)^2 / (s^4 / (K - 1)), v known exactly.
        freedom = (len(values) - 1) * (s2 + v) ** 2 / s2**2
        found.append((x - middle) / math.sqrt(s2 + v) / t.isf(significance / len(values), freedom))
    return found


@pytest.mark.parametrize("num_clients", [4, 5, 10, 11])
def test_heights_agree_with_a_plain_loop(num_clients):
    rng = np.random.default_rng(num_clients)
    values, variances = rng.normal(size=num_clients), rng.uniform(0.1, 2, size=num_clients)
    found = heights(values.tolist(), variances.tolist(), 0.01)
    assert found == pytest.approx(slow_heights(values.tolist(), variances.tolist(), 0.01))


def test_clients_that_differ_by_their_own_noise_only_are_compared_with_the_normal_distribution():
    # Three of five values are 0, so the spread is 0 and s^2 + v = 4; the limit is the normal quantile of 0.05 / 5.
    found = heights([0.0, 0.0, 0.0, -1.0, 6.0], [4.0] * 5, 0.05)
    assert found[4] == pytest.approx(3 / norm.isf(0.01), rel=1e-3)
    assert found[0] == 0


def test_a_client_with_few_examples_must_be_farther_out():
    values = [0.0, 0.1, -0.1, 0.05, -0.05, 3.0, 3.0]
    found = heights(values, [0.01] * 6 + [4.0], 0.01)
    assert found[5] > 1 > found[6]


def test_a_minority_cannot_hide_itself_by_its_own_spread():
    """Three of ten are far out by very different distances. A standard deviation would grow with them."""
    values = [0.0, 0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 5.0, 50.0, 500.0]
    found = heights(values, [1e-4] * 10, 0.01)
    assert (found[7:] > 1).all()
    assert (found[:7] < 1).all()
    assert np.std(values) > 5 * values[7]


@pytest.mark.parametrize("num_clients", [4, 8, 20])
def test_equal_clients_stand_apart_as_seldom_as_the_significance_says(num_clients):
    """At 0.05, at most 5 % of 2,000 draws, plus four standard errors of sqrt(0.05 * 0.95 / 2000) = 0.005.

    The clients differ by their own noise only, which is known.
    """
    rng = np.random.default_rng(0)
    draws = [heights(rng.normal(size=num_clients), np.ones(num_clients), 0.05).max() > 1 for _ in range(2000)]
    assert np.mean(draws) <= 0.05 + 4 * 0.005


def test_fewer_than_four_known_values_tell_nothing():
    assert FEWEST == 4
    assert np.isnan(heights([0.0, 0.0, 100.0], [1.0] * 3, 0.01)).all()
    assert np.isnan(heights([0.0, 0.0, 100.0, np.nan], [1.0] * 4, 0.01)).all()


def test_a_value_that_is_not_known_is_no_value_of_the_others():
    known = heights([0.0, 1.0, 2.0, 9.0], [1.0] * 4, 0.01)
    found = heights([0.0, np.nan, 1.0, 2.0, 9.0], [1.0, np.nan, 1.0, 1.0, 1.0], 0.01)
    assert np.isnan(found[1])
    assert found[[0, 2, 3, 4]] == pytest.approx(known)


def test_equal_values_without_noise_tell_nothing():
    found = heights([1.0, 1.0, 1.0, 1.0, 2.0], [0.0] * 5, 0.01)
    assert not (found > 1).any()


def test_the_order_of_the_clients_does_not_matter():
    rng = np.random.default_rng(1)
    values, variances, order = rng.normal(size=9), rng.uniform(0.1, 1, 9), rng.permutation(9)
    assert heights(values[order], variances[order], 0.01) == pytest.approx(heights(values, variances, 0.01)[order])
