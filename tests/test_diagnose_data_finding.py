"""The rules about a client's data, each just below and just above its bound."""

from dataclasses import replace

import pytest

from tasks.diagnose.evidence.data_finding import DataFinding
from tasks.diagnose.evidence.memory import Memory

FIT = DataFinding(
    loss=0.3, accuracy=0.9, usual_loss=0.3, expected_loss=0.3, expected_accuracy=0.9, feature_distance=0.05
)
SAME, OTHER = Memory(round=3, logged=0.5, now=0.5), Memory(round=3, logged=0.5, now=0.6)
TURNED_ROUND = replace(OTHER, relabelling=(1, 0))
NAN = float("nan")


def fit(**changes: object) -> DataFinding:
    return replace(FIT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": 3.0, "usual_loss": 2.0}, True),  # one and a half times
        ({"loss": 3.01, "usual_loss": 2.0}, False),
        ({"usual_loss": NAN}, False),  # no past to compare with
        ({"loss": NAN}, False),
        ({"loss": 9.0, "memory": SAME}, True),  # the logged loss decides
        ({"memory": OTHER}, False),
    ],
)
def test_data_are_as_ever_up_to_one_and_a_half_times_their_usual_loss(changes: dict, expected: bool) -> None:
    assert fit(**changes).as_ever is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"loss": 2.0}, False),  # at most twice the expected loss
        ({"accuracy": 0.61}, False),  # less than 0.3 below the expected accuracy
        ({"accuracy": 0.5, "expected_accuracy": 0.8}, False),  # 0.3 below
        ({"usual_loss": 1.4}, False),  # it always contradicted the model
        ({"usual_loss": NAN}, True),  # no past to compare with
        ({"loss": NAN}, True),
        ({"memory": SAME}, False),
        ({"loss": 0.3, "accuracy": 0.9, "memory": OTHER}, True),
    ],
)
def test_data_contradict_the_model_far_beyond_what_their_labels_explain(changes: dict, expected: bool) -> None:
    base = {"loss": 2.01, "accuracy": 0.59, "expected_loss": 1.0, "expected_accuracy": 0.9, "usual_loss": 0.9}
    assert fit(**base | changes).in_conflict is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"loss": 3.0}, False),  # at most three times the usual loss
        ({"accuracy": 0.7}, False),  # right about 0.7 of the examples
        ({"expected_loss": 3.01}, False),  # the model is no better on hold-out data with these labels
        ({"usual_loss": NAN}, False),
    ],
)
def test_data_far_worse_than_they_were_contradict_a_model_that_is_wrong_about_their_labels(
    changes: dict, expected: bool
) -> None:
    base = {"loss": 3.01, "accuracy": 0.69, "expected_loss": 2.0, "expected_accuracy": 0.3, "usual_loss": 1.0}
    assert fit(**base | changes).in_conflict is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"accuracy": 0.795}, True),
        ({"accuracy": 0.8}, False),  # 0.1 below the expected accuracy
        ({"accuracy": 0.805}, False),
        ({"accuracy": 0.795, "loss": 0.4}, False),  # the loss is as usual
    ],
)
def test_data_are_worse_by_a_tenth_of_the_examples(changes: dict, expected: bool) -> None:
    assert fit(**{"loss": 0.5} | changes).worse is expected


def test_features_are_shifted_beyond_a_third_of_their_sd() -> None:
    assert fit(feature_distance=0.36).shifted
    assert not fit(feature_distance=0.35).shifted


def test_data_change_by_conflict_or_by_being_worse_with_shifted_features() -> None:
    assert fit(loss=5.0, accuracy=0.1).changed
    worse = {"loss": 0.5, "accuracy": 0.79}
    assert fit(**worse, feature_distance=3.0).changed
    assert not fit(**worse).changed
    assert not fit(feature_distance=3.0).changed


def test_labels_are_known_to_have_changed_where_changing_them_back_gives_the_logged_loss() -> None:
    assert fit(memory=TURNED_ROUND).relabelled
    assert not fit(memory=OTHER).relabelled
    assert not fit().relabelled


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learnable": None}, True),  # not measured
        ({"learnable": (0.61, 0.3)}, True),  # more than half of the distance from 0.3 to 0.9
        ({"learnable": (0.59, 0.3)}, False),
        ({"learnable": (0.3, 0.3), "structure": 0.41}, True),
        ({"learnable": (0.3, 0.3), "structure": 0.4}, False),
        (
            {"learnable": (0.51, 0.5), "expected_accuracy": 0.2},
            True,
        ),  # no gain is possible: above the most frequent label
        ({"learnable": (0.5, 0.5), "expected_accuracy": 0.2}, False),
    ],
)
def test_data_make_sense_that_hang_together_or_can_be_learnt(changes: dict, expected: bool) -> None:
    assert fit(**changes).makes_sense is expected
