import numpy as np
import pytest

from tasks.diagnose.evidence.dissimilarity import dissimilarity


def test_dissimilarity_by_hand():
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    shares = np.array([0.5, 0.5])
    assert dissimilarity([one, one], shares) == pytest.approx(1.0)
    # The mean of the squares is 1, the square of the mean is 1/2.
    assert dissimilarity([one, other], shares) == pytest.approx(np.sqrt(2))
    assert dissimilarity([one, -one], shares) == np.inf
