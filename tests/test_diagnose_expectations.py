"""Expectations of a client's data: its loss, its distance of features, and their correlation, computed by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from tasks.diagnose.evidence import expectations
from tasks.diagnose.evidence.expectations import expected
from tasks.local.features import correlation, label_means

TAKEN = SimpleNamespace(logits=lambda params, x: x)
"""A model that predicts the index of the largest feature."""


def test_fit_and_expectation_by_hand(linear):
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    params = np.array([2.0, 0.0, 0.0, 2.0], np.float32)  # W = 2 I: the class of (1, 0) is 0, the class of (0, 1) is 1
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    fit = linear.fit(params, (x, np.array([0, 1, 1], np.int32)))
    assert fit.loss == pytest.approx((2 * right + wrong) / 3)
    assert fit.accuracy == pytest.approx(2 / 3)
    reference = linear.fit(params, (x[:2], np.array([0, 1], np.int32)))
    assert expected(fit, reference) == (pytest.approx(right), pytest.approx(1.0))


def feature_distance(probe, params, examples, reference):
    """The distance that the server computes from the means that a client sends."""
    hold_out = expectations.hold_out_features(probe, params, reference)
    return expectations.feature_distance(label_means(probe, params, examples), hold_out)


def structure(x, reference):
    return expectations.structure(correlation(x), correlation(reference))


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
    # A shift along (1, 1) does not change the class. 0.6 in units of the sd 0.3 + 0.03 is about 1.8.
    shifted = feature_distance(linear, params, gaussians(rng, 300, 0.6), base)
    assert max(same, flipped, one_label) < 0.2
    assert shifted == pytest.approx(0.6 / 0.33, rel=0.15)


def test_feature_distance_allows_for_the_size_of_both_samples():
    none = np.zeros(0, np.float32)
    few = np.array([[3.0, 0.0], [5.0, 0.0]], np.float32), np.zeros(2, np.int32)
    # The hold-out mean is (4, 0). The sd within the label is (1, 0), plus a tenth of its mean 0.5: (1.05, 0.05).
    near = np.array([[5.0, 0.0], [6.0, 0.0]], np.float32), np.zeros(2, np.int32)
    # Mean (5.5, 0): ((1.5 / 1.05)² + 0) / 2 = 1.0204, less 1/2 for two examples and 1/2 for two hold-out examples.
    assert feature_distance(TAKEN, none, near, few) == pytest.approx(np.sqrt((1.5 / 1.05) ** 2 / 2 - 1))
    one = np.array([[6.0, 0.0]], np.float32), np.zeros(1, np.int32)
    assert feature_distance(TAKEN, none, one, few) == pytest.approx(np.sqrt((2 / 1.05) ** 2 / 2 - 1.5))
    # No farther than a random sample.
    assert feature_distance(TAKEN, none, few, few) == 0.0


PATTERN = np.array([1.0, -1.0] * 8)
CROSSED = np.array([1.0, 1.0, -1.0, -1.0] * 4)
NOISE = np.sqrt(2 / np.pi / 16)
"""Mean |r| of independent features of 16 examples."""


def rows(*features):
    return np.stack(features, axis=1).astype(np.float32)


def test_structure_is_the_mean_correlation_less_noise_over_the_hold_outs():
    whole = rows(PATTERN, 2 * PATTERN)  # |r| = 1
    assert structure(rows(PATTERN, -PATTERN), whole) == pytest.approx(1.0)
    assert structure(rows(PATTERN, CROSSED), whole) == pytest.approx(-NOISE / (1 - NOISE))
    # One of the three pairs of features is correlated. Features that never change are left out.
    third = rows(PATTERN, PATTERN, CROSSED, np.ones(16))
    assert structure(third, whole) == pytest.approx((1 / 3 - NOISE) / (1 - NOISE))


def test_structure_of_too_little_is_none():
    whole = rows(PATTERN, PATTERN)
    assert structure(whole[:7], whole) == 0.0  # fewer than 8 examples
    assert structure(rows(PATTERN), whole) == 0.0  # one feature
    assert np.isnan(structure(whole, rows(PATTERN, CROSSED)))  # hold-out features without correlation
