"""The tournament with scripted losses: which replays run, in which order, and which causes are claimed."""

import pytest
from scripted_replays import RISEN, ScriptedReplayer, loss_of, window

from tasks.diagnose.causes import CAUSES, Candidate
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.tournament import (
    MODEL_IMPROVES,
    NOT_AGAIN,
    NOT_CONFIRMED,
    NOT_NEEDED,
    ONE_SEED,
    Tournament,
    replay_all,
    without_failures,
)

CHANGES = {
    "faulty_clients": "no 03",
    "feature_shift": "aligned",
    "server_learning_rate": "plain",
    "label_skew": "even",
    "quantity_skew": "equal",
    "client_learning_rate": "slow",
    "overfitting": "stopped",
    "non_finite": "no 05",
}


def candidates(*causes, instead=None):
    other = None if instead is None else Change(instead)
    return [Candidate(cause, Change(CHANGES[cause]), instead=other) for cause in causes]


class Played:
    """A tournament from the first replay to the verdict."""

    def __init__(self, replays, *causes, loss="val_loss", allowed=1000, instead=None, refuted=""):
        trials = Trials(replays, window(loss), allowed)
        proposed = candidates(*causes, instead=instead)
        self.failures = without_failures(trials, proposed)
        entered = [self.failures.candidate] if self.failures else []
        self.entered, self.left = replay_all(trials, proposed, entered)
        tournament = Tournament(trials, self.entered, tuple(CAUSES), lambda one: refuted * (one.cause == "overfitting"))
        self.proven = tournament.decide()
        self.ruled_out, self.open = tournament.unproven(self.proven)
        self.causes = [proof.candidate.cause for proof in self.proven]
        self.changes = [proof.candidate.change.says for proof in self.proven]
        self.ran, self.spent = replays.ran, replays.spent


def test_one_cause_is_confirmed_by_three_seeds():
    played = Played(ScriptedReplayer({"no 03": (0.9, 0.8, 1.0)}), "faulty_clients", "client_learning_rate")
    assert played.causes == ["faulty_clients"]
    assert played.ran == [("no 03", 0), ("slow", 0), ("no 03 and slow", 0), ("no 03", 1), ("no 03", 2)]
    (proof,) = played.proven
    assert proof.effect.by_seed == pytest.approx((0.9, 0.8, 1.0))
    assert (proof.loss, len(proof.without), len(proof.with_change)) == ("val_loss", 4, 4)


def test_a_candidate_that_promises_nothing_ends_halfway():
    played = Played(ScriptedReplayer({"no 03": 0.09}), "faulty_clients")
    assert played.proven == []
    assert played.spent == 4 + 2  # rounds 16 and 17 of 16 to 19
    assert [one.cause for one in played.entered] == ["faulty_clients"]


def test_the_first_candidate_is_compared_with_no_other():
    assert Played(ScriptedReplayer({"even": 0.3}), "label_skew").spent == 4 + 4


def test_one_without_evidence_ends_halfway_two_margins_below_the_best():
    # Nothing changed, the first candidate, a half or the whole replay of the second, and two more seeds of the first.
    shares = {"no 03": 0.9, "even": 0.45}
    assert Played(ScriptedReplayer(shares), "faulty_clients", "label_skew").spent == 4 + 4 + 2 + 16
    shares["even"] = 0.55
    assert Played(ScriptedReplayer(shares), "faulty_clients", "label_skew").spent == 4 + 4 + 4 + 16


def test_the_other_change_is_tried_where_the_first_removes_less_than_half():
    played = Played(ScriptedReplayer({"no 03": 0.2, "labels back": 1.0}), "faulty_clients", instead="labels back")
    assert played.changes == ["labels back"]
    assert played.causes == ["faulty_clients"]
    assert len(played.entered) == 2
    enough = ScriptedReplayer({"no 03": 0.6})
    assert Played(enough, "faulty_clients", instead="labels back").changes == ["no 03"]
    assert ("labels back", 0) not in enough.ran
    half = ScriptedReplayer({"no 03": 0.5})
    assert Played(half, "faulty_clients", instead="labels back").changes == ["no 03"]
    assert ("labels back", 0) not in half.ran
    refused = ScriptedReplayer({"labels back": 1.0}, refused=["no 03"])
    assert Played(refused, "faulty_clients", instead="labels back").changes == ["labels back"]


