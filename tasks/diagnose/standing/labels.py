"""How a client's labels are wrong, in words: from the labels that it gives to those that a judge takes them for."""

from typing import TYPE_CHECKING

import numpy as np

from tasks.arrays import Ints

if TYPE_CHECKING:
    from tasks.diagnose.standing.judges import Judgement

_FEWEST = 5
"""Fewest examples of a label that a judge takes confidently, from which it is known what the label means."""
_MOST = 0.8
"""A label means another one if the judge takes this share of its examples for it."""


def meanings(joint: Ints) -> dict[int, int]:
    """Returns what a client's labels mean: each given label with one clear meaning, and the judge's label for it.

    Args:
        joint: (C, C) examples by the given label (rows) and the judge's confident label (columns).
    """
    totals = joint.sum(axis=1)
    clear = [label for label in range(len(joint)) if totals[label] >= _FEWEST]
    return {label: int(joint[label].argmax()) for label in clear if joint[label].max() >= _MOST * totals[label]}


def mistake(judgement: "Judgement") -> str:
    """Returns what is wrong with the labels, a part of a sentence; empty if it is nothing simple."""
    joint, given = judgement.joint, np.flatnonzero(judgement.given)
    if len(given) == 1 and joint[given[0], given[0]] < joint.sum() / 2:
        return f"all of its labels are {given[0]}"
    meant, num = meanings(joint), len(joint)
    known = {label for label in given.tolist() if joint[label].sum() >= _FEWEST}
    if not known or set(meant) != known:
        return ""
    if all(label == other for label, other in meant.items()):
        return ""
    if len({*meant.values()}) < len(meant):
        return ""  # labels that mean the same are no other numbering: the judge does not know such examples
    if len(meant) > 1 or num == 2:
        if all(other == num - 1 - label for label, other in meant.items()):
            return f"its labels are reversed: {num - 1} - y in place of y"
        steps = {(label - other) % num for label, other in meant.items()}
        if len(steps) == 1:
            return f"its labels are shifted: y + {steps.pop()} modulo {num} in place of y"
    moved = [f"{label} for {other}" for label, other in sorted(meant.items()) if label != other]
    return f"it numbers the labels differently: {', '.join(moved)}"
