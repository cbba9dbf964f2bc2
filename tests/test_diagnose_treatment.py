"""Which remedies are tried and proposed, with scripted losses and without training."""

from dataclasses import dataclass, field

import pytest
from scripted_replays import LEVEL, START, ScriptedReplayer, loss_of, window

from tasks.diagnose.causes import Candidate, remedies
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.treatment import best_first, treat, worth_both, worth_proposing
from tasks.settings import Settings

HEALTHY = Findings((), 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, (), (), {}, 0.0)
RATES = [one.says for one in remedies("client_learning_rate", Settings(), (), HEALTHY)]
ROBUST = [one.says for one in remedies("faulty_clients", Settings(), ("03",), HEALTHY)]
BOTH = {says: f"{RATES[0]}, and {says}" for says in ROBUST}


def proof(cause, *clients, loss="val_loss"):
    return Proof(Candidate(cause, NO_CHANGE, clients), Effect((1.0,)), loss, (), ())


RATE, FAULTY = proof("client_learning_rate"), proof("faulty_clients", "03", loss="train_loss")


def treated(replays, *proven):
    return treat(Trials(replays, window(), 1000), proven, Settings(), HEALTHY)


def test_remedies_are_ranked_by_hundredths_and_then_by_what_fits():
    assert best_first([0.2, 0.9, 0.5]) == [1, 2, 0]
    assert best_first([0.500, 0.504, 0.9]) == [2, 0, 1]
    assert best_first([]) == []


def test_a_remedy_of_two_causes_must_take_clearly_more_back():
    assert worth_both(0.55, 0.5)
    assert not worth_both(0.54, 0.5)
    assert worth_both(0.0, None)
    assert worth_proposing(0.006)
    assert not worth_proposing(0.004)


def test_remedies_of_one_cause_are_tried_alone_and_the_best_is_proposed():
    replays = ScriptedReplayer({ROBUST[0]: 0.7, ROBUST[2]: 0.9})
    tried, proposed = treated(replays, proof("faulty_clients", "03"))
    assert [says for says, _ in replays.ran] == ROBUST
    assert [one.remedy.says for one in tried] == [ROBUST[2], ROBUST[0], ROBUST[1], ROBUST[3]]
    assert [one.recovers for one in tried] == pytest.approx([0.9, 0.7, 0.0, 0.0])
    assert tried[0].loss == pytest.approx(loss_of(0.9))
    assert {one.against for one in tried} == {("faulty_clients",)}
    assert {cause: one.remedy.says for cause, one in proposed.items()} == {"faulty_clients": ROBUST[2]}


def test_remedies_that_the_settings_refuse_are_passed_over():
    replays = ScriptedReplayer({ROBUST[0]: 0.7, ROBUST[1]: 0.9}, refused=[ROBUST[1]])
    tried, proposed = treated(replays, proof("faulty_clients", "03"))
    assert ROBUST[1] not in [one.remedy.says for one in tried]
    assert proposed["faulty_clients"].remedy.says == ROBUST[0]


def test_remedies_of_a_second_cause_are_tried_beside_the_best_of_the_first():
    # The rate removes all of val_loss's rise. Multi-Krum in addition removes all of train_loss's rise.
    val = {RATES[0]: 1.0, RATES[1]: 0.5, **dict.fromkeys(BOTH.values(), 1.0)}
    replays = ScriptedReplayer(val, train={BOTH["aggregate with multi-Krum"]: 1.0})
    tried, proposed = treated(replays, RATE, FAULTY)
    assert [says for says, _ in replays.ran] == [*RATES, *BOTH.values()]
    assert sorted(one.remedy.says for one in tried) == sorted([*RATES, *BOTH.values()])
    assert [one.recovers for one in tried] == sorted((one.recovers for one in tried), reverse=True)
    # The reported share is the share of the first cause's loss.
    assert {one.remedy.says: one.recovers for one in tried}[RATES[1]] == pytest.approx(0.5)
    assert {cause: one.remedy.says for cause, one in proposed.items()} == dict.fromkeys(
        ("client_learning_rate", "faulty_clients"), BOTH["aggregate with multi-Krum"]
    )
    assert proposed["faulty_clients"].against == ("client_learning_rate", "faulty_clients")