def test_a_cause_that_other_seeds_do_not_confirm_gives_way_to_the_next():
    shares = {"no 03": (0.9, 0.0, 0.0), "even": 0.8}
    assert Played(ScriptedReplayer(shares), "faulty_clients", "label_skew").causes == ["label_skew"]
    # Not if the budget is spent: 4 rounds with nothing changed, 8 for two candidates, 8 for a second seed.
    assert Played(ScriptedReplayer(shares), "faulty_clients", "label_skew", allowed=20).causes == []


def test_the_next_cause_is_looked_at_while_two_replays_are_affordable():
    # 20 rounds are spent when two seeds refute the first cause: 12 with the run's own seed, 8 with another.
    shares = {"no 03": (0.9, 0.0, 0.0), "even": 0.8}
    for allowed, causes in ((27, []), (28, ["label_skew"])):
        replays = ScriptedReplayer(shares)
        assert Played(replays, "faulty_clients", "label_skew", allowed=allowed).causes == causes, replays.ran


def test_seeds_that_disagree_are_settled_by_a_third_within_the_budget():
    # Two seeds take 16 rounds. A third seed and its replay with nothing changed take 8.
    for allowed, num_seeds, causes in ((23, 2, []), (24, 3, ["faulty_clients"])):
        played = Played(ScriptedReplayer({"no 03": (1.0, 0.5, 1.0)}), "faulty_clients", allowed=allowed)
        assert (len(played.ran), played.causes, played.spent) == (num_seeds, causes, 8 * num_seeds)
    agreeing = {"no 03": (1.0, 0.9, 1.0)}
    assert Played(ScriptedReplayer(agreeing), "faulty_clients", allowed=23).causes == ["faulty_clients"]


def states(played):
    """(cause, share that is shown, why) of the candidates that are not proven."""
    return [
        [(one.candidate.cause, round(one.effect.mean, 2) if one.effect.by_seed else None, one.why) for one in part]
        for part in (played.ruled_out, played.open)
    ]


def test_a_candidate_whose_confirmation_the_budget_does_not_afford_is_not_finished():
    played = Played(ScriptedReplayer({"no 03": 0.9}), "faulty_clients", allowed=15)
    assert (played.entered, [one.cause for one in played.left]) == ([], ["faulty_clients"])
    assert played.spent == 4  # not even the replay, because nothing could confirm it
    # 16 rounds are enough for the replay and one more seed of a single candidate, but not for those of two.
    shares = {"no 03": 0.9, "even": 0.8}
    played = Played(ScriptedReplayer(shares), "faulty_clients", "label_skew", allowed=19)
    assert ([one.cause for one in played.left], played.causes) == (["label_skew"], ["faulty_clients"])
    shares["no 03"] = (0.9, 0.0)
    played = Played(ScriptedReplayer(shares), "faulty_clients", "label_skew", allowed=20)
    assert states(played) == [[("faulty_clients", 0.45, "")], [("label_skew", 0.8, ONE_SEED)]]


def test_seeds_that_disagree_leave_a_cause_open_with_the_numbers_of_all_seeds():
    played = Played(ScriptedReplayer({"no 03": (1.0, 0.2, 0.9)}), "faulty_clients")
    assert states(played) == [[], [("faulty_clients", 0.7, NOT_CONFIRMED)]]


