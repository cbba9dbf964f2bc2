"""Tests of the columns of rounds.csv: shares of the significance, rises at once, and the unit of train_loss."""

import numpy as np
import pytest

from tasks.arrays import Bools, Floats
from tasks.detection import find_increase
from tasks.diagnose.observe.loss_tests import column_tests
from tasks.diagnose.observe.rise import find_rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

ROUNDS = np.arange(1, 31)
EVERY = np.ones(30, dtype=np.bool_)
NOISE = np.exp(0.1 * np.random.default_rng(5).standard_normal((2, 30)))
"""Noise of val_loss, then of train_loss."""
NONE = np.zeros(1, dtype=np.bool_)
SILENT = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, NONE, NONE)


def log_of(pruned: int = 0, **losses: Floats) -> RoundLog:
    """A log of 30 rounds; the last `pruned` rounds are of pruning."""
    columns = {name: Measurements(values, EVERY) for name, values in losses.items()}
    return RoundLog(ROUNDS, ("federate",) * (30 - pruned) + ("prune",) * pruned, columns, None)


def pulse(noise: Floats, first: int, last: int, height: float) -> Floats:
    return np.where((first <= ROUNDS) & (last >= ROUNDS), height, 1) * noise


VAL = {10: pulse(NOISE[0], 10, 14, 2.1), 11: pulse(NOISE[0], 11, 15, 1.95)}
TRAIN = {5: pulse(NOISE[1], 5, 9, 1.85), 15: pulse(NOISE[1], 15, 19, 1.65), 16: pulse(NOISE[1], 16, 20, 1.64)}
"""First round -> a rise of 5 rounds that is found at half of the significance, but not at the loss's own share."""


@pytest.mark.parametrize(("val", "train", "at_once"), [(10, 15, True), (10, 16, False), (10, 5, True), (11, 5, False)])
def test_two_rises_are_at_once_if_one_begins_in_the_round_after_the_other(val: int, train: int, at_once: bool) -> None:
    # val_loss rises in rounds 10 to 14 or 11 to 15. train_loss is measured a round later, so a rise from 15 on is at
    # once with one up to 14, and a rise up to 9 with one from 10 on. Half of the significance of 0.01 is 0.005; the
    # shares of the two losses are 0.3 and 0.2 of it.
    for losses, first, share in ((VAL[val], val, 0.3), (TRAIN[train], train, 0.2)):
        alone = find_increase(ROUNDS, losses, 0.005)
        assert (alone.round, alone.until) == (first, first + 4)
        assert not find_increase(ROUNDS, losses, 0.01 * share).detected
    log = log_of(val_loss=VAL[val], train_loss=TRAIN[train])
    tests = column_tests(log, SILENT, EVERY, 0.01, (0.3, 0.2))
    assert [test.increase.detected for test in tests] == [at_once] * 2
    assert [test.share for test in tests] == ([0.5, 0.5] if at_once else [0.3, 0.2])


@pytest.mark.slow
def test_training_has_nine_tenths_of_the_significance_if_the_run_pruned() -> None:
    # A single column has half of 0.01. If the last two rounds prune, training has 0.9 of that: 0.0045.
    losses = pulse(NOISE[0], 18, 28, 1.78)
    assert find_increase(ROUNDS[:28], losses[:28], 0.005).detected
    assert not find_increase(ROUNDS[:28], losses[:28], 0.0045).detected
    assert not find_rise(log_of(2, val_loss=losses), SILENT, 0.01).detected
    clear = pulse(NOISE[0], 18, 30, 5)
    alone = find_increase(ROUNDS[:28], clear[:28], 0.0045)
    rise = find_rise(log_of(2, val_loss=clear), SILENT, 0.01)
    assert (rise.round, rise.until) == (18, 28)
    assert 1 - rise.confidence == pytest.approx((1 - alone.confidence) / 0.45)


def test_a_rise_while_pruning_is_an_event_and_replaces_no_answer() -> None:
    rise = find_rise(log_of(6, val_loss=pulse(NOISE[0], 25, 30, 5)), SILENT, 0.01)
    assert not rise.detected
    assert [(event.round, event.phase, event.loss) for event in rise.events] == [(25, "prune", "val_loss")]
    both = find_rise(log_of(6, val_loss=pulse(NOISE[0], 10, 14, 5) * pulse(NOISE[0] ** 0, 25, 30, 9)), SILENT, 0.01)
    assert (both.round, both.until) == (10, 14)
    assert [(event.round, event.phase) for event in both.events] == [(25, "prune")]


def test_a_rise_of_the_mean_client_is_told_in_the_numbers_of_the_log() -> None:
    # From round 16 to 24, the losses of all clients are 5 times as high. The column is 100 + t in its own unit: its
    # mean is 113.5 in rounds 12 to 15, and 120 in rounds 16 to 24.
    rows = [(t, f"{k:02}") for t in ROUNDS.tolist() for k in range(4)]
    own = np.array([5.0 if 16 <= t <= 24 else 1.0 for t, _ in rows])
    own *= np.exp(0.05 * np.random.default_rng(0).standard_normal(len(rows)))
    none = np.zeros(len(rows), dtype=np.bool_)
    clients = ClientLog(np.array([t for t, _ in rows]), tuple(c for _, c in rows), {"loss_before": own}, none, none)

    def levels(column: Measurements, tested: Bools) -> tuple[float | None, float | None]:
        log = RoundLog(ROUNDS, ("federate",) * 30, {"train_loss": column}, None)
        (test,) = column_tests(log, clients, tested, 0.01, (0.5,))
        assert (test.increase.round, test.increase.until) == (16, 24)
        return test.increase.loss_before, test.increase.loss_after

    assert levels(Measurements(100.0 + ROUNDS, EVERY), EVERY) == (113.5, 120)
    # Round 14 was not measured and round 13 is not tested, so the last four rounds are 10, 11, 12 and 15.
    gap = Measurements(np.where(ROUNDS == 14, np.nan, 100.0 + ROUNDS), ROUNDS != 14)
    assert levels(gap, ROUNDS != 13) == (112, 120)
    # Without a finite loss, the levels are not known.
    assert levels(Measurements(np.full(30, np.inf), EVERY), EVERY) == (None, None)
