"""Which remedies are tried and proposed, with scripted losses and without training."""

from dataclasses import dataclass, field, replace

import pytest
from scripted_replays import LEVEL, RISEN, START, ScriptedReplayer, confirmation, loss_of, window

from tasks.diagnose.causes import Candidate, remedies
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof
from tasks.diagnose.remedy_search import best_first, worth_proposing
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.treatment import treat, worth_both
from tasks.settings import Settings
from tests.plain_findings import MIXED_UP, WRONG_LABELS, a_client
from tests.plain_findings import findings as plain_findings

HEALTHY = Findings((), 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, (), (), {}, 0.0)
RATES = [one.says for one in remedies("client_learning_rate", Settings(), (), HEALTHY)]
ROBUST = [one.says for one in remedies("faulty_clients", Settings(), ("03",), HEALTHY)]
BOTH = {says: f"{RATES[0]}, and {says}" for says in ROBUST}


def proof(cause, *clients, loss="val_loss", change=NO_CHANGE):
    return Proof(Candidate(cause, change, clients), Effect((1.0,)), loss, (), ())


RATE, FAULTY = proof("client_learning_rate"), proof("faulty_clients", "03", loss="train_loss")


def treated(replays, *proven, allowed=1000, findings=HEALTHY, loss="val_loss", **run):
    trials = Trials(replays, window(loss), 1000)
    for one in proven:
        assert one.candidate.change is NO_CHANGE or trials.run(one.candidate.change)
    return treat(trials, proven, Settings(), findings, confirmation(replays, allowed, **run))


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
    assert [says for says, seed in replays.ran if seed == 0] == ROBUST
    assert [one.remedy.says for one in tried] == [ROBUST[2], ROBUST[0], ROBUST[1], ROBUST[3]]
    assert [one.recovers for one in tried] == pytest.approx([0.9, 0.7, 0.0, 0.0])
    assert tried[0].loss == pytest.approx(loss_of(0.9))
    assert {one.against for one in tried} == {("faulty_clients",)}
    assert {cause: one.remedy.says for cause, one in proposed.items()} == {"faulty_clients": ROBUST[2]}


def test_no_further_remedy_is_tried_where_one_takes_everything_back():
    # The geometric median is the first one, and keeps the client.
    replays = ScriptedReplayer(dict.fromkeys(ROBUST, 1.0))
    tried, proposed = treated(replays, proof("faulty_clients", "03"))
    assert [one.remedy.says for one in tried] == ROBUST[:1]
    assert proposed["faulty_clients"].confirmed


def test_the_winner_is_replayed_from_round_1_to_the_end_with_three_seeds():
    replays = ScriptedReplayer({ROBUST[0]: 1.0})
    tried, _ = treated(replays, proof("faulty_clients", "03"))
    ending = tried[0].ending
    assert replays.ran_from_start == [ROBUST[0]]
    assert (ending.from_round, ending.last, len(ending.by_seed)) == (0, 30, 3)
    assert (ending.hold_out, ending.unchanged, ending.logged) == (pytest.approx(LEVEL), pytest.approx(RISEN), True)
    assert [seed for says, seed in replays.ran if says == ROBUST[0]] == [0, 1, 2]


def test_a_remedy_that_only_postpones_the_rise_is_not_proposed():
    # The first rate takes everything back up to round 19 and ends like the run. The second one lasts.
    replays = ScriptedReplayer({RATES[0]: 1.0, RATES[1]: 0.9}, late={RATES[0]: -0.1})
    tried, proposed = treated(replays, RATE)
    # Only the one that holds from the checkpoint to the end is also replayed from round 1.
    assert replays.ran_from_start == RATES[1:2]
    assert proposed["client_learning_rate"].remedy.says == RATES[1]
    postponed = {one.remedy.says: one for one in tried}[RATES[0]]
    assert not postponed.confirmed
    # Four of 15 rounds at a share of 1, and 11 at -0.1.
    assert postponed.recovers == pytest.approx((4 * 1 - 11 * 0.1) / 15)
    assert tried[-1] is postponed