def test_a_seed_in_which_the_loss_does_not_rise_gives_way_to_another_if_there_is_evidence():
    # Nothing changed: the loss stays at its level in the second and the third of five seeds.
    quiet = {NO_CHANGE.says: (0.0, 1.0, 1.0, 0.0, 0.0)}
    played = Played(ScriptedReplayer({"no 03": 0.9, **quiet}), "faulty_clients")
    assert played.causes == ["faulty_clients"]
    assert played.ran == [("no 03", seed) for seed in range(4)]
    (proof,) = played.proven
    assert proof.effect.by_seed == pytest.approx((0.9, 0.9))
    # The losses that are shown are those of the two seeds that say something.
    assert proof.without == pytest.approx((RISEN,) * 4)
    assert proof.with_change == pytest.approx((loss_of(0.9),) * 4)
    # A skew has no evidence of its own, so no seed is looked for that suits it.
    played = Played(ScriptedReplayer({"even": 0.9, **quiet}), "label_skew")
    assert (played.causes, states(played)) == ([], [[], [("label_skew", 0.9, NOT_AGAIN)]])
    assert len(played.ran) == 3


def test_five_seeds_are_the_most():
    quiet = {NO_CHANGE.says: (0.0, 1.0, 1.0, 1.0, 1.0, 0.0)}
    played = Played(ScriptedReplayer({"no 03": 0.9, **quiet}), "faulty_clients")
    assert (played.causes, states(played)) == ([], [[], [("faulty_clients", 0.9, NOT_AGAIN)]])
    assert len(played.ran) == 5


def test_a_cause_beside_a_proven_one_is_not_ruled_out_if_its_removal_removes_the_rise():
    played = Played(
        ScriptedReplayer({"no 03": 0.9, "even": 0.9, "equal": 0.3}), "faulty_clients", "label_skew", "quantity_skew"
    )
    assert played.causes == ["faulty_clients"]
    assert states(played) == [[("quantity_skew", 0.3, "")], [("label_skew", 0.9, NOT_NEEDED)]]


def test_overfitting_that_its_own_test_refutes_is_ruled_out_without_a_share():
    played = Played(ScriptedReplayer({"stopped": 1.0}), "overfitting", refuted="stays low")
    assert (played.causes, states(played)) == ([], [[("overfitting", None, "stays low")], []])
    assert played.ran == [("stopped", 0)]  # no other seed is spent on it


def test_a_second_cause_beyond_the_first_is_proven_by_both_changes():
    shares = {"slow": 0.6, "no 03": 0.3, "slow and no 03": 1.0}
    played = Played(ScriptedReplayer(shares), "faulty_clients", "client_learning_rate")
    assert played.causes == ["client_learning_rate", "faulty_clients"]
    assert played.changes == ["slow", "slow and no 03"]
    assert played.proven[1].effect.by_seed == (pytest.approx(1.0),)
    assert [proof.loss for proof in played.proven] == ["val_loss", "val_loss"]


def test_a_second_cause_that_ends_the_other_loss_is_proven_by_that():
    # Without the first cause, half of train_loss's rise is left. Without the second, more than half of this goes away.
    replays = ScriptedReplayer({"slow": 1.0, "slow and no 03": 1.0}, train={"slow": 0.5, "slow and no 03": 0.8})
    played = Played(replays, "faulty_clients", "client_learning_rate")
    assert played.causes == ["client_learning_rate", "faulty_clients"]
    assert [proof.loss for proof in played.proven] == ["val_loss", "train_loss"]
    assert played.proven[1].effect.by_seed == (pytest.approx(0.8),)  # of train_loss


@pytest.mark.parametrize(
    ("shares", "causes"),
    [
        ({"even": 0.6, "slow": 0.9}, ["client_learning_rate"]),
        # The rate alone removes the rise, but it adds nothing to the first cause.
        ({"no 03": 0.9, "slow": 0.8, "no 03 and slow": 0.9}, ["faulty_clients", "client_learning_rate"]),
    ],
)
def test_a_lower_rate_is_a_cause_like_others(shares, causes):
    played = Played(ScriptedReplayer(shares), "faulty_clients", "label_skew", "client_learning_rate")
    assert played.causes == causes


def test_a_second_cause_that_does_nothing_halfway_is_not_run_on():
    shares = {"slow": 0.9, "no 03": 0.3, "slow and no 03": 0.9}
    played = Played(ScriptedReplayer(shares), "faulty_clients", "client_learning_rate")
    assert played.causes == ["client_learning_rate"]
    # Three replays with nothing changed, two candidates, half a replay of both, two more seeds.
    assert played.spent == 3 * 4 + 2 * 4 + 2 + 2 * 4


