"""From the logs and the replays to the value: what is rounded, and what follows from the effects by seed."""

import math

import numpy as np
import pytest
from diagnosis_values import RISE

from tasks.diagnose.causes import Candidate, Remedy
from tasks.diagnose.compose import compose
from tasks.diagnose.diagnosis import Diagnosis, Removed
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Investigation, Proof, Tried
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.effect import Effect
from tasks.settings import parse

FINDINGS = Findings((), 0.1, 0.0, 0.5, 0.3, math.nan, 1.0, (), (), {}, 0.0)
OBSERVATION = Observation(RISE, (7, 11), (), {"02": (3, 4)}, ("00", "02"), math.nan, math.nan)


def proof(cause: str, *by_seed: float) -> Proof:
    change = Change("with a lower rate", {"federate.client.learning_rate": 0.1})
    return Proof(Candidate(cause, change), Effect(by_seed), "val_loss", (1.23456789, math.inf), (1.0, 2.0))


def composed(*causes: Proof, ruled_out: tuple[Proof, ...] = (), recovers: float = 0.5) -> Diagnosis:
    tried = Tried(Remedy("slower", {"federate.client.learning_rate": 0.1}), recovers, math.nan, ("overfitting",))
    proposed = {proof.candidate.cause: tried for proof in causes}
    replays = Investigation(6, (7, 12), True, causes, ruled_out, (tried,), proposed, FINDINGS, 42, 54)
    return compose(OBSERVATION, ["A limit."], parse({}), replays)


def test_the_logs_alone_give_no_cause() -> None:
    answer = compose(OBSERVATION, ["A limit."], parse({}))
    assert (answer.rise, answer.healthy, answer.limits) == (RISE, ("00",), ("A limit.",))
    assert (answer.verdict, answer.causes, answer.budget, answer.signals) == ("none", (), None, None)
    (failure,) = answer.observations
    assert (failure.client, failure.signal, failure.value, failure.rounds) == ("02", "finite", 2, (3, 4))
    assert failure.says == "Client 02 failed in rounds 3, 4: what it sent was left out of the average."


def test_losses_have_six_digits_and_none_if_not_finite() -> None:
    (cause,) = composed(proof("client_learning_rate", 0.9)).causes
    assert cause.replay.unchanged == (1.23457, None)
    assert cause.remedy is not None
    assert cause.remedy.loss_after is None


def test_one_seed_has_no_interval_and_half_of_its_share_is_the_score() -> None:
    (cause,) = composed(proof("client_learning_rate", 0.87654321)).causes
    assert cause.replay.removes == Removed(0.8765, None, None)
    assert (cause.score, cause.replay.seeds) == (0.4383, 1)


def test_the_score_is_the_lower_end_of_the_interval() -> None:
    effect = Effect((0.8, 0.9, 1.0))
    (cause,) = composed(proof("client_learning_rate", *effect.by_seed)).causes
    removes = cause.replay.removes
    assert removes.mean == pytest.approx(0.9)
    assert removes.low == pytest.approx(effect.low, abs=1e-4)
    assert removes.high == pytest.approx(min(1.0, 2 * 0.9 - effect.low), abs=1e-4)
    assert cause.score == removes.low


@pytest.mark.parametrize(("recovers", "shown"), [(1.7, 1.0), (-3.0, -1.0), (0.123456, 0.1235)])
def test_shares_lie_between_minus_1_and_1(recovers: float, shown: float) -> None:
    (remedy,) = composed(proof("client_learning_rate", 0.9), recovers=recovers).remedies
    assert remedy.recovers == shown


def test_a_cause_that_never_ran_has_no_share() -> None:
    never, little = proof("overfitting"), proof("client_learning_rate", 0.2)
    answer = composed(ruled_out=(never, little))
    assert [(each.cause, each.removes) for each in answer.ruled_out] == [
        ("overfitting", None),
        ("client_learning_rate", 0.2),
    ]
    assert answer.ruled_out[1].says == "the same rounds with a lower rate"


def test_budget_has_the_most_seeds_of_any_cause_and_one_without_a_cause() -> None:
    two, three = proof("client_learning_rate", 0.9, 0.9), proof("overfitting", 0.8, 0.8, 0.8)
    budgets = [composed(*causes).budget for causes in ((two, three), ())]
    assert [budget and budget.seeds for budget in budgets] == [3, 1]
    assert budgets[0] is not None
    assert (budgets[0].rounds, budgets[0].allowed, budgets[0].compared) == (42, 54, (7, 12))


def test_signals_are_numbers_or_none() -> None:
    signals = composed().signals
    assert signals is not None
    assert (signals["label_skew"], signals["val_trend"], signals["clients"]) == (0.1, None, {})
    assert not any(isinstance(value, float) and not np.isfinite(value) for value in signals.values())