def test_nothing_is_proposed_where_every_remedy_ends_worse_than_the_run():
    replays = ScriptedReplayer(dict.fromkeys(RATES, 0.9), late=dict.fromkeys(RATES, -0.1))
    tried, proposed = treated(replays, RATE)
    assert proposed == {}
    assert [one.ending.from_round for one in tried] == [START] * len(RATES)
    assert replays.ran_from_start == []


def test_a_remedy_that_ends_worse_from_round_1_is_not_proposed():
    # A client whose data were sound up to the rise is missed only if it is left out from round 1 on.
    leave_out = next(says for says in ROBUST if "leave" in says)
    replays = ScriptedReplayer({ROBUST[1]: 0.75, leave_out: 1.0}, restarted={leave_out: -0.1})
    tried, proposed = treated(replays, proof("faulty_clients", "03"))
    assert replays.ran_from_start == [leave_out, ROBUST[1]]
    assert proposed["faulty_clients"].remedy.says == ROBUST[1]
    assert (tried[-1].remedy.says, tried[-1].confirmed) == (leave_out, False)
    assert tried[-1].recovers == pytest.approx(-0.1)


@pytest.mark.parametrize(("share", "first"), [(0.85, ROBUST[1]), (0.75, "leave out client 03")])
def test_a_remedy_that_keeps_the_client_is_confirmed_before_one_that_leaves_it_out(share, first):
    # At most a fifth of the rise less counts as nearly as good.
    replays = ScriptedReplayer({ROBUST[1]: share, "leave out client 03": 1.0})
    treated(replays, proof("faulty_clients", "03"))
    assert replays.ran_from_start[0] == first


def test_no_remedy_is_proposed_that_was_tested_less_than_one_that_failed():
    # Two short replays of 4 rounds, 11 more rounds of the first to the end, and 30 rounds from round 1: 49 rounds.
    shares = {RATES[0]: 0.9, RATES[1]: 0.8}
    fails = ScriptedReplayer(shares, restarted={RATES[0]: -0.1})
    tried, proposed = treated(fails, RATE, allowed=49)
    assert proposed == {}
    assert [(one.remedy.says, one.ending is None) for one in tried] == [(RATES[1], True), (RATES[0], False)]
    # With a third short replay and 11 rounds more, the second one could be replayed to the end, but not from round 1,
    # where the first one failed. So it is not.
    fails = ScriptedReplayer(shares, restarted={RATES[0]: -0.1})
    tried, proposed = treated(fails, RATE, allowed=64)
    assert (tried[0].remedy.says, tried[0].ending, proposed) == (RATES[1], None, {})
    # If the first one fails from the checkpoint already, the rounds are enough to replay the second one from round 1.
    fails = ScriptedReplayer(shares, late={RATES[0]: -0.1})
    tried, proposed = treated(fails, RATE, allowed=64)
    assert (tried[0].ending.from_round, proposed["client_learning_rate"]) == (0, tried[0])


WITHOUT = Change("without 03")
ONLY_ITS_LOSS = proof("faulty_clients", "03", loss="train_loss", change=WITHOUT)


@pytest.mark.parametrize(("share", "recovers"), [(0.6, 0.75), (0.0, 0.0), (-0.08, -0.1), (1.2, 1.0)])
def test_of_a_client_at_fault_whose_loss_rose_its_cost_to_the_hold_out_data_counts(share, recovers):
    # Without the client, the hold-out loss falls by 0.8 ln 4. With the geometric median, the client keeps its own loss.
    replays = ScriptedReplayer(
        {WITHOUT.says: 0.8, ROBUST[0]: share}, train={WITHOUT.says: 1.0, ROBUST[0]: -0.3}, refused=ROBUST[1:]
    )
    # 14 rounds are enough for the short replay only, so it is proposed without confirmation.
    tried, proposed = treated(replays, ONLY_ITS_LOSS, allowed=14, loss="train_loss", hidden=("03",))
    assert tried[0].recovers == pytest.approx(recovers)
    assert bool(proposed) is (recovers > 0)


