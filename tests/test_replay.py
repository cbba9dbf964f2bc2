"""What is found of clients from the model before the rise."""

import numpy as np
import pytest

from tasks.diagnose.replay.examine import (
    dissimilarity,
    expected,
    feature_distance,
    left_out_losses,
)

SCALE = 3.0


def test_fit_and_expectation_by_hand(linear):
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    params = np.array([2.0, 0.0, 0.0, 2.0], np.float32)  # W = 2 I: the right class of (1, 0) is 0, of (0, 1) is 1
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    fit = linear.fit(params, (x, np.array([0, 1, 1], np.int32)))
    assert fit.loss == pytest.approx((2 * right + wrong) / 3)
    assert fit.accuracy == pytest.approx(2 / 3)
    reference = linear.fit(params, (x[:2], np.array([0, 1], np.int32)))
    assert expected(fit, reference) == (pytest.approx(right), pytest.approx(1.0))


def test_dissimilarity_by_hand():
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    shares = np.array([0.5, 0.5])
    assert dissimilarity([one, one], shares) == pytest.approx(1.0)
    # Mean square 1, square of the mean 1/2.
    assert dissimilarity([one, other], shares) == pytest.approx(np.sqrt(2))
    assert dissimilarity([one, -one], shares) == np.inf


def test_leaving_out_by_hand():
    updates = {"a": np.array([1.0], np.float32), "b": np.array([4.0], np.float32)}
    together, without = left_out_losses(lambda p: float(p[0]), np.zeros(1, np.float32), updates, {"a": 3.0, "b": 1.0})
    assert together == pytest.approx(7 / 4)
    assert without == {"a": pytest.approx(4.0), "b": pytest.approx(1.0)}


def gaussians(rng, size, shift=0.0):
    y = rng.integers(0, 2, size).astype(np.int32)
    x = rng.normal(0, 0.3, (size, 2)) + np.eye(2)[y] + shift
    return x.astype(np.float32), y


def test_feature_distance_sees_shifts_and_neither_labels_nor_mixes(linear):
    rng = np.random.default_rng(0)
    params, base = np.array([5.0, 0.0, 0.0, 5.0], np.float32), gaussians(rng, 400)
    x, y = gaussians(rng, 300)
    same = feature_distance(linear, params, (x, y), base)
    flipped = feature_distance(linear, params, (x, 1 - y), base)
    one_label = feature_distance(linear, params, (x[y == 0], y[y == 0]), base)
    # The shift along (1, 1) leaves the class alone: 0.6 in units of sd 0.3 + 0.03 is about 1.8.
    shifted = feature_distance(linear, params, gaussians(rng, 300, 0.6), base)
    assert max(same, flipped, one_label) < 0.2
    assert shifted == pytest.approx(0.6 / 0.33, rel=0.15)
