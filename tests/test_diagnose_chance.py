"""A model at chance: since when, and which event broke it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.diagnose.limits import limits_of_logs
from tasks.diagnose.observe.chance import find_chance
from tasks.diagnose.observe.observation import observe
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

COUNTS = np.full(10, 36)
"""360 hold-out examples of ten classes: the loss of chance is ln 10 = 2.303, and three standard deviations of the
accuracy are 3 √(0.1 · 0.9 / 360) = 0.047."""
NONE = np.zeros(1, dtype=np.bool_)
SILENT = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, NONE, NONE)


def log_of(losses: np.ndarray, accuracies: np.ndarray | None = None) -> RoundLog:
    every = np.ones(len(losses), np.bool_)
    accuracy = None if accuracies is None else Measurements(accuracies, every)
    phases = ("federate",) * len(losses)
    return RoundLog(np.arange(1, len(losses) + 1), phases, {"val_loss": Measurements(losses, every)}, None, accuracy)


def test_noise_at_chance_is_no_rise_and_is_said_to_be_at_chance() -> None:
    losses = math.log(10) + 0.0002 * np.arange(30)  # a climb that a test of the loss finds
    observation = observe(log_of(losses, np.full(30, 0.1)), SILENT, 0.01, hold_out=COUNTS)
    assert not observation.rise.detected
    assert observation.chance is not None
    assert (observation.chance.since, observation.chance.never_learned) == (1, True)
    assert observation.chance.loss == pytest.approx(math.log(10))
    limits = " ".join(limits_of_logs(observation, log_of(losses), SILENT))
    assert "The model never learned: it has been at chance since round 1." in limits
    assert observe(log_of(losses), SILENT, 0.01).rise.detected


@pytest.mark.parametrize(("accuracy", "at_chance"), [(0.146, True), (0.148, False)])
def test_an_accuracy_above_three_standard_deviations_is_knowledge(accuracy: float, at_chance: bool) -> None:
    found = find_chance(log_of(np.full(5, 2.5), np.full(5, accuracy)), COUNTS)
    assert (found is not None) is at_chance


def test_unequal_classes_have_their_own_loss_of_chance() -> None:
    # 3/4 and 1/4: H = -(3/4) ln(3/4) - (1/4) ln(1/4) = 0.562. A class without examples does not count.
    found = find_chance(log_of(np.full(5, 0.6), np.full(5, 0.75)), np.array([300, 100, 0]))
    assert found is not None
    assert found.loss == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert find_chance(log_of(np.full(5, 0.5), np.full(5, 0.75)), np.array([300, 100, 0])) is None
    assert find_chance(log_of(np.full(5, 0.6)), None) is None


def test_the_event_that_broke_the_model_comes_before_a_small_rise_later() -> None:
    losses = np.concatenate([[132.0, 5e10], math.log(10) + 0.0001 * np.arange(28)])
    rise = observe(log_of(losses, np.full(30, 0.1)), SILENT, 0.01, hold_out=COUNTS).rise
    assert (rise.detected, rise.round, rise.until, rise.events) == (True, 1, 2, ())
    assert rise.loss_before == pytest.approx(math.log(10))
    assert rise.loss_after == pytest.approx((132 + 5e10) / 2)


def test_a_model_that_fell_to_chance_rose_in_that_round() -> None:
    # Six losses are too few to find a rise of the last two by a test.
    losses, accuracies = np.array([1.5, 1.0, 0.8, 0.7, 2.31, 2.33]), np.array([0.5, 0.7, 0.8, 0.8, 0.1, 0.1])
    rise = observe(log_of(losses, accuracies), SILENT, 0.01, hold_out=COUNTS).rise
    assert (rise.detected, rise.round, rise.until) == (True, 5, 6)
    assert rise.chance is not None
    assert (rise.chance.since, rise.chance.never_learned) == (5, False)
    assert (rise.loss_before, rise.loss_after) == (pytest.approx(1.0), pytest.approx(2.32))


def test_an_erratic_loss_above_chance_is_one_rise_from_its_first_loss_on() -> None:
    # H of 9 % and 91 % is 0.303. The model learns up to round 4; two losses below H lie between those above it.
    counts = np.array([9, 91])
    losses = np.array([0.42, 0.32, 0.25, 0.16, 0.45, 3.0, 3.2, 0.25, 0.23, 0.86, 1.1, 2.4, 0.5, 0.7, 0.4])
    accuracies = np.where(np.isin(np.arange(1, 16), [3, 4, 8, 9]), 0.999, 0.91)
    rise = observe(log_of(losses, accuracies), SILENT, 0.01, hold_out=counts).rise
    assert rise.chance is not None
    assert rise.chance.since == 10
    assert (rise.detected, rise.round, rise.until) == (True, 5, 15)
    # Of the four losses before round 5, two are below H.
    assert rise.loss_before == pytest.approx((0.25 + 0.16) / 2)


def test_the_first_loss_of_a_model_with_unequal_classes_is_no_rise() -> None:
    # H = 0.303, and a model that knows nothing starts at ln 2 = 0.69: more than 1.5 H, but no more than at its start.
    losses = np.linspace(0.69, 0.31, 12)
    observation = observe(log_of(losses, np.full(12, 0.91)), SILENT, 0.01, hold_out=np.array([9, 91]))
    assert observation.chance is not None
    assert not observation.rise.detected


def test_a_model_that_lost_all_it_had_learned_rose_whatever_the_noise_is() -> None:
    # After round 3 the loss jumps up and down so wildly that no test of 12 losses is sure. Chance is ln 10 = 2.303.
    losses = np.array([1.9, 1.5, 1.1, 1.9, 1.45, 3.1, 2.5, 1.7, 1.7, 0.8, 1.1, 0.5])
    assert not observe(log_of(losses), SILENT, 0.01).rise.detected
    rise = observe(log_of(losses), SILENT, 0.01, hold_out=COUNTS).rise
    assert (rise.detected, rise.loss, rise.round, rise.until, rise.confidence) == (True, "val_loss", 6, 7, 1.0)
    assert (rise.loss_before, rise.loss_after) == (pytest.approx((1.1 + 1.9 + 1.45 + 1.5) / 4), pytest.approx(2.8))
    # A loss that stays below chance is left to the tests.
    assert not observe(log_of(0.7 * losses), SILENT, 0.01, hold_out=COUNTS).rise.detected


def test_large_first_weights_are_no_event() -> None:
    # Chance is ln 10 = 2.303. The first weights have a loss of 5, which the clients measure in round 1.
    losses, rounds = np.linspace(4.5, 2.5, 12), np.ones(12, np.bool_)
    log = log_of(losses, np.full(12, 0.1))
    assert observe(log, SILENT, 0.01, hold_out=COUNTS).rise.round == 1
    started = replace(log, losses={**log.losses, "train_loss": Measurements(np.linspace(5, 2.5, 12), rounds)})
    assert not observe(started, SILENT, 0.01, hold_out=COUNTS).rise.detected