def test_a_client_at_fault_that_costs_nothing_leaves_nothing_to_take_back():
    replays = ScriptedReplayer({WITHOUT.says: 0.0, **dict.fromkeys(ROBUST, 0.5)}, train={WITHOUT.says: 1.0})
    tried, proposed = treated(replays, ONLY_ITS_LOSS, loss="train_loss", hidden=("03",))
    assert {one.recovers for one in tried} == {0.0}
    assert proposed == {}


@pytest.mark.parametrize(("late", "proposed"), [(1.0, False), (1.01, True)])
def test_leaving_out_the_client_whose_loss_rose_must_lower_the_hold_out_loss_at_the_end(late, proposed):
    # The run's hold-out loss stays at LEVEL, the loss of a share of 1. The rise of the client's own loss is gone in any
    # case, because it takes no part.
    leave_out = next(says for says in ROBUST if "leave" in says)
    others = [says for says in ROBUST if says != leave_out]
    shares = {NO_CHANGE.says: 1.0, WITHOUT.says: 1.02, leave_out: 1.02}
    replays = ScriptedReplayer(shares, train={}, late={leave_out: late}, refused=others)
    trials, to_the_end = Trials(replays, window("train_loss"), 1000), confirmation(replays, hidden=("03",))
    flat = dict.fromkeys(to_the_end.incident.hold_out, LEVEL)
    to_the_end.incident = replace(to_the_end.incident, hold_out=flat)
    assert trials.run(WITHOUT)
    _, chosen = treat(trials, [ONLY_ITS_LOSS], Settings(), HEALTHY, to_the_end)
    assert bool(chosen) is proposed


def test_a_remedy_loses_if_other_seeds_end_worse_on_average():
    # ln(remedy / run) is -0.2 ln 4 for the run's own seed, and 0.15 ln 4 for the two others: 0.03 ln 4 on average.
    replays = ScriptedReplayer({RATES[0]: 1.0}, late={RATES[0]: (1.0, -0.6, -0.6)})
    tried, proposed = treated(replays, RATE)
    assert proposed == {}
    assert [one.confirmed for one in tried if one.ending] == [False]


def test_a_remedy_at_chance_is_not_proposed():
    # Two labels: chance is ln 2 = 0.69. A share of 0.3 is a loss of 0.3 * 4**0.7 = 0.79, below the run's 1.2.
    _, proposed = treated(ScriptedReplayer({RATES[0]: 0.3}), RATE)
    assert proposed == {}
    # 0.3 * 4**0.5 = 0.6
    _, proposed = treated(ScriptedReplayer({RATES[0]: 0.5}), RATE)
    assert proposed["client_learning_rate"].confirmed


def test_without_rounds_to_the_end_a_remedy_is_proposed_but_not_confirmed():
    replays = ScriptedReplayer({RATES[0]: 0.9})
    tried, proposed = treated(replays, RATE, allowed=14)
    assert replays.ran_from_start == []
    assert proposed["client_learning_rate"] is tried[0]
    assert not tried[0].confirmed
    assert tried[0].recovers == pytest.approx(0.9)


def test_remedies_never_take_more_rounds_than_they_may():
    for allowed in (15, 20, 34, 50, 64, 90):
        replays = ScriptedReplayer({RATES[0]: 0.9, RATES[1]: 0.8})
        trials = Trials(replays, window(), 1000)
        to_the_end = confirmation(replays, allowed)
        treat(trials, [RATE], Settings(), HEALTHY, to_the_end)
        assert 0 < to_the_end.spent <= allowed


