"""How models are compared on the hold-out data as one client sees them, and what is said of it."""

import numpy as np
import pytest
from scipy.stats import t as student_t

from tasks.evaluate.baselines.judgement import Answers, Comparison, Mark, answers, compare, flat, mark, says, weights_of
from tasks.evaluate.metrics import mean_cross_entropy


def given(losses):
    losses = np.array(losses, float)
    return Answers(losses, losses < 0.5)


def test_each_class_weighs_as_much_as_at_the_client():
    # Three of four own examples are of class 0, with two in the hold-out; one is of class 1, with one; none of class 2.
    weights = weights_of(np.array([3, 1, 0]), np.array([0, 2, 1, 0]))
    np.testing.assert_allclose(weights, [3 / 8, 0, 2 / 8, 3 / 8])


def test_class_that_the_hold_out_data_lack_does_not_count():
    np.testing.assert_allclose(weights_of(np.array([1, 1]), np.array([0, 0])), [1 / 2, 1 / 2])


@pytest.mark.parametrize("y", [[2, 2, 2], [0, 2, 2]])
def test_fewer_than_two_hold_out_examples_are_no_judgement(y):
    assert weights_of(np.array([5, 5, 0]), np.array(y)) is None


def test_equal_shares_are_the_plain_mean():
    y, rng = np.arange(30) % 3, np.random.default_rng(0)
    logits = rng.normal(size=(30, 3)).astype(np.float32)
    found = mark(answers(y, logits), weights_of(np.array([7, 7, 7]), y))
    assert found.loss == pytest.approx(mean_cross_entropy(y, logits))
    assert found.accuracy == pytest.approx(np.mean(logits.argmax(1) == y))
    assert vars(mark(answers(y, logits))) == pytest.approx(vars(found))


def test_difference_and_its_error_are_of_paired_losses():
    rng = np.random.default_rng(1)
    own, federated = rng.random(40), rng.random(40)
    found = compare(given(own), given(federated), np.full(40, 1 / 40))
    # Equal weights: the mean of d = own - federated, and sd(d) / √n.
    assert found.difference == pytest.approx(np.mean(own - federated))
    assert found.standard_error == pytest.approx(np.std(own - federated, ddof=1) / 40**0.5)


@pytest.mark.parametrize(
    ("shift", "better"), [(1.01, "federation"), (0.99, "unclear"), (-0.99, "unclear"), (-1.01, "alone")]
)
def test_difference_within_its_95_percent_interval_is_unclear(shift, better):
    spread = np.array([-1.0, 1, -1, 1, -2, 2])
    # The bound of Student's t with 5 degrees of freedom: 2.57 · sd / √6.
    bound = student_t.ppf(0.975, 5) * np.std(spread, ddof=1) / 6**0.5
    found = compare(given(10 + spread + shift * bound), given(np.full(6, 10)), np.full(6, 1 / 6))
    assert found.better == better


def test_examples_without_weight_do_not_count():
    weights = np.array([0.5, 0.5, 0, 0])
    some = compare(given([1, 2, 9, np.inf]), given([2, 2, 0, 0]), weights)
    few = compare(given([1, 2]), given([2, 2]), np.array([0.5, 0.5]))
    assert (some.difference, some.standard_error, some.better) == (few.difference, few.standard_error, few.better)


def test_model_with_a_logit_that_is_not_finite_has_no_loss_and_decides_nothing():
    logits = np.array([[3, 0], [np.nan, 0], [0, 3]], np.float32)
    broken = answers(np.array([0, 0, 1]), logits)
    np.testing.assert_array_equal(broken.hits, [True, False, True])
    found = compare(broken, given([1, 1, 1]), np.full(3, 1 / 3))
    assert (found.own.loss, found.difference, found.better) == (None, None, "unclear")
    assert found.own.accuracy == pytest.approx(2 / 3)


def comparison(better, own=0.2, federated=0.1):
    return Comparison(Mark(own, 0.9), Mark(federated, 0.8), own - federated, 0.01, better)


def test_the_answer_names_for_whom_the_federation_pays():
    some = {"00": comparison("federation"), "01": comparison("alone"), "02": comparison("unclear")}
    assert says(some, Mark(0.1234, 0.97), Mark(0.2, 0.95), ["03"]) == [
        "The federation pays for 1 of 3 clients.",
        "Better alone: 01.",
        "No clear difference: 02.",
        "A model trained on all data in one place has loss 0.123 and accuracy 0.970 on the hold-out data, the global "
        "model 0.200 and 0.950.",
        "Not measured: 03.",
    ]
    assert (
        says({"a": some["00"], "b": some["00"]}, None, Mark(None, 0.1), [])[0]
        == "The federation pays for all 2 clients."
    )
    assert says({"a": some["01"]}, None, Mark(None, 0.1), [])[0] == "The federation pays for none of 1 client."


def test_means_are_over_the_clients_and_lack_what_is_undefined():
    both = {"00": comparison("alone", own=0.2), "01": comparison("federation", own=0.4)}
    assert flat(both, Mark(0.1, 0.97)) == {
        "pooled_loss": 0.1,
        "pooled_accuracy": 0.97,
        "local_loss_mean": pytest.approx(0.3),
        "local_accuracy_mean": pytest.approx(0.9),
        "federated_loss_mean": pytest.approx(0.1),
        "federated_accuracy_mean": pytest.approx(0.8),
        "clients_better_alone": 1,
        "clients_better_federated": 1,
    }
    broken = Comparison(Mark(None, 0.1), Mark(0.1, 0.8), None, None, "unclear")
    assert "local_loss_mean" not in flat({**both, "02": broken}, None)
    assert flat({}, None) == {}
