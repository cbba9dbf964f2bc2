"""Trials return plain numbers, run nothing twice, and count the spent rounds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scripted_replays import LEVEL, RISEN, ScriptedReplayer, loss_of, window

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.trials import Trials

A, B = Change("a"), Change("b")


def test_losses_are_those_of_the_window_as_far_as_it_was_run():
    trials = Trials(ScriptedReplayer({"a": 0.5}), window(rounds=(16, 18, 19)), 100)
    trials.run(A, until=17)
    assert trials.losses(A) == [pytest.approx(loss_of(0.5))]
    trials.run(A)
    assert trials.losses(A) == [pytest.approx(loss_of(0.5))] * 3
    assert trials.losses(NO_CHANGE, "train_loss") == [RISEN] * 3


def test_shares_falls_and_heights_by_hand():
    replays = ScriptedReplayer({"a": (0.5, 0.7), "b": 1.0}, train={"a": 0.0, "b": 0.5})
    trials = Trials(replays, window(), 100)
    for change, seed in ((A, 0), (A, 1), (B, 0)):
        trials.run(change, seed)
    assert trials.effect(A).by_seed == (pytest.approx(0.5), pytest.approx(0.7))
    assert trials.removed(A) == pytest.approx(0.6)
    assert trials.removed(B, "train_loss") == pytest.approx(0.5)
    # With seed 0, a has the loss 0.6 (half of the rise) and b has 0.3: the fall is ln 2.
    assert trials.fall(A, B, "val_loss") == pytest.approx(np.log(2))
    assert trials.height(NO_CHANGE, "val_loss") == pytest.approx(np.log(4))
    assert trials.height(B, "val_loss") == pytest.approx(0.0)
    unchanged, changed = trials.series(A, "val_loss")
    assert unchanged == (pytest.approx(RISEN),) * 4
    assert changed == (pytest.approx((loss_of(0.5) + loss_of(0.7)) / 2),) * 4


def test_a_loss_whose_level_is_not_known_has_no_height_and_no_fall():
    trials = Trials(ScriptedReplayer({"a": 0.5}), window(train_loss=None), 100)
    trials.run(A)
    assert trials.height(A, "train_loss") == trials.fall(NO_CHANGE, A, "train_loss") == 0.0
    # The share is measured above the level of the loss that rose.
    assert trials.removed(A, "train_loss") == pytest.approx(0.5)


def test_a_seed_whose_loss_does_not_rise_says_nothing():
    trials = Trials(ScriptedReplayer({"": (0.0, 1.0), "a": 0.5}), window(), 100)
    for seed in (0, 1):
        trials.run(A, seed)
    assert trials.effect(A).by_seed == (pytest.approx(0.5),)
    never = Trials(ScriptedReplayer({"": 1.0, "a": 0.5}), window(), 100)
    never.run(A)
    assert never.effect(A).by_seed == ()
    assert never.removed(A) == 0.0


def test_nothing_is_run_twice_and_the_budget_counts_every_round():
    replays = ScriptedReplayer()
    trials = Trials(replays, window(), allowed=16)
    assert trials.spent == 4  # rounds 16 to 19 with nothing changed
    trials.run(A, until=17)
    assert trials.spent == 6
    trials.run(A)
    trials.run(A)
    assert trials.spent == 8
    assert trials.affords(2)
    assert not trials.affords(3)
    trials.run(A, seed=1)  # includes the replay with nothing changed and this seed
    assert trials.spent == 16
    assert trials.affords(0)
    assert not trials.affords(1)
    assert replays.ran == [("a", 0), ("a", 1)]


def test_equal_changes_are_two():
    replays = ScriptedReplayer()
    trials = Trials(replays, window(), 100)
    for change in (Change("a"), A, A):
        trials.run(change)
    assert replays.ran == [("a", 0), ("a", 0)]


def test_a_change_that_the_settings_refuse_costs_nothing():
    trials = Trials(ScriptedReplayer(refused=["a"]), window(), 100)
    assert not trials.run(A, seed=1)
    assert trials.spent == 4
    assert trials.run(B)


def test_both_changes_at_once_are_one_trial_in_either_order():
    trials = Trials(ScriptedReplayer(), window(), 100)
    both = trials.together(A, B)
    assert trials.together(B, A) is both
    assert both.says == "a and b"


def test_failed_clients_are_those_of_the_window():
    replays = ScriptedReplayer(failed={"": 2, "a": 1}, broken_from={"b": 18})
    trials = Trials(replays, window(), 100)
    replays.advance(replays.unchanged, 25)
    for change in (A, B):
        trials.run(change)
    assert trials.failed(NO_CHANGE) == 8
    assert trials.failed(A) == 4
    assert trials.failed(B) == 10  # it broke down, so all clients count
    assert trials.losses(B)[2:] == [np.inf, np.inf]
    # The replay with nothing changed was run beyond the window.
    assert [len(losses) for losses in trials.series(A, "val_loss")] == [4, 4]
    assert len(trials.losses(NO_CHANGE)) == 4


def test_levels_stand_for_the_loss_that_rose():
    trials = Trials(ScriptedReplayer({"a": 1.0}), window("train_loss", train_loss=2 * LEVEL), 100)
    trials.run(A)
    # From 1.2 to 0.3 at a level of 0.6 is twice the rise.
    assert trials.removed(A) == pytest.approx(1.0)
    assert trials.effect(A).by_seed == (pytest.approx(2.0),)
    assert trials.window.other == "val_loss"


def test_the_share_of_a_column_is_of_what_that_column_does_with_nothing_changed():
    replays = ScriptedReplayer({"a": 0.2}, train={"": 0.5, "a": 0.75})
    trials = Trials(replays, window(), 100)
    trials.run(A)
    # The training loss has 1/2 of the rise with nothing changed and 1/4 with a: the share is 1 - 1/4 / (1/2). Compared
    # with val_loss, which has the whole rise with nothing changed, it would be 3/4.
    assert trials.effect(A, "train_loss").by_seed == (pytest.approx(0.5),)
    assert trials.effect(A).by_seed == (pytest.approx(0.2),)


def test_a_change_that_does_not_beat_the_class_frequencies_removes_nothing():
    # With a, the loss is 0.3 in the end, the level before the rise.
    for chance, share in ((0.31, 1.0), (0.3, 0.0), (np.inf, 1.0)):
        trials = Trials(ScriptedReplayer({"a": 1.0}), window(), 100, chance)
        trials.run(A)
        assert trials.removed(A) == pytest.approx(share)
        assert trials.removed(A, "train_loss") == pytest.approx(share)  # of either loss


class Sites(ScriptedReplayer):
    """Client 03 has the loss 9 with nothing changed; the other client has `others`, also without client 03."""

    others: float = RISEN

    def _replay(self, change, seed):
        replay = super()._replay(change, seed)
        row = {"num_failed": 0, "num_clients": 2 - len(change.without), "val_loss": LEVEL}
        clients = [{"client": "00", "weight": 0.5, "loss_before": self.others, "finite": True}]
        if not change.without:
            clients.append({"client": "03", "weight": 0.5, "loss_before": 9.0, "finite": True})
        row["train_loss"] = float(np.mean([client["loss_before"] for client in clients]))
        replay.runner.step = lambda state, r: SimpleNamespace(
            state=state, line=SimpleNamespace(round=r, row=row, clients=clients)
        )
        return replay


@pytest.mark.parametrize(
    ("others", "without", "removes"),
    [
        # The other client's loss is 1.2 in both replays, and 0.3 before the rise: without client 03, nothing changes.
        (RISEN, LEVEL, 0.0),
        # The other client's loss does not rise. From a mean of 4.65 to 0.3, all is gone: client 03 is the rise.
        (LEVEL, LEVEL, 1.0),
        (RISEN, None, 1 - np.log(4) / np.log(5.1 / LEVEL)),  # the others' level is not known: all clients count
    ],
)
def test_train_loss_is_compared_over_the_clients_that_stay(others, without, removes, monkeypatch):
    monkeypatch.setattr(Sites, "others", others)
    left_out = Change("no 03", without=("03",))
    trials = Trials(Sites(), replace(window("train_loss"), level_without=lambda clients: without), 100)
    trials.run(left_out)
    assert trials.removed(left_out) == pytest.approx(removes)


def test_the_most_seeds_are_those_that_were_run():
    trials = Trials(ScriptedReplayer(), window(), 100)
    assert trials.most_seeds == 1
    trials.run(A, seed=0)
    trials.run(A, seed=1)
    assert trials.most_seeds == 2
    trials.run_unchanged(2)
    assert (trials.most_seeds, trials.spent) == (3, 4 * 5)
    assert trials.unchanged_mean("val_loss") == (pytest.approx(RISEN),) * 4


def test_replays_of_unequal_length_are_compared_in_the_rounds_that_both_have():
    trials = Trials(ScriptedReplayer({"a": (0.5, 0.7)}, broken_from={"": 18}), window(), 100)
    trials.run(A, until=17)
    # With nothing changed, rounds 18 and 19 have no loss. a was replayed in 16 and 17 and removes half of their rise.
    assert trials.effect(A).by_seed == (pytest.approx(0.5),)
    trials.run(A)
    trials.run(A, seed=1, until=17)
    unchanged, changed = trials.series(A, "val_loss")
    # The second seed has two rounds, so the means over both seeds have two rounds.
    assert unchanged == (pytest.approx(RISEN),) * 2
    assert changed == (pytest.approx((loss_of(0.5) + loss_of(0.7)) / 2),) * 2
