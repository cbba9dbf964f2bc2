"""What clients.csv shows of a client, before a rise and during it."""

import numpy as np
import pytest

from tasks.diagnose.evidence.logged import before, first_failure, objective_gap, passes, resized, rows_of, usual_losses
from tasks.round_log.read import ClientLog


def test_usual_loss_is_that_of_the_client_at_the_level_before_the_rise():
    """All losses fall alike. Client 0 has twice the others' loss, and last took part 12 rounds before the rise."""
    rows = [(r, c) for r in range(1, 21) for c in range(6) if c or r <= 8]
    losses = np.array([(4 if c == 0 else 2) * np.exp(-0.15 * r) for r, c in rows])
    no = np.zeros(len(rows), bool)
    log = ClientLog(np.array([r for r, _ in rows]), tuple(str(c) for _, c in rows), {"loss_before": losses}, no, no)
    usual = usual_losses(log, first=21)
    # The median of the last five rounds is round 18: 2 e^(-2.7) = 0.134, and twice that for client 0. The constant
    # that is added before the logarithm changes this by a few per cent.
    assert usual["1"] == pytest.approx(2 * np.exp(-2.7), rel=0.05)
    assert usual["0"] == pytest.approx(4 * np.exp(-2.7), rel=0.15)


def log_of_rounds(first, last, **signals):
    """A log of one client: each signal by round."""
    rounds = np.arange(first, last + 1)
    no = np.zeros(len(rounds), bool)
    values = {name: np.array([value(r) for r in rounds], float) for name, value in signals.items()}
    return ClientLog(rounds, ("a",) * len(rounds), values, no, no)


def test_the_first_round_of_a_rise_is_not_before_it():
    log = log_of_rounds(1, 40, update_norm=lambda r: r if r != 20 else np.nan)
    # The 20 rounds before round 31, except one that is not known.
    np.testing.assert_array_equal(before(log, "update_norm", "a", 31), [r for r in range(11, 31) if r != 20])
    assert len(before(log, "update_norm", "b", 31)) == len(before(log, "loss", "a", 31)) == 0


def test_usual_losses_leave_out_the_rise():
    log = log_of_rounds(1, 12, loss_before=lambda r: 0.5 if r < 11 else 50.0)
    assert usual_losses(log, 11) == {"a": pytest.approx(0.5)}
    assert usual_losses(log, 1) == {}


def test_rows_passes_and_failures_by_hand():
    log = log_of_rounds(9, 12, num_steps=lambda r: np.nan if r == 12 else 6, num_examples=lambda r: 25)
    log = ClientLog(log.rounds, log.clients, log.signals, np.array([True, False, True, False]), log.not_finite)
    rows = rows_of(log, 10, 12)
    assert [(row["round"], row["finite"], row["num_steps"]) for row in rows] == [
        (10, True, 6),
        (11, False, 6),
        (12, True, None),
    ]
    # 25 examples are 3 batches of at most 10, so 6 steps are two passes.
    assert passes(rows[0], 10) == 2.0
    assert np.isnan(passes(rows[2], 10))
    assert first_failure(log, "a", 10) == 11
    assert first_failure(log, "a", 12) is None


def test_sizes_changed_if_the_log_or_the_data_of_today_have_another_one():
    same, grown = (log_of_rounds(1, 9, num_examples=lambda r, late=late: 25 if r < 7 else late) for late in (25, 40))
    assert resized(same, 7, {"a": 25}) is False
    assert resized(same, 7, {"a": 26}) is True
    assert resized(grown, 7, {"a": 40}) is True
    # A rise that begins with the log has no rounds before it.
    assert resized(same, 1, {"a": 25}) is None
    assert resized(log_of_rounds(1, 9, loss_before=float), 7, {"a": 25}) is None


def test_gap_of_objectives_by_hand():
    # Weights 1 and 1 are shares of 1/2. Steps 1 and 3 make them 1/4 and 3/4: half of (1/4 + 1/4).
    rows = [
        {"round": 1, "client": client, "num_steps": steps, "finite": True} for client, steps in (("a", 1), ("b", 3))
    ]
    assert objective_gap(rows, {"a": 1.0, "b": 1.0}) == pytest.approx(0.25)
    failed = {"round": 2, "client": "a", "num_steps": 9, "finite": False}
    assert objective_gap([*rows, failed], {"a": 1.0, "b": 1.0}) == pytest.approx(0.25)
    assert np.isnan(objective_gap([], {}))
