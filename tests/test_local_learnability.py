import numpy as np

from tasks.local.learnability import learnable


def gaussians(rng, size):
    y = rng.integers(0, 2, size).astype(np.int32)
    return (rng.normal(0, 0.3, (size, 2)) + np.eye(2)[y]).astype(np.float32), y


def test_noise_cannot_be_learnt_and_a_turned_meaning_can(linear):
    rng = np.random.default_rng(1)
    x, y = gaussians(rng, 200)
    params = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    accuracy, most = learnable(linear, params, (x, 1 - y), 0.1, 10)
    assert accuracy > most + 0.3
    noise = rng.normal(size=x.shape).astype(np.float32)
    accuracy, most = learnable(linear, params, (noise, y), 0.1, 10)
    assert accuracy < most + 0.15


def test_of_few_examples_nothing_is_learnt(linear):
    x, y = gaussians(np.random.default_rng(0), 7)
    assert learnable(linear, np.zeros(4, np.float32), (x, y), 0.1, 10) == (0.0, 1.0)
