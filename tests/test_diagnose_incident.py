"""What is compared of two replays: the rounds that count, and the losses before the rise."""

import numpy as np
import pytest

from tasks.detection import Increase
from tasks.diagnose.incident import Incident, training_loss, window
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
    return Incident(Increase(True, **found), loss, np.array([11, 12]), np.array([1.0, 2.0]), (0.0, 0.0), 10, hidden)


ALL = log({(r, c): 0.4 for r in range(1, 21) for c in "ab"})


def test_level_is_the_lower_one_of_the_log_and_the_model():
    assert incident().level(0.3) == 0.3
    assert incident().level(0.7) == 0.5
    assert incident("train_loss").level(0.3) == 0.5  # the model's loss is that of the hold-out data
    assert incident(loss_before=None).level(0.7) == 0.7


def test_levels_of_both_losses():
    losses = {(r, "a"): 0.1 * r for r in range(1, 21)}
    compared = window(incident(), log(losses), 0.3, 14)
    assert compared.levels["val_loss"] == compared.level == 0.3
    # The geometric mean of the four rounds before: 7 to 10.
    assert compared.levels["train_loss"] == pytest.approx((0.7 * 0.8 * 0.9 * 1.0) ** 0.25)
    of_training = window(incident("train_loss"), log(losses), 0.3, 14)
    assert (of_training.level, of_training.levels["val_loss"], of_training.other) == (0.5, 0.3, "val_loss")
    late = log({(r, "a"): 1.0 for r in range(11, 21)})
    assert window(incident(), late, 0.3, 14).levels["train_loss"] is None


def test_all_rounds_of_the_window_count_and_half_of_it_is_halfway():
    compared = window(incident(), ALL, 0.3, 16)
    assert (compared.first, compared.last, compared.rounds) == (11, 16, (11, 12, 13, 14, 15, 16))
    assert compared.halfway == 13
    assert window(incident(), ALL, 0.3, 11).halfway == 11


def test_of_hidden_clients_only_their_rounds_count_above_the_loss_of_the_others():
    losses = {(r, "a"): 2.0 for r in (11, 14, 16)} | {(r, c): 0.1 * r for r in range(8, 21) for c in "bc"}
    compared = window(incident("train_loss", hidden=("a",)), log(losses), 0.3, 15)
    assert compared.rounds == (11, 14)
    assert compared.level == pytest.approx((1.1 * 1.4) ** 0.5)
    alone = log({(r, "a"): 2.0 for r in (11, 14)})
    assert window(incident("train_loss", hidden=("a",)), alone, 0.3, 15).level == 0.5


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
    # Round 1: (3 · 1 + 1 · 4) / 4 = 1.75; round 2: 2; round 3: nothing above 0.
    assert training_loss(made, [1, 2, 3]) == pytest.approx((1.75 * 2) ** 0.5)
    assert training_loss(made, [1], without=("a",)) == pytest.approx(4.0)
    assert training_loss(made, [3]) is None
    assert training_loss(made, []) is None