def test_a_model_that_no_longer_moves_is_no_remedy():
    # The loss of the replays' first model is LEVEL, and the rate leaves it there: nothing is learned.
    _, proposed = treated(ScriptedReplayer({RATES[0]: 1.0}), RATE, allowed=14)
    assert proposed == {}


def test_a_correction_of_labels_is_advice_and_proposed_only_if_no_setting_helps():
    mixed_up = plain_findings(a_client("03", memory=MIXED_UP, **WRONG_LABELS))
    says = remedies("faulty_clients", Settings(), ("03",), mixed_up)[-1].says
    faulty = proof("faulty_clients", "03")
    tried, proposed = treated(ScriptedReplayer({says: 1.0, ROBUST[0]: 0.8}), faulty, findings=mixed_up)
    assert proposed["faulty_clients"].remedy.says == ROBUST[0]
    assert {one.remedy.says: one.recovers for one in tried}[says] == pytest.approx(1.0)
    _, proposed = treated(ScriptedReplayer({says: 1.0}), faulty, findings=mixed_up)
    assert (proposed["faulty_clients"].remedy.says, proposed["faulty_clients"].remedy.settings) == (says, {})
    assert proposed["faulty_clients"].confirmed


def test_remedies_that_the_settings_refuse_are_passed_over():
    replays = ScriptedReplayer({ROBUST[0]: 0.7, ROBUST[1]: 0.9}, refused=[ROBUST[1]])
    tried, proposed = treated(replays, proof("faulty_clients", "03"))
    assert ROBUST[1] not in [one.remedy.says for one in tried]
    assert proposed["faulty_clients"].remedy.says == ROBUST[0]


def test_remedies_of_a_second_cause_are_tried_beside_the_best_of_the_first():
    # The rate removes val_loss's rise. Multi-Krum in addition removes train_loss's rise.
    val = {RATES[0]: 0.99, RATES[1]: 0.5, **dict.fromkeys(BOTH.values(), 0.99)}
    replays = ScriptedReplayer(val, train={BOTH["aggregate with multi-Krum"]: 0.99})
    tried, proposed = treated(replays, RATE, FAULTY)
    assert [says for says, seed in replays.ran if seed == 0] == [*RATES, *BOTH.values()]
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
    aligned = {"features standardised by each client": features_aligned}
    assert [one.surgery for one in proposed] == [aligned, {}, {}]
    assert [(change.says, change.settings) for change in replays.begun] == [
        (one.says, one.settings) for one in proposed
    ]
    assert [change.surgery for change in replays.begun] == [one.surgery for one in proposed]


def test_remedies_of_overfitting_end_where_the_replays_begin():
    replays = Recorder()
    treated(replays, proof("overfitting"))
    proposed = remedies("overfitting", Settings(), (), HEALTHY, START)
    assert proposed != remedies("overfitting", Settings(), (), HEALTHY, START - 1)
    # It takes everything back, so nothing else is tried. Then come its other seeds.
    assert [change.settings for change in replays.begun] == [proposed[0].settings] * 3


def test_a_single_failure_that_stays_is_not_taken_back():
    says = [one.says for one in remedies("non_finite", Settings(), ("05",), HEALTHY)]
    replays = ScriptedReplayer(broken_from=dict.fromkeys(["", *says], 18), num_clients=1)
    assert {one.recovers for one in treated(replays, proof("non_finite", "05"))[0]} == {0.0}


def test_remedies_of_failures_are_measured_by_failed_clients():
    says = [one.says for one in remedies("non_finite", Settings(), ("05",), HEALTHY)]
    replays = ScriptedReplayer({says[0]: 1.0, says[1]: 1.0}, failed={"": 4, **dict.fromkeys(says, 4), says[0]: 1})
    tried, proposed = treated(replays, proof("non_finite", "05"))
    assert {one.remedy.says: one.recovers for one in tried} == {says[0]: 0.75} | dict.fromkeys(says[1:], 0.0)
    assert proposed["non_finite"].remedy.says == says[0]
    assert tried[1].loss == pytest.approx(LEVEL)
    # Without failures in the window, nothing can be removed, and nothing is divided by 0.
    assert treated(ScriptedReplayer(), proof("non_finite", "05"))[0][0].recovers == 1.0


