"""Whether a new model may take the place of the champion: no worse beyond noise, and from a run without a finding.

Both models' losses are of the same hold-out examples, so the noise is that of their differences, example by example.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SURE = 1.645
"""Standard errors that a difference must exceed to be no noise: one-sided, 5 % of equal models exceed them."""


@dataclass(frozen=True)
class Standing:
    """What is known of a model's run.

    Attributes:
        clean: whether the diagnosis found nothing: no cause, no rise, no early end.
        verdict: the answer of the diagnosis in one sentence, or the verdict.
        hold_out: digest of the hold-out data.
        scores: of the model in evaluation.json.
    """

    clean: bool
    verdict: str
    hold_out: str
    scores: Mapping[str, Any]


def refusals(new: Standing, champion: Standing | None) -> list[str]:
    """Returns why `new` may not take the place of `champion`, a sentence each; [] if it may.

    Without a champion, only the diagnosis is looked at.
    """
    said = [] if new.clean else [f"the diagnosis is not clean: {new.verdict or 'there is none'}"]
    if champion is None:
        return said
    if not new.hold_out or new.hold_out != champion.hold_out:
        return [*said, "the champion's loss is of other hold-out data, so the two losses cannot be compared"]
    return [*said, *_loss(new.scores, champion.scores), *_worst_client(new.scores, champion.scores)]


def _loss(new: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    ours, theirs = _losses(new), _losses(champion)
    if ours is None:
        return ["the loss is not finite"]
    if theirs is None or len(ours) != len(theirs):
        return ["the champion's loss of each hold-out example is not known: its run was logged by an earlier version"]
    difference = ours - theirs
    error = float(difference.std(ddof=1)) / math.sqrt(len(ours)) if len(ours) > 1 else 0.0
    if difference.mean() <= SURE * error:
        return []
    return [
        f"the hold-out loss is worse: {ours.mean():.4g} instead of {theirs.mean():.4g}, a difference of "
        f"{difference.mean():.2g} ± {error:.2g}"
    ]


def _losses(scores: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    text = (scores.get("test") or {}).get("losses")
    return np.array(str(text).split(), np.float64) if text else None


def _worst_client(new: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    ours, theirs = ((scores.get("worst") or {}).get("client") for scores in (new, champion))
    if not ours or not theirs:  # no client has enough examples to be ranked
        return []
    error = math.sqrt(sum(of["accuracy"] * (1 - of["accuracy"]) / of["num_examples"] for of in (ours, theirs)))
    if theirs["accuracy"] - ours["accuracy"] <= SURE * error:
        return []
    return [
        f"the worst client has fallen: client {ours['client']} has accuracy {ours['accuracy']:.3g} on "
        f"{ours['num_examples']} examples, the champion's worst client {theirs['client']} has "
        f"{theirs['accuracy']:.3g} on {theirs['num_examples']}"
    ]
