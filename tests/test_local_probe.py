import numpy as np
import pytest

TWICE = np.array([2.0, 0.0, 0.0, 2.0], np.float32)
"""W = 2 I: the right class of (1, 0) is 0, of (0, 1) is 1."""


def test_loss_and_recall_by_label_by_hand(linear):
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    fit = linear.fit(TWICE, (x, np.array([0, 1, 1], np.int32)))
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    assert fit.loss == pytest.approx((2 * right + wrong) / 3)
    assert fit.accuracy == pytest.approx(2 / 3)
    assert fit.by_label == {
        0: (1, pytest.approx(right), 1.0),
        1: (2, pytest.approx((right + wrong) / 2), 0.5),
    }


def test_gradient_of_one_example_by_hand(linear):
    x, y = np.array([[1.0, 0.0]], np.float32), np.array([0], np.int32)
    loss, gradient = linear.gradient(np.zeros(4, np.float32), (x, y))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(gradient, [-0.5, 0.5, 0, 0], atol=1e-7)  # (p - onehot) x


def test_many_examples_are_computed_in_parts(linear):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1100, 2)).astype(np.float32), rng.integers(0, 2, 1100).astype(np.int32)
    whole, gradient = linear.gradient(TWICE, (x, y))
    losses, gradients = zip(*(linear.gradient(TWICE, (x[i : i + 1], y[i : i + 1])) for i in range(1100)), strict=True)
    assert whole == pytest.approx(np.mean(losses), rel=1e-5) == linear.fit(TWICE, (x, y)).loss
    np.testing.assert_allclose(gradient, np.mean(gradients, axis=0), atol=1e-6)
