"""The rules of a diagnosis: a sound one keeps all of them, and each rule finds what it forbids."""

from dataclasses import replace
from typing import Any

import pytest
from diagnosis_values import (
    LOOKED_FOR,
    MINIMAL,
    NO_RISE,
    SCAFFOLD,
    diagnosis,
    standing,
    standing_ruled_out,
    standing_too_slow,
    with_cause,
    with_replay,
    with_rise,
)

from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import Diagnosis, Evidence, NotFinished, Removed, RuledOut, to_json
from tasks.diagnose.investigation import Standing
from tasks.diagnose.limits import (
    ALL_RULED_OUT,
    NEAR_CHANCE,
    NONE_TRIED,
    NOT_KNOWN,
    NOT_LOOKED_AT,
    ONLY_SINGLE_ROUNDS,
)

SOUND = diagnosis()
GONE = replace(with_replay(SOUND, kind="log_without"), budget=replace(SOUND.budget, reproduced=False))
"""A fault that has gone: in the replays, the loss does not rise."""


LOOKED = replace(MINIMAL, healthy=("00",), looked_for=LOOKED_FOR)
STANDING, RULED_OUT = standing(), standing_ruled_out()


@pytest.mark.parametrize("sound", [SOUND, MINIMAL, GONE, LOOKED, STANDING, RULED_OUT, standing_too_slow()])
def test_sound_diagnosis_has_no_contradiction(sound: Diagnosis) -> None:
    assert contradictions(to_json(sound)) == []


def test_content_of_an_older_version_is_no_contradiction() -> None:
    content = to_json(SOUND)
    del content["harm"], content["ruled_out"], content["replays"]
    assert contradictions(content) == []
    calm = to_json(replace(MINIMAL, healthy=("00",)))
    del calm["looked_for"]
    assert contradictions(calm) == []


def unproven(limit: str, **changes: Any) -> Diagnosis:
    """The same rise without a proven cause, and one limit."""
    return replace(SOUND, causes=(), limits=(limit,), **changes)


def _of(loss: float, reference: float | None) -> Standing:
    return Standing(loss, reference, None, (8, 12))


def with_evidence(says: str) -> Diagnosis:
    """The loss that did not rise, with another sentence of evidence."""
    return with_cause(STANDING, evidence=(Evidence("loss", 2.1, 0.3, says),))


