"""The rules by which replays prove a cause, on plain numbers."""

import pytest

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.verdict import (
    Contender,
    SecondCause,
    SecondChange,
    another_seed,
    believed_first,
    cleared,
    comes_before_pairs,
    explains_the_rest,
    failures_removed,
    gives_up_second,
    most_specific,
    named_of_pair,
    necessary_alone,
    outranks,
    pair_counts,
    pairs,
    second_cause,
    second_comes_first,
    worth_finishing,
)


def contenders(**shares):
    """`faulty_clients=0.8`, … -> contenders in this order; a tuple of shares gives as many contenders of one cause."""
    listed = [
        (cause, share)
        for cause, several in shares.items()
        for share in (several if isinstance(several, tuple) else (several,))
    ]
    return [Contender(number, cause, share) for number, (cause, share) in enumerate(listed)]


def cause_of(contender):
    return contender and contender.cause


# One cause


def test_a_candidate_is_given_up_below_a_tenth_or_two_margins_below_the_best():
    assert worth_finishing("label_skew", 0.1, 0.0)
    assert not worth_finishing("label_skew", 0.09, 0.0)
    assert worth_finishing("label_skew", 0.51, 0.9)
    assert not worth_finishing("label_skew", 0.49, 0.9)
    assert worth_finishing("faulty_clients", 0.1, 0.9)  # the cause has evidence of its own
    assert not worth_finishing("faulty_clients", 0.09, 0.0)


def test_more_specific_cause_is_believed_within_the_margin():
    for share, cause in ((0.81, "faulty_clients"), (0.79, "label_skew")):
        assert cause_of(most_specific(contenders(label_skew=1.0, faulty_clients=share), tuple(CAUSES))) == cause
    # A more specific cause that removes more is believed in any case.
    assert cause_of(most_specific(contenders(label_skew=0.6, faulty_clients=1.0), tuple(CAUSES))) == "faulty_clients"
    assert cause_of(most_specific(contenders(label_skew=0.6, quantity_skew=0.5), tuple(CAUSES))) == "quantity_skew"


def test_half_of_the_rise_is_the_least():
    assert most_specific(contenders(faulty_clients=0.49), tuple(CAUSES)) is None
    assert cause_of(most_specific(contenders(faulty_clients=0.5), tuple(CAUSES))) == "faulty_clients"
    # Within the margin, but less than half of the rise.
    assert cause_of(most_specific(contenders(faulty_clients=0.49, label_skew=0.6), tuple(CAUSES))) == "label_skew"
    assert most_specific([], tuple(CAUSES)) is None


def test_of_one_cause_the_change_that_removes_more_is_believed():
    first = most_specific(contenders(feature_shift=(0.8, 0.9), label_skew=0.9), tuple(CAUSES))
    assert (first.number, first.cause) == (1, "feature_shift")


@pytest.mark.parametrize(
    ("shares", "cause"),
    [
        # The order puts a lower rate last.
        ({"label_skew": 0.6, "client_learning_rate": 0.9}, "client_learning_rate"),
        ({"label_skew": 0.75, "client_learning_rate": 0.9}, "label_skew"),
        ({"client_learning_rate": 0.4}, None),
        # Overfitting replaces a skew that explains less, and no other cause.
        ({"client_learning_rate": 0.6, "overfitting": 1.0}, "client_learning_rate"),
        ({"quantity_skew": 0.7, "overfitting": 1.0}, "overfitting"),
        ({"quantity_skew": 0.85, "overfitting": 1.0}, "quantity_skew"),
        ({"faulty_clients": 0.7, "overfitting": 1.0}, "faulty_clients"),
        # Overfitting alone is not believed here.
        ({"overfitting": 1.0}, None),
        ({}, None),
    ],
)
def test_which_cause_is_believed_first(shares, cause):
    assert cause_of(believed_first(contenders(**shares), tuple(CAUSES))) == cause


def test_overfitting_explains_the_rest():
    assert cause_of(explains_the_rest(contenders(label_skew=0.9, overfitting=0.5), tuple(CAUSES))) == "overfitting"
    assert explains_the_rest(contenders(label_skew=0.9, overfitting=0.4), tuple(CAUSES)) is None
    assert explains_the_rest(contenders(label_skew=0.9), tuple(CAUSES)) is None
    assert comes_before_pairs(contenders(label_skew=0.3, overfitting=0.9))
    assert not comes_before_pairs(contenders(faulty_clients=0.0, overfitting=0.9))


def test_a_third_seed_is_run_unless_two_refute_the_change():
    assert another_seed(Effect((0.9, 0.9)), 2)
    assert another_seed(Effect((0.1, 0.9)), 2)  # a mean of half of the rise is enough
    assert another_seed(Effect((0.9,)), 2)  # the loss did not rise in the second seed
    assert not another_seed(Effect((0.1, 0.8)), 2)  # less than half: nothing to settle


def test_after_three_seeds_another_is_run_in_place_of_one_that_says_nothing():
    assert another_seed(Effect((0.9,)), 3)
    # Of two shares with a mean of 0.75 and sd 0.354, the lower bound is 0.75 - 6.314 · 0.354 / √2 < 0.
    assert another_seed(Effect((1.0, 0.5)), 3)
    assert not another_seed(Effect((1.0, 1.0)), 3)  # proven
    assert not another_seed(Effect((1.0, 0.2, 0.9)), 3)  # three that say something disagree


