"""What is wrong with a client's labels, in words, from the labels that a judge takes its examples for."""

import numpy as np
import pytest

from tasks.diagnose.standing.judges import Judgement
from tasks.diagnose.standing.labels import meanings, mistake


def judgement(pairs, num_classes=10, given=None):
    """A judgement of examples by {(given label, label of the judge): number}."""
    joint = np.zeros((num_classes, num_classes), np.int64)
    for (label, other), number in pairs.items():
        joint[label, other] = number
    return Judgement(int(joint.sum()), 0.0, 0.9, 0.01, joint.sum(axis=1) if given is None else np.array(given), joint)


def relabelled(change, num_classes=10, labels=range(10)):
    """20 examples of each true label, whose given label is `change(true)`."""
    return judgement({(change(label), label): 20 for label in labels}, num_classes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y: 9 - y, "its labels are reversed: 9 - y in place of y"),
        (lambda y: (y + 1) % 10, "its labels are shifted: y + 1 modulo 10 in place of y"),
        (lambda y: (y - 1) % 10, "its labels are shifted: y + 9 modulo 10 in place of y"),
        (lambda y: {3: 5, 5: 3}.get(y, y), "it numbers the labels differently: 3 for 5, 5 for 3"),
        (lambda y: y, ""),
    ],
)
def test_a_simple_mistake_is_named(change, says):
    assert mistake(relabelled(change)) == says


def test_reversed_and_shifted_are_one_for_two_classes_and_are_called_reversed():
    assert mistake(relabelled(lambda y: 1 - y, 2, range(2))) == "its labels are reversed: 1 - y in place of y"


def test_a_part_of_the_labels_is_enough():
    assert mistake(relabelled(lambda y: (y + 1) % 10, labels=(2, 3, 7))) == (
        "its labels are shifted: y + 1 modulo 10 in place of y"
    )


def test_all_labels_the_same_are_named():
    assert mistake(judgement({(2, label): 10 for label in range(10)})) == "all of its labels are 2"


def test_a_client_that_has_one_class_only_is_honest():
    assert mistake(judgement({(2, 2): 40, (2, 3): 3})) == ""


def test_one_label_that_is_judged_confidently_is_not_all_labels():
    """The client has 30 examples each of two labels; the judge is sure of those of label 2 only."""
    found = judgement({(2, label): 3 for label in range(10)}, given=[0, 0, 30, 30, 0, 0, 0, 0, 0, 0])
    assert mistake(found) == ""


def test_labels_that_all_look_the_same_are_no_other_numbering():
    """Foreign features: the judge takes every example for an 8."""
    assert mistake(judgement({(label, 8): 20 for label in range(10)})) == ""


def test_random_labels_are_no_simple_mistake():
    joint = {(a, b): 2 for a in range(10) for b in range(10)}
    assert mistake(judgement(joint)) == ""
    assert mistake(judgement({})) == ""


def test_a_label_has_a_meaning_from_five_examples_and_four_fifths_on():
    joint = np.zeros((3, 3), np.int64)
    joint[0] = [0, 4, 0]  # fewer than 5
    joint[1] = [4, 0, 1]  # 4 of 5 are four fifths
    joint[2] = [0, 7, 2]  # 7 of 9 are fewer
    assert meanings(joint) == {1: 0}
