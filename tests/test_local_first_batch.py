import numpy as np
import pytest

from tasks.local.first_batch import first_batch_loss, loss_by_other_label

PARAMS = np.array([1.0, 0.5, -0.5, 2.0], np.float32)


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 2)).astype(np.float32), rng.integers(0, 2, 9).astype(np.int32)


def test_loss_is_that_of_the_visited_examples(linear, examples):
    visits = np.array([3, 8, 0, 3], np.int32)
    x, y = examples
    expected = linear.fit(PARAMS, (x[visits], y[visits])).loss
    assert first_batch_loss(linear, PARAMS, examples, visits) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("relabelling", [[0, 1], [1, 0], [1, 1]])
def test_table_gives_the_loss_under_any_relabelling(linear, examples, relabelling):
    visits, (x, y) = np.array([3, 8, 0, 3, 5], np.int32), examples
    table = loss_by_other_label(linear, PARAMS, examples, visits)
    changed = x, np.array(relabelling, np.int32)[y]
    found = table[np.arange(2), relabelling].sum()
    assert found == pytest.approx(first_batch_loss(linear, PARAMS, changed, visits), rel=1e-9)