def test_failures_count_by_seed():
    # 4 of 4 and 3 of 4 failures are gone. A seed without failures shows nothing.
    assert failures_removed([4, 4, 0], [0, 1, 0]) == Effect((1.0, 0.75))
    assert not failures_removed([0, 0, 0], [0, 0, 0]).proven


# Two causes


def change(cause="faulty_clients", **numbers):
    nothing = {"share": 0.0, "fall": 0.0, "other_rise": 0.0, "other_left": 0.0, "other_fall": 0.0}
    return SecondChange(cause, **{**nothing, **numbers})


@pytest.mark.parametrize(
    ("second", "counted"),
    [
        # 1. A cause counts if it removes a fifth of the rise.
        (change("client_learning_rate", share=0.2, fall=0.1), SecondCause(0.1, False)),
        (change("client_learning_rate", share=0.19, fall=0.4), None),
        (change("client_learning_rate", share=0.2, fall=0.0), None),
        # 2. A cause with evidence counts if it lowers the loss by LASTING.
        (change(fall=0.15), SecondCause(0.15, False)),
        (change(fall=0.14), None),
        # 3. A cause with evidence counts if it removes half of what is left of the other loss's rise.
        (change(other_rise=1.0, other_left=1.0, other_fall=0.5), SecondCause(0.5, True)),
        (change("client_learning_rate", other_rise=1.0, other_left=1.0, other_fall=1.0), None),
        (change(other_rise=1.0, other_left=1.0, other_fall=0.49), None),
        (change(other_rise=0.09, other_left=1.0, other_fall=1.0), None),  # the other loss did not rise
        (change(other_rise=1.0, other_left=0.09, other_fall=0.2), None),  # nothing is left
        (change(other_rise=1.0, other_left=0.2, other_fall=0.14), None),  # the fall is below LASTING
        (change(other_rise=1.0, other_left=0.2, other_fall=0.16), SecondCause(0.16, True)),
        # If both losses fall, the loss that rose counts.
        (change(fall=0.2, other_rise=1.0, other_left=1.0, other_fall=0.9), SecondCause(0.2, False)),
    ],
)
def test_when_a_second_cause_counts(second, counted):
    assert second_cause(second) == counted


def test_a_second_change_that_does_nothing_halfway_is_given_up():
    assert gives_up_second(change(fall=0.019))
    assert not gives_up_second(change(fall=0.02))
    assert not gives_up_second(change(other_fall=0.02))
    assert gives_up_second(change("client_learning_rate", other_fall=0.02))  # the other loss counts only with evidence


def test_a_second_cause_with_evidence_comes_before_a_lower_rate():
    rate, faulty = (change("client_learning_rate"), SecondCause(0.9, False)), (change(), SecondCause(0.2, False))
    assert outranks(*rate, None)
    assert outranks(*faulty, rate)
    assert not outranks(*rate, faulty)
    assert outranks(change(), SecondCause(0.3, True), faulty)
    assert not outranks(*faulty, faulty)  # of two equal causes, the first stays


@pytest.mark.parametrize(
    ("shares", "cause"),
    [
        ({"faulty_clients": 0.6, "feature_shift": 0.7, "label_skew": 0.9}, "feature_shift"),
        ({"faulty_clients": 0.49}, None),
        ({"faulty_clients": 0.5, "client_learning_rate": 0.9}, "client_learning_rate"),
        ({"label_skew": 1.0, "overfitting": 1.0}, None),
    ],
)
def test_a_cause_that_is_necessary_alone(shares, cause):
    assert cause_of(necessary_alone(contenders(**shares))) == cause


def test_changed_data_are_named_before_what_they_always_were():
    for skew in ("label_skew", "quantity_skew"):
        for of_data in ("faulty_clients", "feature_shift"):
            assert second_comes_first(skew, of_data)
            assert not second_comes_first(of_data, skew)
        assert not second_comes_first(skew, "server_learning_rate")
    assert not second_comes_first("client_learning_rate", "faulty_clients")


def test_pairs_are_made_of_the_best_three_that_differ():
    shares = {"label_skew": 0.3, "overfitting": 0.45, "faulty_clients": 0.4, "feature_shift": (0.2, 0.35)}
    tried = [(one.cause, other.cause) for one, other in pairs(contenders(**shares))]
    assert tried == [
        ("faulty_clients", "feature_shift"),
        ("faulty_clients", "label_skew"),
        ("feature_shift", "label_skew"),
    ]
    assert [(one.number, other.number) for one, other in pairs(contenders(feature_shift=(0.3, 0.4), label_skew=0.1))]
    twice = [(one.number, other.number) for one, other in pairs(contenders(feature_shift=(0.3, 0.4), label_skew=0.1))]
    assert twice == [(1, 2), (0, 2)]  # two changes of one cause are no pair
    assert pair_counts(0.6)
    assert not pair_counts(0.59)


def test_a_skew_is_not_named_beside_the_cause_with_which_it_removes_the_rise():
    assert named_of_pair(["faulty_clients", "quantity_skew"]) == ("faulty_clients",)
    assert named_of_pair(["label_skew", "client_learning_rate"]) == ("client_learning_rate",)
    assert named_of_pair(["faulty_clients", "server_learning_rate"]) == ("faulty_clients", "server_learning_rate")
    assert named_of_pair(["quantity_skew", "label_skew"]) == ("quantity_skew", "label_skew")


def test_suspects_are_cleared_who_do_no_harm():
    suspects = ("01", "02", "03")
    assert cleared(suspects, harmful={"02"}, never_cleared={"03", "04"}) == ("01",)