@pytest.mark.parametrize(("more", "both"), [(0.12, True), (0.08, False)])
def test_both_are_proposed_only_for_a_twentieth_more(more, both):
    # The mean over the two losses gains half of what train_loss gains.
    val = {RATES[0]: 1.0, **dict.fromkeys(BOTH.values(), 1.0)}
    _, proposed = treated(ScriptedReplayer(val, train={BOTH["aggregate with multi-Krum"]: more}), RATE, FAULTY)
    assert ("faulty_clients" in proposed) is both
    assert proposed["client_learning_rate"].remedy.says == (BOTH["aggregate with multi-Krum"] if both else RATES[0])


def test_what_takes_nothing_back_is_not_proposed():
    tried, proposed = treated(ScriptedReplayer(), RATE)
    assert len(tried) == len(RATES)
    assert proposed == {}
    assert treated(ScriptedReplayer()) == ((), {})


def test_remedies_of_a_second_cause_are_tried_alone_where_the_first_has_none():
    tried, proposed = treated(ScriptedReplayer({ROBUST[0]: 0.8}, refused=RATES), RATE, proof("faulty_clients", "03"))
    assert tried[0].against == ("faulty_clients",)
    assert {cause: one.remedy.says for cause, one in proposed.items()} == {"faulty_clients": ROBUST[0]}


def test_a_single_remedy_of_a_second_cause_is_enough():
    replays = ScriptedReplayer({ROBUST[0]: 0.8}, refused=[*RATES, *ROBUST[1:]])
    tried, proposed = treated(replays, RATE, proof("faulty_clients", "03"))
    assert [one.remedy.says for one in tried] == [ROBUST[0]]
    assert proposed == {"faulty_clients": tried[0]}


@dataclass
class Recorder(ScriptedReplayer):
    """A stand-in that records the changes that were begun."""

    begun: list[Change] = field(default_factory=list)

    def begin(self, change, seed):
        self.begun.append(change)
        return super().begin(change, seed)


def test_a_remedy_is_replayed_with_its_settings_and_its_surgery():
    replays = Recorder()
    treated(replays, proof("feature_shift", "03"))
    proposed = remedies("feature_shift", Settings(), ("03",), HEALTHY)
    assert {one.aligned for one in proposed} == {True, False}
    assert [(change.says, change.settings) for change in replays.begun] == [
        (one.says, one.settings) for one in proposed
    ]
    aligned = {"features standardised by each client": features_aligned}
    assert [change.surgery for change in replays.begun] == [aligned if one.aligned else {} for one in proposed]


def test_remedies_of_overfitting_end_where_the_replays_begin():
    replays = Recorder()
    treated(replays, proof("overfitting"))
    proposed = remedies("overfitting", Settings(), (), HEALTHY, START)
    assert proposed != remedies("overfitting", Settings(), (), HEALTHY, START - 1)
    assert [change.settings for change in replays.begun] == [one.settings for one in proposed]


def test_a_single_failure_that_stays_is_not_taken_back():
    says = [one.says for one in remedies("non_finite", Settings(), ("05",), HEALTHY)]
    replays = ScriptedReplayer(broken_from=dict.fromkeys(["", *says], 18), num_clients=1)
    assert {one.recovers for one in treated(replays, proof("non_finite", "05"))[0]} == {0.0}


def test_remedies_of_failures_are_measured_by_failed_clients():
    says = [one.says for one in remedies("non_finite", Settings(), ("05",), HEALTHY)]
    replays = ScriptedReplayer({says[1]: 1.0}, failed={"": 4, **dict.fromkeys(says, 4), says[0]: 1})
    tried, proposed = treated(replays, proof("non_finite", "05"))
    assert {one.remedy.says: one.recovers for one in tried} == {says[0]: 0.75} | dict.fromkeys(says[1:], 0.0)
    assert proposed["non_finite"].remedy.says == says[0]
    assert tried[1].loss == pytest.approx(LEVEL)
    # Without failures in the window, nothing can be removed, and nothing is divided by 0.
    assert treated(ScriptedReplayer(), proof("non_finite", "05"))[0][0].recovers == 1.0
