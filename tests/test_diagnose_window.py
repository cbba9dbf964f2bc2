"""The rounds of two replays that are compared, and the losses before the rise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from diagnosis_values import RISE

from tasks.diagnose.incident import Incident
from tasks.diagnose.window import (
    allowed_rounds,
    chance_loss,
    floor,
    half_risen_round,
    last_compared_round,
    reproduced,
    training_loss,
    training_rise,
    window,
)
from tasks.round_log.read import ClientLog


def log(losses, weights=None, failed=()):
    """{(round, client): loss} -> clients.csv."""
    rows = list(losses)
    signals = {"loss_before": np.array([losses[row] for row in rows])}
    if weights is not None:
        signals["weight"] = np.array([weights[client] for _, client in rows], float)
    lost = np.array([row in failed for row in rows])
    return ClientLog(np.array([r for r, _ in rows]), tuple(c for _, c in rows), signals, lost, lost)


def incident(loss="val_loss", hidden=(), **increase):
    found = {"round": 11, "until": 20, "loss_before": 0.5, "loss_after": 2.0, "alarm": 13, **increase}
    rise = replace(RISE, loss=loss, clients=hidden, **found)
    return Incident(rise, np.array([11, 12]), np.array([1.0, 2.0]), (0.0, 0.0), 10)


ALL = log({(r, c): 0.4 for r in range(1, 21) for c in "ab"})


def test_level_is_the_lower_one_of_the_log_and_the_model():
    assert incident().level(0.3) == 0.3
    assert incident().level(0.7) == 0.5
    assert incident("train_loss").level(0.3) == 0.5  # the model's loss is a hold-out loss
    assert incident(loss_before=None).level(0.7) == 0.7


def test_levels_of_both_losses():
    losses = {(r, "a"): 0.1 * r for r in range(1, 21)}
    compared = window(incident(), log(losses), 0.3, 11, 14)
    assert compared.levels["val_loss"] == compared.level == 0.3
    # The geometric mean of the four rounds before, 7 to 10.
    assert compared.levels["train_loss"] == pytest.approx((0.7 * 0.8 * 0.9 * 1.0) ** 0.25)
    of_training = window(incident("train_loss"), log(losses), 0.3, 11, 14)
    assert (of_training.level, of_training.levels["val_loss"], of_training.other) == (0.5, 0.3, "val_loss")
    late = log({(r, "a"): 1.0 for r in range(11, 21)})
    assert window(incident(), late, 0.3, 11, 14).levels["train_loss"] is None


def test_all_rounds_of_the_window_count_and_half_of_it_is_halfway():
    compared = window(incident(), ALL, 0.3, 11, 16)
    assert (compared.first, compared.last, compared.rounds) == (11, 16, (11, 12, 13, 14, 15, 16))
    assert compared.halfway == 13
    assert window(incident(), ALL, 0.3, 11, 11).halfway == 11


def test_of_hidden_clients_only_their_rounds_count_above_the_loss_of_the_others():
    losses = {(r, "a"): 2.0 for r in (11, 14, 16)} | {(r, c): 0.1 * r for r in range(8, 21) for c in "bc"}
    compared = window(incident("train_loss", hidden=("a",)), log(losses), 0.3, 11, 15)
    assert compared.rounds == (11, 14)
    assert compared.level == pytest.approx((1.1 * 1.4) ** 0.5)
    alone = log({(r, "a"): 2.0 for r in (11, 14)})
    assert window(incident("train_loss", hidden=("a",)), alone, 0.3, 11, 15).level == 0.5


def test_a_hidden_rise_has_no_height_of_its_own():
    assert incident().loss_after == 2.0
    assert incident(hidden=("a",)).loss_after is None
    assert incident().logged == {11: 1.0, 12: 2.0}


def test_the_alarm_is_in_the_rise():
    assert incident().alarm == 13
    assert incident(alarm=None).alarm == 11
    assert incident(alarm=25).alarm == 20


def test_training_loss_is_weighted_and_leaves_out_what_failed():
    losses = {(1, "a"): 1.0, (1, "b"): 4.0, (1, "c"): 9.0, (2, "a"): 2.0, (2, "b"): np.nan, (3, "a"): 0.0}
    weights = {"a": 3.0, "b": 1.0, "c": 0.0}
    made = log(losses, weights, failed=[(1, "c")])
    # Round 1 has (3 · 1 + 1 · 4) / 4 = 1.75, round 2 has 2, and round 3 has no loss above 0.
    assert training_loss(made, [1, 2, 3]) == pytest.approx((1.75 * 2) ** 0.5)
    assert training_loss(made, [1], without=("a",)) == pytest.approx(4.0)
    assert training_loss(made, [3]) is None
    assert training_loss(made, []) is None
    assert training_loss(log({(1, "a"): 2.0}, {"a": 0.0}), [1]) is None  # no client has a weight


def test_training_rise_is_measured_from_the_highest_round_before():
    # Rounds 7 to 10 have 0.7, 0.8, 0.9, 1.0, and rounds 11 and 12 have 1.1 and 1.2.
    made = log({(r, "a"): 0.1 * r for r in range(1, 21)})
    assert training_rise(made, 11, 12) == pytest.approx(math.log((1.1 * 1.2) ** 0.5 / 1.0))
    assert math.isnan(training_rise(made, 1, 5))  # nothing before
    assert math.isnan(training_rise(made, 21, 25))


def test_levels_without_a_client_are_those_of_the_others():
    losses = {(r, client): loss for r in range(1, 21) for client, loss in (("a", 0.4), ("b", 0.8))}
    compared = window(incident("train_loss"), log(losses), 0.3, 11, 14)
    assert compared.level_without(("b",)) == pytest.approx(0.4)
    assert compared.level_without(("a", "b")) is None
    # Of a rise that the mean hides, the loss of the client itself is the rise.
    assert window(incident("train_loss", hidden=("b",)), log(losses), 0.3, 11, 14).level_without(("b",)) is None


def test_a_window_may_begin_before_the_rise():
    compared = window(incident(), ALL, 0.3, 8, 13)
    assert (compared.first, compared.rounds, compared.level) == (8, (8, 9, 10, 11, 12, 13), 0.3)


def test_chance_is_the_entropy_of_the_hold_out_labels():
    assert chance_loss(np.array([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert chance_loss(np.array([0, 0, 0, 1])) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert chance_loss(np.array([7, 7])) == math.inf  # no loss is below 0


def test_training_loss_of_a_log_with_fewer_columns():
    rounds, nobody = np.array([1, 1]), np.array([False, False])

    def of(**signals):
        return ClientLog(rounds, ("a", "b"), signals, nobody, nobody)

    losses = np.array([1.0, 4.0])
    # (2 · 1 + 1 · 4) / 3. Without sizes, each client counts once.
    assert training_loss(of(loss_before=losses, num_examples=np.array([2.0, 1.0])), [1]) == pytest.approx(2.0)
    assert training_loss(of(loss_before=losses), [1]) == pytest.approx(2.5)
    assert training_loss(of(), [1]) is None


SPAN = {"start": 10, "first": 12, "alarm": 13, "half_risen": 13, "until": 30, "last_of_run": 30, "num_candidates": 3}


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"allowed": 50}, 15),  # 3 candidates and 3 + 2 · 2 other replays: 10 replays of 5 rounds
        ({"allowed": 59}, 15),
        ({"allowed": 60}, 16),
        ({"allowed": 60, "num_candidates": 5}, 15),
        ({"allowed": 1000}, 22),  # at most 12 rounds
        ({"allowed": 1000, "until": 18}, 18),  # not beyond the rise
        ({"allowed": 0, "until": 12}, 14),  # three rounds of the rise
        ({"allowed": 0, "alarm": 17, "half_risen": 16}, 16),  # until half of the rise is visible
        ({"allowed": 0, "alarm": 16, "half_risen": 17}, 16),  # or until the rise is sure
        ({"allowed": 0, "alarm": 29, "half_risen": 29}, 22),  # but at most 12 rounds
        ({"allowed": 1000, "last_of_run": 13}, 13),
    ],
)
def test_last_round_of_the_replays(changes, last):
    assert last_compared_round(**{**SPAN, **changes}) == last


def test_budget_counts_at_least_fifteen_rounds():
    assert allowed_rounds(3.0, 4) == allowed_rounds(3.0, 15) == 45
    assert allowed_rounds(3.0, 20) == 60


def test_half_of_a_rise_is_on_the_logarithm():
    logged = dict(zip(range(14, 22), [0.9, 0.3, 0.35, 0.5, 0.7, 1.2, 1.2, 1.2], strict=True))
    # From 0.3 to 1.2 is ln 4. Half of it, at 0.6, is passed in round 18. Round 14 is before the rise.
    assert half_risen_round(logged, 0.3, 1.2, first=16, alarm=21) == 18
    assert half_risen_round({**logged, 17: 0.6}, 0.3, 1.2, first=16, alarm=21) == 17
    assert half_risen_round({**logged, 16: 0.6}, 0.3, 1.2, first=16, alarm=21) == 16  # in the first round of the rise
    assert half_risen_round(logged, 0.3, None, first=16, alarm=21) == 21
    assert half_risen_round({16: 0.4}, 0.3, 1.2, first=16, alarm=21) == 21


@pytest.mark.parametrize(
    ("replayed", "logged", "loss_after", "came_again"),
    [
        # The log rises from 1 to 4: on the logarithm, half of it is 2.
        ([1.0, 2.1], [4.0], 4.0, True),
        ([1.0, 1.9], [4.0], 4.0, False),
        ([2.0], [4.0], 4.0, False),  # exactly half is not enough
        ([1.3, 1.3], [4.0], 4.0, False),  # a rise by 30 % is not the logged rise
        ([1.3, 1.1], [1.5], 4.0, True),  # enough if the log shows little in these rounds
        ([1.3, 1.1], [9.0], 1.5, True),  # or if the logged height is small
        ([math.inf], [4.0], None, True),
        ([1.9], [4.0], None, False),
        ([1.0, 2.1], [], 4.0, True),  # rounds that were not measured
        ([1.0, 1.9], [], 4.0, False),
        ([2.0], [0.9], 4.0, False),  # no rise in the log
        ([2.0], [1.0], 4.0, False),
        ([math.inf], [], None, True),
        # The fault breaks the model from the replay's first round on: its loss stays where the logged loss came to.
        ([2.3, 2.3, 2.3], [75.0, 2.3, 2.3], 26.5, True),
        ([1.4, 1.4, 1.4], [75.0, 2.3, 2.3], 26.5, False),  # ln 1.4 is less than half of ln 2.3
        ([1.04, 1.04, 1.04], [75.0, 1.05, 1.05], 26.5, False),  # as high as the log stays, but that is no rise
        ([99.0], [], None, False),  # half of the rise of a loss that is not finite is 100 times the level
    ],
)
def test_reproduced_is_half_of_the_logged_rise(replayed, logged, loss_after, came_again):
    assert reproduced(replayed, logged, loss_after, 1.0) is came_again


def test_a_replay_must_beat_chance_or_train_where_the_run_did_not():
    assert floor(2.3, 0.8, 10) == 2.3
    # 9 % and 91 % have a chance of 0.3: after ten rounds, the model has 0.32 and still falls.
    assert floor(0.3, 0.32, 10) == 0.32
    assert floor(0.3, 0.7, 0) == pytest.approx(0.5)
    # With equal classes, half of the way from the first loss is nearly chance.
    assert floor(2.3, 2.4, 0) == pytest.approx(2.35)
    assert floor(2.3, math.nan, 0) == 2.3
