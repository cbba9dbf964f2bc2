"""What the logs show: the model from which a rise is replayed, the rounds in which clients are compared, trends."""

import math
from dataclasses import replace

import numpy as np
import pytest
from diagnosis_values import RISE, client_log

from tasks.diagnose.observe.observation import Observation, observe, sound_after
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import RoundLog


def log(every: int = 1, **losses: list[float]) -> RoundLog:
    """A log with val_loss in each `every`th round."""
    rounds = np.arange(1, 1 + len(next(iter(losses.values()))))
    given = {"val_loss": rounds % every == 0, "train_loss": np.ones(len(rounds), dtype=np.bool_)}
    columns = {name: Measurements(np.array(values), given[name]) for name, values in losses.items()}
    return RoundLog(rounds, ("federate",) * len(rounds), columns, None)


FALLING = [10.0 - t for t in range(1, 10)]  # 9, 8, … 1


def test_replays_of_val_loss_begin_right_before_the_rise() -> None:
    rounds = log(val_loss=[*FALLING, 5.0])
    assert sound_after(replace(RISE, round=10, until=10), rounds) == 9
    assert sound_after(replace(RISE, round=1, until=1), rounds) == 0


@pytest.mark.parametrize(("val_loss", "begin"), [(1.0, 9), (1.09, 9), (1.11, 8)])
def test_replays_of_train_loss_begin_a_round_earlier_unless_val_loss_says_that_the_model_was_sound(
    val_loss: float, begin: int
) -> None:
    # The rise begins in round 10. The lowest val_loss of rounds 5 to 9 is 1, in round 8.
    rounds = log(val_loss=[3.0, 0.1, 3, 3, 3, 2, 2, 1, val_loss, 1], train_loss=[1.0] * 10)
    rise = replace(RISE, loss="train_loss", round=10, until=10)
    assert sound_after(rise, rounds) == begin
    assert sound_after(rise, log(train_loss=[1.0] * 10)) == 8
    # val_loss of round 9 was not measured.
    assert sound_after(rise, log(2, val_loss=[1.0] * 10, train_loss=[1.0] * 10)) == 8


@pytest.mark.parametrize(("changed", "begin"), [(21, 19), (20, 19), (15, 14), (10, 9), (9, 19)])
def test_replays_begin_before_data_that_changed_in_the_10_rounds_before_the_rise(changed: int, begin: int) -> None:
    rounds = log(val_loss=jump(20))
    change = ClientRise("03", changed, 30, changed, 1.0)
    assert sound_after(replace(RISE, round=20, until=30), rounds, [change]) == begin


def jump(onset: int, num_rounds: int = 30, height: float = 10.0) -> list[float]:
    """A loss of 1 with 1 % noise, `height` times as high from `onset` on."""
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(num_rounds)
    return [float(noise[t - 1]) * (height if t >= onset else 1) for t in range(1, num_rounds + 1)]


def seen(rounds: RoundLog) -> Observation:
    return observe(rounds, client_log(["03", "00", "01", "02"], len(rounds.rounds), drop=("loss_before",)), 0.01)


def test_clients_are_compared_in_five_rounds_of_a_long_rise() -> None:
    observation = seen(log(val_loss=jump(16)))
    assert (observation.rise.round, observation.rise.until) == (16, 30)
    assert observation.rise.alarm is not None
    assert observation.rise.alarm < 20
    assert observation.window == (16, 20)


def test_clients_are_compared_since_the_last_loss_before_the_rise() -> None:
    # The loss is measured in rounds 3, 6, … 60. The rise of round 32 is seen in 33, and can have begun in 31.
    observation = seen(log(3, val_loss=jump(32, 60)))
    assert observation.rise.round == 33
    assert observation.window is not None
    assert observation.window[0] == 31


def test_train_loss_of_a_round_is_of_the_model_before_it() -> None:
    observation = seen(log(train_loss=jump(16)))
    assert observation.rise.round == 16
    assert observation.window is not None
    assert observation.window[0] == 15


def test_trend_of_a_rise_is_its_second_half_over_its_first() -> None:
    losses = jump(27)
    losses[26:] = [10.0, 10.0, 20.0, 30.0]
    observation = seen(log(val_loss=losses))
    assert observation.rise.rounds == range(27, 31)
    assert observation.val_trend == pytest.approx(math.log(25 / 10))
    assert math.isnan(observation.train_trend)
    # Three losses are no trend.
    losses[26] = 1.0
    assert math.isnan(seen(log(val_loss=losses)).val_trend)


def test_without_a_rise_no_client_is_compared() -> None:
    observation = seen(log(val_loss=jump(16, height=1)))
    assert (observation.window, observation.drifts, observation.rise.rounds) == (None, (), range(0))
    # The updates of client 03 change in the middle of the run, which rows of the log show without a rise.
    assert observation.healthy == ("00", "01", "02")
    assert {outlier.client for outlier in observation.outliers} == {"03"}


def test_a_rise_that_is_known_from_elsewhere_counts_where_no_test_finds_one() -> None:
    rounds, clients = log(val_loss=jump(16, height=1)), client_log(["03", "00", "01", "02"], 30)
    losses = np.exp(0.2 * np.random.default_rng(1).standard_normal(120))
    mine = np.isin(np.arange(120), clients.rows("02")) & (clients.rounds >= 16) & (clients.rounds <= 20)
    clients = replace(clients, signals={**clients.signals, "loss_before": np.where(mine, 1.3 * losses, losses)})
    assert not observe(rounds, clients, 0.01).rise.detected
    rise = observe(rounds, clients, 0.01, [ClientRise("02", 16, 20, 17, 0.9)]).rise
    assert (rise.clients, rise.round, rise.until, rise.alarm) == (("02",), 16, 20, 17)


def test_failures_are_the_rounds_of_each_client_that_failed() -> None:
    clients = client_log(["03", "00", "01", "02"], 30, drop=("loss_before",))
    failed = [("03", 4), ("01", 7), ("03", 9)]
    rows = list(zip(clients.clients, clients.rounds.tolist(), strict=True))
    clients = replace(clients, failed=np.array([row in failed for row in rows]))
    observation = observe(log(val_loss=jump(16, height=1)), clients, 0.01)
    assert list(observation.failures.items()) == [("01", (7,)), ("03", (4, 9))]
    assert observation.healthy == ("00", "02")
