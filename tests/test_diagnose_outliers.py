"""Rows of clients.csv that are far outside."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tasks.diagnose.observe.client_signals import client_signals
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.observe.outliers import outliers
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

CLIENTS = 10


def log_of(seed: int, num_rounds: int, faults: Mapping[tuple[int, int], float] | None = None) -> ClientLog:
    """Ten clients with 20 % of t(5) noise and habits of their own; faults: (round, client) to a factor of the norm."""
    rng = np.random.default_rng(seed)
    rounds = np.repeat(np.arange(1, num_rounds + 1), CLIENTS)
    codes = np.tile(np.arange(CLIENTS), num_rounds)
    norm = np.exp(0.2 * rng.standard_t(5, len(rounds)) + 0.5 * rng.standard_normal(CLIENTS)[codes])
    for (round_num, client), factor in (faults or {}).items():
        norm[(rounds == round_num) & (codes == client)] *= factor
    none = np.zeros(len(rounds), dtype=np.bool_)
    return ClientLog(rounds, tuple(f"{k:02}" for k in codes), {"update_norm": norm}, none, none)


def test_honest_logs_have_no_outlier() -> None:
    # At a significance of 0.01, more than 3 of 100 logs have a probability of 0.02.
    assert sum(bool(outliers(log_of(seed, 30), 0.01)) for seed in range(100)) <= 3


@pytest.mark.parametrize(("num_rounds", "at"), [(30, 7), (30, 1), (5, 1), (5, 3), (12, 12)])
def test_one_row_is_named_with_its_round_in_short_logs_and_in_round_1_too(num_rounds: int, at: int) -> None:
    (found,) = outliers(log_of(3, num_rounds, {(at, 4): 100.0}), 0.01)
    assert (found.client, found.round, found.signal) == ("04", at, "update_norm")
    assert found.value > 10 * max(found.expected, found.usual or 0)


def test_a_client_that_is_always_far_from_the_others_is_no_outlier() -> None:
    log = log_of(5, 30, {(t, 2): 100.0 for t in range(1, 31)})
    assert outliers(log, 0.01) == ()


def test_two_signals_of_a_row_need_less_each() -> None:
    log = log_of(6, 30, {(9, 1): 9.0})
    losses = log_of(8, 30, {(9, 1): 9.0}).signals["update_norm"]
    alone = outliers(log, 0.01)
    both = outliers(replace(log, signals={**log.signals, "loss_before": losses}), 0.01)
    assert alone == ()
    assert [(each.round, each.client, each.signal) for each in both] == [
        (9, "01", "loss_before"),
        (9, "01", "update_norm"),
    ]


def test_a_fault_of_one_round_is_observed_where_nothing_rose() -> None:
    rounds = np.arange(1, 31)
    losses = np.exp(0.03 * np.random.default_rng(1).standard_normal(30) - rounds / 20)
    log = RoundLog(rounds, ("federate",) * 30, {"val_loss": Measurements(losses, np.ones(30, np.bool_))}, None)
    observation = observe(log, log_of(3, 30, {(7, 4): 100.0}), 0.01)
    assert not observation.rise.detected
    assert observation.unusual == ("04",)
    (signal,) = client_signals(observation)
    assert (signal.client, signal.rounds, signal.unusual) == ("04", (7,), True)
    assert signal.says.startswith("In round 7, client 04 sent updates of length ")


def test_the_loss_is_tested_from_the_round_of_an_outlier_on() -> None:
    # One loss in the middle is 1.6 times as high. Alone, this is noise; in the round of an outlier, it is a rise.
    rounds = np.arange(1, 31)
    losses = np.exp(0.05 * np.random.default_rng(5).standard_normal(30) - 0.8 * np.arange(30) / 29)
    losses[18] *= 1.7
    log = RoundLog(rounds, ("federate",) * 30, {"val_loss": Measurements(losses, np.ones(30, np.bool_))}, None)
    assert not observe(log, log_of(3, 30), 0.01).rise.detected
    rise = observe(log, log_of(3, 30, {(19, 4): 100.0}), 0.01).rise
    assert (rise.detected, rise.round, rise.until) == (True, 19, 19)