@pytest.mark.parametrize(
    ("before", "refused"),
    [("label_skew", ()), ("feature_shift", ()), ("feature_shift", ("slow and aligned",))],
    ids=["never a second", "without effect", "refused"],
)
def test_a_candidate_that_cannot_be_the_second_does_not_end_the_search(before, refused):
    shares = {"slow": 0.6, "no 03": 0.3, "slow and aligned": 0.6, "slow and no 03": 1.0}
    replays = ScriptedReplayer(shares, refused=refused)
    played = Played(replays, before, "faulty_clients", "client_learning_rate")
    assert played.causes == ["client_learning_rate", "faulty_clients"]


def test_a_second_cause_is_not_tried_where_the_budget_is_spent():
    shares = {"slow": 0.6, "no 03": 0.3, "slow and no 03": 1.0}
    for allowed, second in ((24, True), (23, False)):  # 12 rounds are spent; 3 more replays have 4 rounds each
        replays = ScriptedReplayer(shares)
        Played(replays, "faulty_clients", "client_learning_rate", allowed=allowed)
        assert (("slow and no 03", 0) in replays.ran) is second


def test_a_cause_that_removes_the_rise_alone_is_the_second_too():
    shares = {"no 03": 1.0, "aligned": 0.8, "no 03 and aligned": 1.0}
    played = Played(ScriptedReplayer(shares), "faulty_clients", "feature_shift")
    assert (played.causes, played.changes) == (["faulty_clients", "feature_shift"], ["no 03", "aligned"])


def test_changed_data_are_named_before_a_skew():
    shares = {"even": 0.8, "no 03": 0.55, "even and no 03": 1.0}
    played = Played(ScriptedReplayer(shares), "faulty_clients", "label_skew")
    assert played.causes == ["faulty_clients", "label_skew"]
    assert played.changes == ["even and no 03", "even"]


def test_a_lower_rate_is_second_only_where_nothing_evident_is():
    shares = {"even": 0.6, "aligned": 0.3, "slow": 0.4, "even and aligned": 0.8, "even and slow": 1.0}
    causes = ("feature_shift", "label_skew", "client_learning_rate")
    assert Played(ScriptedReplayer(shares), *causes).causes == ["feature_shift", "label_skew"]
    shares["even and aligned"] = 0.6
    assert Played(ScriptedReplayer(shares), *causes).causes == ["label_skew", "client_learning_rate"]


def test_overfitting_is_claimed_where_nothing_else_removes_the_rise():
    shares = {"even": 0.2, "stopped": 1.0}
    assert Played(ScriptedReplayer(shares), "label_skew", "overfitting").causes == ["overfitting"]


def test_overfitting_comes_after_pairs_where_a_cause_has_evidence():
    shares = {"no 03": 0.4, "plain": 0.3, "stopped": 1.0, "no 03 and plain": 0.9}
    causes = ("faulty_clients", "server_learning_rate", "overfitting")
    assert Played(ScriptedReplayer(shares), *causes).causes == ["faulty_clients", "server_learning_rate"]
    # Overfitting is the fallback if no pair removes the rise.
    shares["no 03 and plain"] = 0.5
    assert Played(ScriptedReplayer(shares), *causes).causes == ["overfitting"]
    shares["stopped"] = 0.4
    assert Played(ScriptedReplayer(shares), *causes).causes == []


def test_two_joint_causes_are_each_proven_by_both_changes():
    shares = {"plain": 0.45, "no 03": 0.4, "plain and no 03": (0.9, 0.9, 0.9)}
    played = Played(ScriptedReplayer(shares), "server_learning_rate", "faulty_clients")
    assert played.causes == ["faulty_clients", "server_learning_rate"]  # the more specific cause comes first
    assert played.changes == ["plain and no 03"] * 2
    assert [len(proof.effect.by_seed) for proof in played.proven] == [3, 3]


