import numpy as np
import pytest

from tasks.local.features import correlation, label_means


def test_means_are_by_the_label_that_the_model_gives(linear):
    x = np.array([[2.0, 0.0], [4.0, 1.0], [0.0, 7.0]], np.float32)
    # W = I: the larger feature is the predicted label, whatever the client's label is.
    means = label_means(linear, np.array([1, 0, 0, 1], np.float32), (x, np.zeros(3, np.int32)))
    assert means.counts == {0: 2, 1: 1}
    assert {label: mean.tolist() for label, mean in means.means.items()} == {0: [3.0, 0.5], 1: [0.0, 7.0]}


def test_features_that_are_one_hang_together_and_noise_does_not():
    rng = np.random.default_rng(0)
    one = np.repeat(rng.normal(size=(500, 1)), 4, axis=1).astype(np.float32)
    # |r| = 1, minus √(2 / (500 π)), the mean |r| of independent features.
    assert correlation(one) == pytest.approx(1 - np.sqrt(2 / np.pi / 500), abs=1e-6)
    assert abs(correlation(rng.normal(size=(500, 20)).astype(np.float32))) < 0.01


@pytest.mark.parametrize("x", [np.ones((50, 3)), np.arange(50.0)[:, None], np.eye(7)])
def test_correlation_is_zero_where_it_cannot_be_known(x):
    assert correlation(x.astype(np.float32)) == 0