def _ruled_out(says: str, removes: float) -> Diagnosis:
    return replace(SOUND, ruled_out=(RuledOut("label_skew", says, removes),))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (with_rise(SOUND, until=None), "increase.detected is True"),
        (with_rise(SOUND, round=13, until=12), "begins in round 13"),
        (with_rise(SOUND, loss_before=2.52, loss_after=2.46), "rose from 2.52 to 2.46"),
        (with_rise(SOUND, loss_before=2.301, loss_after=2.302), "both of its levels are shown as 2.3"),
        (replace(SOUND, rise=NO_RISE), "causes or remedies were tried"),
        (with_replay(SOUND, removes=Removed(0.4, 0.3, 0.5)), "only 40% of the harm is gone"),
        (_ruled_out("the same rounds", 1.0), "label_skew is ruled out, but"),
        (replace(SOUND, ruled_out=(RuledOut("faulty_clients", "the same rounds without client 03", 0.1),)), "is both"),
        (replace(SOUND, causes=SOUND.causes * 2), "claimed twice"),
        (replace(SOUND, budget=replace(SOUND.budget, rounds=61, allowed=45)), "61 rounds of 45"),
        (replace(SOUND, budget=replace(SOUND.budget, remedy_rounds=91, remedy_allowed=90)), "remedies took 91 rounds"),
        (replace(SOUND, budget=replace(SOUND.budget, seeds=1)), "with 3 seeds, but replays.seeds is 1"),
        (replace(SOUND, budget=replace(SOUND.budget, reproduced=False)), "did not reproduce the run"),
        (with_replay(SOUND, kind="log_without"), "faulty_clients has gone, but the loss rose again"),
        (replace(SOUND, remedies=()), "not among the remedies"),
        (with_cause(replace(SOUND, remedies=(replace(SCAFFOLD, recovers=0.0),)), remedy=None), ""),
        (with_cause(SOUND, remedy=replace(SCAFFOLD, recovers=0.0)), "takes back 0%"),
        (replace(SOUND, healthy=("00", "03")), "Client 03 is named by a cause"),
        (replace(SOUND, healthy=("00", "03")), "Client 03 has an unusual signal"),
        (replace(SOUND, limits=("So no cause is proven.",)), "a limit says that none is"),
        (replace(SOUND, limits=("The loss did not rise. So …",)), "a limit says that it did not"),
        (replace(SOUND, limits=(NEAR_CHANCE,)), "a limit says that its changes are no rise"),
        (replace(SOUND, healthy=("00",), not_looked_at=("00",)), "Client 00 was not looked at, and is among"),
        (replace(with_rise(SOUND, clients=("01",)), healthy=("01",)), "Client 01 has a loss that rose"),
        (with_cause(replace(SOUND, healthy=("00",)), cause="feature_shift", clients=("00",)), "Client 00 is named"),
        (replace(SOUND, remedies=(replace(SCAFFOLD, confirmed=False),)), "at the end of the run it does not help"),
        (unproven(f"{NOT_LOOKED_AT} different label mixes."), "label_skew was not looked at, but it was tried"),
        (unproven("No reason."), "no limit says why"),
        (unproven(f"{NONE_TRIED}, so none is proven."), "but there are causes ruled out or not finished"),
        (unproven(f"No cause is proven, because {ALL_RULED_OUT}.", ruled_out=()), "but that is not so"),
        (unproven(f"No cause is proven. {NOT_KNOWN} a skew."), "not finished, but there are none"),
        (replace(MINIMAL, healthy=("00",)), "it is not said what was looked at"),
        (replace(LOOKED, limits=(f"The loss did not rise. {ONLY_SINGLE_ROUNDS}",)), "the report says what else was"),
        (replace(STANDING, rise=SOUND.rise), "although it did not rise, but it rose"),
        (replace(STANDING, standing=_of(0.31, None)), "not known how high the loss is without it"),
        (replace(STANDING, standing=_of(0.19, 0.31)), "which is not above 0.31"),
        (replace(RULED_OUT, standing=_of(0.31, 0.19)), "there is a loss without the causes"),
        (replace(RULED_OUT, limits=()), "no limit says why"),
        (replace(STANDING, limits=("In the rounds of the rise, …",)), "Nothing rose, but a sentence speaks of a rise"),
        (with_evidence("The model before the rise has …"), "Nothing rose, but a sentence speaks of a rise"),
        (replace(STANDING, ruled_out=(RuledOut("overfitting", "", 0.1, "the loss rose again"),)), "speaks of a rise"),
        (with_replay(STANDING, removes=Removed(0.0, None, None)), "without it none of the harm is gone"),
        (with_replay(STANDING, removes=Removed(0.3, 0.2, 0.4)), ""),
        (replace(STANDING, ruled_out=(RuledOut("label_skew", "", 0.6),)), ""),
        (replace(STANDING, healthy=("h3",)), "Client h3 is named by a cause"),
        (replace(STANDING, healthy=("h9",)), "Client h9 was not looked at"),
        (replace(STANDING, budget=replace(STANDING.budget, reproduced=False)), "did not reproduce the run"),
    ],
)
def test_contradiction_is_found(wrong: Diagnosis, words: str) -> None:
    found = contradictions(to_json(wrong))
    assert any(words in sentence for sentence in found) if words else found == []


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        (f"{NONE_TRIED}, so none is proven.", {"ruled_out": ()}),
        (f"No cause is proven, because {ALL_RULED_OUT}.", {}),
        (f"No cause is proven. {NOT_KNOWN} overfitting.", {"not_finished": (NotFinished("overfitting", "", 0.9, ""),)}),
        ("The loss did not rise again in a replay, so no cause is proven.", {"ruled_out": ()}),
    ],
)
def test_a_limit_that_says_why_nothing_is_proven_is_no_contradiction(limit: str, changes: dict[str, Any]) -> None:
    assert contradictions(to_json(unproven(limit, **changes))) == []


def test_verdict_is_the_first_cause() -> None:
    assert contradictions({**to_json(SOUND), "verdict": "label_skew"}) == [
        "The verdict is label_skew, but the first proven cause is faulty_clients."
    ]
    assert "The verdict is overfitting, but the first proven cause is none." in contradictions(
        {**to_json(MINIMAL), "verdict": "overfitting"}
    )


def test_harm_is_above_its_reference() -> None:
    content = to_json(SOUND)
    assert contradictions({**content, "harm": None}) == ["The loss rose, but there is no harm."]
    turned = {"loss": 0.3, "reference": 0.4, "noise": None}
    assert contradictions({**content, "harm": turned}) == ["The harm is a loss of 0.3, which is not above 0.4."]
    assert contradictions({**to_json(MINIMAL), "harm": {**turned, "loss": 0.5}}) == [
        "Nothing rose, but there is a harm."
    ]
