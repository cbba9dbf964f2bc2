"""What is found of clients from the model before the rise."""

import numpy as np
import pytest
import tensorflow as tf

from tasks.diagnose.replay.examine import (
    Probe,
    curvature,
    dissimilarity,
    expected,
    feature_distance,
    learnable,
    left_out_losses,
    local_path,
)

SCALE = 3.0


@pytest.fixture(scope="module")
def linear():
    """logits = x W, W (2, 2), no bias: a model whose curvature can be computed by hand."""
    layers = [tf.keras.Input((2,)), tf.keras.layers.Dense(2, use_bias=False)]
    model = tf.keras.Sequential(layers)
    return Probe(model)


def test_curvature_of_softmax_regression_by_hand(linear):
    # At W = 0 both classes have 1/2: the Hessian is xx' times [[1, -1], [-1, 1]] / 4, whose largest eigenvalue is
    # |x|^2 · 2/4. With x = (3, 0): 4.5.
    x = np.array([[SCALE, 0.0]] * 4, np.float32)
    y = np.array([0, 1, 0, 1], np.int32)
    assert curvature(linear, np.zeros(4, np.float32), (x, y)) == pytest.approx(SCALE**2 / 2, rel=1e-2)


def test_fit_and_expectation_by_hand(linear):
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    params = np.array([2.0, 0.0, 0.0, 2.0], np.float32)  # W = 2 I: the right class of (1, 0) is 0, of (0, 1) is 1
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    fit = linear.fit(params, (x, np.array([0, 1, 1], np.int32)))
    assert fit.loss == pytest.approx((2 * right + wrong) / 3)
    assert fit.accuracy == pytest.approx(2 / 3)
    reference = linear.fit(params, (x[:2], np.array([0, 1], np.int32)))
    assert expected(fit, reference) == (pytest.approx(right), pytest.approx(1.0))


def test_gradient_and_path_of_one_example_by_hand(linear):
    x, y = np.array([[1.0, 0.0]], np.float32), np.array([0], np.int32)
    loss, gradient = linear.gradient(np.zeros(4, np.float32), (x, y))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(gradient, [-0.5, 0.5, 0, 0], atol=1e-7)  # p - onehot, times x
    path = local_path(linear, np.zeros(4, np.float32), (x, y), 0.1, 1, 2)
    assert path.distance[0] == pytest.approx(0.1 * np.sqrt(0.5), rel=1e-5)
    assert path.first_broken is None
    assert (np.diff(path.loss) < 0).all()


def test_path_says_where_it_breaks(linear):
    x, y = np.array([[1e30, 0.0], [1.0, 0.0]], np.float32), np.array([1, 0], np.int32)
    path = local_path(linear, np.ones(4, np.float32), (x, y), 1e10, 2, 3)
    assert path.first_broken == 1


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


def test_noise_cannot_be_learnt_and_a_turned_meaning_can(linear):
    rng = np.random.default_rng(1)
    x, y = gaussians(rng, 200)
    params = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    accuracy, most = learnable(linear, params, (x, 1 - y), 0.1, 10)
    assert accuracy > most + 0.3
    noise = rng.normal(size=x.shape).astype(np.float32)
    accuracy, most = learnable(linear, params, (noise, y), 0.1, 10)
    assert accuracy < most + 0.15