def test_the_hold_out_loss_decides_where_a_single_clients_loss_rose():
    # Leaving the client out takes its own loss out of the mean, and costs what only its data showed to the model.
    leave_out = next(
        one.says for one in remedies("faulty_clients", Settings(), ("03",), HEALTHY) if "leave" in one.says
    )
    faulty = proof("faulty_clients", "03", loss="train_loss")
    replays = ScriptedReplayer({leave_out: 0.9}, late={leave_out: -0.2})
    tried, proposed = treated(replays, faulty, hidden=("03",))
    assert proposed == {}
    assert not tried[-1].confirmed
    # The geometric median lowers the hold-out loss by 0.5 ln 4, and client 03's own loss not at all.
    replays = ScriptedReplayer(
        {ROBUST[0]: 0.5, leave_out: 0.9}, train={leave_out: 0.9}, late={ROBUST[0]: 0.9, leave_out: -0.2}
    )
    _, proposed = treated(replays, faulty, hidden=("03",))
    assert proposed["faulty_clients"].remedy.says == ROBUST[0]


def test_a_remedy_that_leaves_part_of_the_rise_is_compared_with_the_next_one():
    # Both take everything back at first. At the end the first one has taken back (4 + 11 * 0.5) / 15 = 0.63.
    replays = ScriptedReplayer(dict.fromkeys(ROBUST[:2], 1.0), late={ROBUST[0]: 0.5})
    _, proposed = treated(replays, proof("faulty_clients", "03"))
    assert proposed["faulty_clients"].remedy.says == ROBUST[1]
    # If nothing is better, it is proposed, with what it takes back up to the end.
    replays = ScriptedReplayer({ROBUST[0]: 1.0}, late={ROBUST[0]: 0.5})
    _, proposed = treated(replays, proof("faulty_clients", "03"))
    assert proposed["faulty_clients"].remedy.says == ROBUST[0]
    assert proposed["faulty_clients"].recovers == pytest.approx(9.5 / 15)


def test_remedies_of_a_second_cause_are_tried_beside_the_highest_rate_that_is_nearly_as_good():
    # 0.85 is less than a fifth below 0.99: the lower rate only learns more slowly.
    leave_out = next(says for says in ROBUST if "leave" in says)
    both = f"{RATES[0]}, and {leave_out}"
    replays = ScriptedReplayer({RATES[0]: 0.85, RATES[1]: 0.99, both: 1.0}, train={both: 1.0})
    _, proposed = treated(replays, RATE, FAULTY)
    assert proposed["faulty_clients"].remedy.says == both
    # 0.75 is more than a fifth below it.
    both = f"{RATES[1]}, and {leave_out}"
    replays = ScriptedReplayer({RATES[0]: 0.75, RATES[1]: 0.99, both: 1.0}, train={both: 1.0})
    _, proposed = treated(replays, RATE, FAULTY)
    assert proposed["faulty_clients"].remedy.says == both


def test_remedies_of_a_second_cause_are_tried_beside_the_lowest_loss_where_the_first_takes_nothing_back_alone():
    # Alone, every rate is worse than doing nothing: -0.2 and -0.1 are less than a fifth apart.
    leave_out = next(says for says in ROBUST if "leave" in says)
    both = f"{RATES[1]}, and {leave_out}"
    alone = {**dict.fromkeys(RATES, -0.5), RATES[0]: -0.2, RATES[1]: -0.1}
    _, proposed = treated(ScriptedReplayer({**alone, both: 1.0}), RATE, FAULTY)
    assert {cause: one.remedy.says for cause, one in proposed.items()} == dict.fromkeys(
        ("client_learning_rate", "faulty_clients"), both
    )