def test_a_skew_that_the_proof_of_another_cause_needs_is_not_claimed():
    played = Played(
        ScriptedReplayer({"equal": 0.3, "no 03": 0.4, "no 03 and equal": 0.9}), "faulty_clients", "quantity_skew"
    )
    assert (played.causes, played.changes) == (["faulty_clients"], ["no 03 and equal"])
    assert states(played) == [[("quantity_skew", 0.3, "")], []]


def test_a_server_rate_is_no_cause_while_the_model_improves():
    # train_loss rises. At the level of the model before, the hold-out loss did not rise; at 1.2, it did.
    shares = {"plain": 1.0, "no 03": 0.4, "plain and no 03": 1.0}
    for change, causes in (({"": 1.0}, []), ({}, ["server_learning_rate"])):
        replays = ScriptedReplayer({**shares, **change}, train=shares)
        played = Played(replays, "server_learning_rate", loss="train_loss")
        assert played.causes == causes
    # Neither is it one of two causes, nor the second one.
    for share in (0.4, 0.9):
        replays = ScriptedReplayer({"": 1.0}, train={**shares, "no 03": share})
        played = Played(replays, "faulty_clients", "server_learning_rate", loss="train_loss")
        assert played.causes == ["faulty_clients"] * (share > 0.5)
        assert ("server_learning_rate", None, MODEL_IMPROVES) in states(played)[0]


def test_after_a_pair_without_effect_the_next_is_tried():
    shares = {"plain": 0.45, "no 03": 0.4, "aligned": 0.3, "plain and no 03": 0.5, "plain and aligned": 0.9}
    played = Played(ScriptedReplayer(shares), "server_learning_rate", "faulty_clients", "feature_shift")
    assert played.causes == ["feature_shift", "server_learning_rate"]


@pytest.mark.parametrize("both", [0.59, (0.9, 0.0, 0.0)], ids=["too little", "by chance"])
def test_two_causes_that_do_not_surely_remove_the_rise_together_are_none(both):
    shares = {"plain": 0.45, "no 03": 0.4, "plain and no 03": both}
    assert Played(ScriptedReplayer(shares), "server_learning_rate", "faulty_clients").causes == []


def test_failures_are_proven_by_failed_clients_and_by_no_loss():
    replays = ScriptedReplayer({"no 05": 0.0}, failed={"": 2, "no 05": 0})
    trials = Trials(replays, window(), 1000)
    proof = without_failures(trials, candidates("label_skew", "non_finite"))
    assert proof.effect.by_seed == (1.0, 1.0, 1.0)
    assert proof.effect.proven
    assert replays.ran == [("no 05", seed) for seed in range(3)]
    assert without_failures(trials, candidates("label_skew")) is None
    assert without_failures(Trials(ScriptedReplayer(refused=["no 05"]), window(), 9), candidates("non_finite")) is None


def test_failures_are_compared_with_those_of_the_same_seed():
    replays = ScriptedReplayer(failed={"": (2, 4, 2), "no 05": (0, 1, 2)})
    proof = without_failures(Trials(replays, window(), 1000), candidates("non_finite"))
    assert proof.effect.by_seed == (1.0, 0.75, 0.0)


def test_failures_of_a_model_at_chance_are_not_proven():
    # Without client 05 nothing fails, and the loss stays at 1.2.
    for chance, overshoots, share in ((1.3, True, 1.0), (1.1, True, 0.0), (1.1, False, 1.0)):
        trials = Trials(ScriptedReplayer(failed={"": 2, "no 05": 0}), window(), 1000, chance)
        assert without_failures(trials, candidates("non_finite"), overshoots).effect.mean == share


def test_failures_that_are_not_proven_are_a_candidate_among_the_others():
    replays = ScriptedReplayer({"no 05": 0.2, "even": 0.9}, failed={"": 2, "no 05": 2})
    played = Played(replays, "non_finite", "label_skew")
    assert not played.failures.effect.proven
    assert [one.cause for one in played.entered] == ["non_finite", "label_skew"]
    assert played.causes == ["label_skew"]
    assert [says for says, _ in replays.ran].count("no 05") == 3  # it is not replayed again
