import numpy as np
import pytest

from tasks.local.landscape import curvature, local_path

SCALE = 3.0


def test_curvature_of_softmax_regression_by_hand(linear):
    # At W = 0 both classes have 1/2: the Hessian is xx' times [[1, -1], [-1, 1]] / 4, whose largest eigenvalue is
    # |x|^2 · 2/4. With x = (3, 0): 4.5.
    x = np.array([[SCALE, 0.0]] * 4, np.float32)
    y = np.array([0, 1, 0, 1], np.int32)
    assert curvature(linear, np.zeros(4, np.float32), (x, y)) == pytest.approx(SCALE**2 / 2, rel=1e-2)


def test_path_of_one_example_by_hand(linear):
    x, y = np.array([[1.0, 0.0]], np.float32), np.array([0], np.int32)
    # The gradient is (p − onehot) x = (−½, ½, 0, 0), of length √½.
    path = local_path(linear, np.zeros(4, np.float32), (x, y), 0.1, 1, 2)
    assert path.distance[0] == pytest.approx(0.1 * np.sqrt(0.5), rel=1e-5)
    assert path.first_broken is None
    assert (np.diff(path.loss) < 0).all()


def test_path_says_where_it_breaks(linear):
    x, y = np.array([[1e30, 0.0], [1.0, 0.0]], np.float32), np.array([1, 0], np.int32)
    path = local_path(linear, np.ones(4, np.float32), (x, y), 1e10, 2, 3)
    assert path.first_broken == 1
