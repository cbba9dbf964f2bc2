"""The diagnosis from logs and replays: what is rounded, and what follows from the effects by seed."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diagnosis_values import NO_RISE, RISE
from plain_findings import a_client

from tasks.diagnose.causes import Candidate, Remedy
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.compose import compose
from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import Budget, Diagnosis, Evidence, Removed, to_json
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.evidence.local_models import LocalModel
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.investigation import Gone, Investigation, Proof, Standing, Tried
from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.written_signals import MOST_CLIENTS
from tasks.settings import parse

FINDINGS = Findings((), 0.1, 0.0, 0.5, 0.3, math.nan, 1.0, (), (), {}, 0.0)
DRIFT = Drift("00", "update_norm", 1.0, 1.0, 1.0, 0.0, unusual=False)
OBSERVATION = Observation(RISE, (7, 11), (DRIFT,), {"02": (3, 4)}, ("00", "02"), math.nan, math.nan)


def proof(cause: str, *by_seed: float) -> Proof:
    change = Change("with a lower rate", {"federate.client.learning_rate": 0.1})
    return Proof(Candidate(cause, change), Effect(by_seed), "val_loss", (1.23456789, math.inf), (1.0, 2.0))


def composed(
    *causes: Proof,
    ruled_out: tuple[Proof, ...] = (),
    recovers: float = 0.5,
    findings: Findings = FINDINGS,
    without_remedy: tuple[str, ...] = (),
    not_finished: tuple[Proof, ...] = (),
    window: tuple[int, int] = (7, 12),
) -> Diagnosis:
    tried = Tried(Remedy("slower", {"federate.client.learning_rate": 0.1}), recovers, math.nan, ("overfitting",))
    proposed = {proof.candidate.cause: tried for proof in causes if proof.candidate.cause not in without_remedy}
    replays = Investigation(
        6, window, True, causes, ruled_out, (tried,), proposed, findings, 42, 54, seeds=2, not_finished=not_finished
    )
    return compose(OBSERVATION, ["A limit."], parse({}), replays)


def test_the_logs_alone_give_no_cause() -> None:
    answer = compose(OBSERVATION, ["A limit."], parse({}))
    assert (answer.rise, answer.healthy, answer.limits) == (RISE, ("00",), ("A limit.",))
    assert (answer.verdict, answer.causes, answer.budget, answer.signals) == ("none", (), None, None)
    failure, _ = answer.observations
    assert (failure.client, failure.signal, failure.value, failure.rounds) == ("02", "failures", 2, (3, 4))
    assert failure.says == "Client 02 failed in rounds 3, 4: the server left its update out of the average."


def test_only_clients_that_were_compared_and_that_nothing_names_have_nothing_unusual() -> None:
    names = tuple("abcdefgh")
    drifts = tuple(replace(DRIFT, client=name, unusual=name == "b") for name in names if name != "h")
    seen = replace(OBSERVATION, rise=replace(RISE, clients=("c",)), drifts=drifts, clients=names, failures={"a": (7,)})

    def of(cause: str, client: str) -> Proof:
        return Proof(Candidate(cause, Change("without"), (client,)), Effect((0.9, 0.9)), "val_loss", (), ())

    replays = Investigation(
        6, (7, 12), True, (of("feature_shift", "d"),), (of("faulty_clients", "e"), of("label_skew", "f")), (), {},
        FINDINGS, 0, 0, not_finished=(of("unequal_local_work", "g"),),
    )  # fmt: skip
    # a failed, b is unusual, c's loss rose, d has a cause, e was suspected, g may be a cause, h took no part.
    answer = compose(seen, (), parse({}), replays)
    assert (answer.healthy, answer.not_looked_at, answer.looked_at) == (("f",), ("h",), (7, 11))
    # Without a rise, the log does not show what a client has done from the start: only failures and outliers.
    calm = replace(seen, rise=NO_RISE, window=None, drifts=())
    answer = compose(calm, (), parse({}))
    assert (answer.healthy, answer.not_looked_at, answer.looked_at) == ((), names[1:], None)


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


def test_budget_has_the_most_seeds_of_any_replay_and_what_was_spent() -> None:
    budget = composed().budget
    assert budget is not None
    assert (budget.seeds, budget.rounds, budget.allowed, budget.compared) == (2, 42, 54, (7, 12))


def test_what_is_not_finished_has_its_reason_and_the_numbers_of_all_seeds() -> None:
    unknown = replace(proof("label_skew"), why="no rounds were left")
    answer = composed(not_finished=(unknown, replace(proof("overfitting", 0.9, 0.7), why="the seeds disagree")))
    assert [(each.cause, each.removes, each.why) for each in answer.not_finished] == [
        ("label_skew", None, "no rounds were left"),
        ("overfitting", 0.8, "the seeds disagree"),
    ]


def test_a_fault_that_has_gone_has_its_own_rounds_and_evidence() -> None:
    seen = Indication("sent_over_trained", 30.0, 1.0, "In round 8.")
    gone = replace(
        proof("faulty_clients", 0.9, 0.9), gone=Gone((8, 9), "updates"), evidence=(seen,), kind="log_without"
    )
    (cause,) = composed(gone).causes
    assert (cause.rounds, cause.fault, cause.replay.of_log) == ((8, 9), "updates", True)
    assert cause.evidence == (Evidence("sent_over_trained", 30.0, 1.0, "In round 8."),)


def test_the_rounds_of_a_cause_are_those_of_the_rise_also_if_earlier_ones_are_compared() -> None:
    # The logged rise is of rounds 7 to 12.
    assert [composed(proof("overfitting", 0.9), window=(first, 10)).causes[0].rounds for first in (5, 8)] == [
        (7, 10),
        (8, 10),
    ]


def test_signals_are_numbers_or_none() -> None:
    signals = composed().signals
    assert signals is not None
    assert (signals["label_skew"], signals["val_trend"], signals["clients"]) == (0.1, None, {})
    assert not any(isinstance(value, float) and not np.isfinite(value) for value in signals.values())


def test_evidence_has_the_measure_and_what_is_usual_in_six_digits() -> None:
    (cause,) = composed(proof("client_learning_rate", 0.9), findings=replace(FINDINGS, steepness=2.3456789)).causes
    says = (
        "The client learning rate 0.05 times the curvature of the clients' loss is 2.35. Above 2, each step of "
        "gradient descent goes too far, and the loss rises."
    )
    assert cause.evidence == (Evidence("steepness", 2.34568, 2.0, says),)


def test_a_measure_that_is_not_known_is_none() -> None:
    (cause,) = composed(proof("client_learning_rate", 0.9), findings=replace(FINDINGS, steepness=math.nan)).causes
    assert [(each.value, each.expected) for each in cause.evidence] == [(None, 2.0)]


def test_a_cause_without_a_proposed_remedy_has_none() -> None:
    causes = (proof("client_learning_rate", 0.9), proof("overfitting", 0.8))
    helped, not_helped = composed(*causes, without_remedy=("overfitting",)).causes
    assert not_helped.remedy is None
    assert helped.remedy is not None
    assert helped.remedy.settings == {"federate.client.learning_rate": 0.1}


def test_a_client_without_a_memory_and_a_local_model_has_its_own_numbers() -> None:
    client = a_client("00", loss=0.123456789, slope=math.nan, left_out=-0.25)
    signals = composed(findings=replace(FINDINGS, clients=(client,))).signals
    assert signals is not None
    numbers = signals["clients"]["00"]
    assert (numbers["loss"], numbers["slope"], numbers["left_out"]) == (0.123457, None, -0.25)
    assert not {"memory", "recalls", "val_loss", "growth"} & numbers.keys()


def test_a_client_has_the_numbers_of_its_memory_and_of_its_own_local_model() -> None:
    local = LocalModel(
        loss_before=0.5,
        loss_after=0.123456789,
        val_loss=math.inf,
        recalls={1: 0.25, 0: math.nan},
        pairwise_cosine=0.1,
        leave_one_out_cosine=0.2,
        growth=1.5,
        intended_weight=0.3,
        effective_weight=0.4,
    )
    clients = (a_client("00", memory=Memory(3, 0.987654321, math.nan)), a_client("01"))
    signals = composed(findings=replace(FINDINGS, clients=clients, local_models={"01": local})).signals
    assert signals is not None
    remembers, trained = signals["clients"]["00"], signals["clients"]["01"]
    assert remembers["memory"] == {"round": 3, "logged": 0.987654, "now": None}
    assert "recalls" not in remembers
    assert "memory" not in trained
    expected = {
        "loss_before": 0.5,
        "loss_after": 0.123457,
        "val_loss": None,
        "pairwise_cosine": 0.1,
        "leave_one_out_cosine": 0.2,
        "growth": 1.5,
        "intended_weight": 0.3,
        "effective_weight": 0.4,
        "recalls": {"0": None, "1": 0.25},
    }
    assert {name: trained[name] for name in expected} == expected
    assert list(trained["recalls"]) == ["0", "1"]
    assert trained["loss"] == 0.3  # the loss of the client's own finding stays


def test_of_many_clients_the_blamed_and_the_farthest_have_numbers_and_all_have_quantiles() -> None:
    # The losses are 0, 1, ..., 200 with the median 100: the farthest clients are the first and the last ones.
    clients = tuple(a_client(f"{k:03}", loss=float(k)) for k in range(201))
    cause = proof("label_skew", 0.9, 0.9)
    cause = replace(cause, candidate=replace(cause.candidate, clients=("100",)))
    signals = composed(cause, findings=replace(FINDINGS, clients=clients)).signals
    assert signals is not None
    assert len(signals["clients"]) == MOST_CLIENTS
    assert {"000", "100", "200"} <= signals["clients"].keys()
    assert signals["all_clients"]["loss"] == {"all: 95 %": 190.0, "all: median": 100.0, "all: 5 %": 10.0}
    few = composed(findings=replace(FINDINGS, clients=clients[:MOST_CLIENTS])).signals
    assert few is not None
    assert (len(few["clients"]), "all_clients" in few) == (MOST_CLIENTS, False)


CALM = replace(OBSERVATION, rise=NO_RISE, window=None, drifts=(), failures={}, clients=("00", "01", "02"))


def stands(*by_seed: float, ends: float = 0.1, since: int = 1, fault: str = "too_low", clients: Any = ()) -> Proof:
    """A cause in a run of 4 rounds whose loss ends at 0.4 in the last two, and at `ends` without the cause."""
    change = Change("at a higher rate", {"federate.client.learning_rate": 0.1})
    candidate = Candidate("client_learning_rate", change, clients, fault=fault)
    return Proof(
        candidate, Effect(by_seed), "val_loss", (0.8, 0.5, 0.4, 0.4), (0.8, 0.5, ends, ends), since=since
    )  # fmt: skip


def stood(*causes: Proof, reference: float | None = 0.1234567, **changes: Any) -> Diagnosis:
    value = changes.pop("standing", Standing(0.42, reference, 0.0123456789, (3, 4)))
    looked = {"looked_for": ("Labels.",), "clients_looked_at": ("00", "02"), "not_examined": ("Updates.",)}
    ruled_out = changes.pop("ruled_out", ())
    replays = Investigation(
        0, (3, 4), True, causes, ruled_out, (), {}, FINDINGS, 12, 15, seeds=3, standing=value, **(looked | changes)
    )
    return compose(CALM, (), parse({}), replays)


def test_a_loss_that_did_not_rise_has_its_levels_causes_and_rounds() -> None:
    answer = stood(stands(0.9, 1.0, 1.1, since=3))
    assert answer.standing == Standing(0.42, 0.123457, 0.0123457, (3, 4))
    assert (answer.question, answer.verdict, answer.looked_for, answer.not_examined) == (
        "standing", "client_learning_rate", ("Labels.",), ("Updates.",),
    )  # fmt: skip
    (cause,) = answer.causes
    assert (cause.rounds, cause.fault, cause.replay.ends_at) == ((3, 4), "too_low", 0.123457)
    assert answer.budget == Budget(0, 12, 15, 3, (3, 4), True)
    assert contradictions(to_json(answer)) == []


def test_ends_of_replays_are_the_ratio_of_their_last_rounds_times_the_loss_at_the_end() -> None:
    tried = (
        stands(0.2, ends=0.2),
        stands(0.1),
        replace(stands(0.1), with_change=(0.8, 0.5, 0.2)),
        stands(ends=np.nan),
        stands(ends=0),
    )
    answer = stood(reference=None, ruled_out=tried, not_finished=tried[:1])
    # 0.42 · 0.2 / 0.4 = 0.21 and 0.42 · 0.1 / 0.4 = 0.105; the third replay does not reach the end.
    assert [each.ends_at for each in answer.ruled_out] == [0.21, 0.105, None, None, 0.0]
    assert [(each.ends_at, each.fault) for each in answer.not_finished] == [(0.21, "too_low")]
    assert stood(stands(0.9), stands(0.5, ends=0.2)).causes[1].replay.ends_at == 0.21
    assert composed(proof("overfitting", 0.9)).causes[0].replay.ends_at is None


def test_where_nothing_rose_only_clients_that_were_looked_at_have_nothing_unusual() -> None:
    assert (stood().healthy, stood().not_looked_at) == (("00", "02"), ("01",))
    named = stood(stands(0.9, clients=("02",)))
    assert (named.healthy, named.not_looked_at) == (("00",), ("01",))


def test_a_run_without_a_suspect_has_no_replays_and_says_what_was_looked_for() -> None:
    answer = stood(standing=None)
    assert (answer.question, answer.standing, answer.budget, answer.signals) == ("rise", None, None, None)
    assert (answer.looked_for, answer.not_examined) == (("Labels.",), ("Updates.",))
    assert (answer.healthy, answer.not_looked_at) == (("00", "02"), ("01",))
    assert contradictions(to_json(answer)) == []
