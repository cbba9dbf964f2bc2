"""Judges that were trained on hold-out data, on blobs that a straight line separates, and on blobs that overlap."""

import numpy as np
import pytest
from scipy.stats import norm

from tasks.diagnose.standing.judges import features, judge_of
from tasks.diagnose.standing.labels import mistake
from tasks.diagnose.standing.learnable import learnable_by_itself

CENTRES = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])


def blobs(seed, counts, centres=CENTRES, sd=1.0):
    """Gaussian blobs: `counts` examples of each label, 20 standard deviations apart."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return (centres[y] + sd * rng.standard_normal((len(y), 2))).astype(np.float32), y.astype(np.int32)


@pytest.fixture(scope="module")
def judge():
    return judge_of("features", features, blobs(0, [50, 50, 50, 50]))


def test_a_judge_of_separable_classes_gets_all_right_and_is_sure(judge):
    assert judge.accuracy == 1.0
    # Half a hit and half a miss on top of 50 hits: 50.5 / 51.
    assert judge.recalls == pytest.approx(50.5 / 51)
    assert judge.counts.tolist() == [50] * 4
    assert judge.labels.tolist() == [0, 1, 2, 3]
    assert (judge.sure > 0.9).all()
    x, y = blobs(1, [5, 6, 7, 8])
    assert (judge.predicted(x) == y).all()


def test_thresholds_are_the_mean_probability_of_the_given_label_out_of_sample():
    """t_j of equation 2 of Northcutt 2021, from five folds of scikit-learn's own cross-validation."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = blobs(2, [40, 60], np.array([[0.0, 0.0], [2.0, 0.0]]))
    found = judge_of("features", features, (x, y))
    order = np.random.default_rng(0).permutation(len(y))
    model = make_pipeline(StandardScaler(), PCA(2, random_state=0), LogisticRegression(max_iter=300))
    p = cross_val_predict(model, x[order].astype(np.float64), y[order], cv=KFold(5), method="predict_proba")
    for label in (0, 1):
        mine = y[order] == label
        assert found.sure[label] == pytest.approx(p[mine, label].mean(), abs=1e-3)  # it need not converge
        hits = (p[mine].argmax(axis=1) == label).sum()
        assert found.recalls[label] == pytest.approx((hits + 0.5) / (mine.sum() + 1))
    # Two normal classes 2 sd apart: the best rule gets Phi(1) = 84 % right. 4 standard errors of 100 examples are 15 %.
    assert found.accuracy == pytest.approx(norm.cdf(1), abs=0.15)


def test_what_is_expected_follows_the_clients_own_label_mix(judge):
    found = judge.judgement(blobs(3, [30, 10, 0, 0]), 4)
    assert found.num_examples == 40
    assert found.accuracy == 1.0
    r = 50.5 / 51
    assert found.expected == pytest.approx(r)
    # Shares 3/4 and 1/4: sum p r(1-r)/N + sum p^2 r(1-r)/N_c = r(1-r) (1/40 + (9 + 1)/16/50).
    assert found.variance == pytest.approx(r * (1 - r) * (1 / 40 + 10 / 16 / 50))
    assert found.given.tolist() == [30, 10, 0, 0]
    assert np.diag(found.joint).sum() == found.joint.sum() > 20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y, _: 3 - y, "its labels are reversed: 3 - y in place of y"),
        (lambda y, _: (y + 1) % 4, "its labels are shifted: y + 1 modulo 4 in place of y"),
        (lambda y, _: np.full_like(y, 2), "all of its labels are 2"),
        (lambda y, _: np.array([1, 0, 2, 3])[y], "it numbers the labels differently: 0 for 1, 1 for 0"),
        (lambda y, rng: rng.integers(0, 4, len(y)), ""),
    ],
)
def test_a_client_with_wrong_labels_is_far_below_what_is_expected(judge, change, says):
    x, y = blobs(4, [30, 30, 30, 30])
    wrong = change(y, np.random.default_rng(0)).astype(np.int32)
    found = judge.judgement((x, wrong), 4)
    # All is separable, so the judge gives the true label: it agrees where the given label is the true one.
    assert found.accuracy == pytest.approx(np.mean(wrong == y))
    assert found.deficit == pytest.approx(50.5 / 51 - np.mean(wrong == y))
    assert mistake(found) == says


@pytest.mark.parametrize("counts", [[60, 0, 0, 0], [1, 0, 0, 0], [3, 90, 1, 0]])
def test_an_honest_client_is_as_expected_whatever_its_label_mix(judge, counts):
    found = judge.judgement(blobs(5, counts), 4)
    assert abs(found.deficit) <= 4 * np.sqrt(found.variance)
    assert mistake(found) == ""


def test_labels_that_the_hold_out_lacks_are_not_judged():
    two = judge_of("features", features, blobs(6, [50, 50]))
    found = two.judgement(blobs(7, [10, 0, 20, 0]), 4)
    assert found.num_examples == 10
    assert found.accuracy == 1.0
    none = two.judgement(blobs(7, [0, 0, 20, 0]), 4)
    assert none.num_examples == 0
    assert np.isnan(none.deficit)


def test_a_label_of_one_hold_out_example_is_left_out():
    found = judge_of("features", features, blobs(8, [20, 20, 1]))
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("counts", [[30], [30, 1], [4, 5], [0, 0]])
def test_too_few_hold_out_examples_make_no_judge(counts):
    """Fewer than two labels with two examples, or fewer than 10 examples."""
    assert judge_of("features", features, blobs(9, counts)) is None


def test_examples_of_any_size_are_judged(judge):
    """Pixels that are not scaled, and logits of a model that diverged."""
    x, y = blobs(10, [5, 5, 5, 5])
    for strange in (x * 1e30, np.full_like(x, np.inf), np.full_like(x, np.nan)):
        assert np.isfinite(judge.judgement((strange, y), 4).accuracy)
    x, y = blobs(11, [20, 20])
    x[0] = np.inf
    assert judge_of("model", lambda rows: rows.astype(np.float64), (x, y)) is not None


def test_consistent_labels_can_be_learnt_from_the_clients_own_data_and_random_ones_cannot():
    x, y = blobs(12, [25, 25, 25, 25])
    assert learnable_by_itself((x, 3 - y)) == (1.0, 0.25)
    random = np.random.default_rng(0).integers(0, 4, len(y)).astype(np.int32)
    accuracy, most_frequent = learnable_by_itself((x, random))
    # Nothing is better than the most frequent label; 4 standard errors of 100 examples are 4 * 0.05.
    assert most_frequent == np.bincount(random).max() / 100
    assert accuracy <= most_frequent + 0.2


def test_one_label_alone_can_neither_be_learnt_nor_refuted():
    assert learnable_by_itself(blobs(13, [50])) is None
    assert learnable_by_itself(blobs(13, [1])) is None
