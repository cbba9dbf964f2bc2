"""Whole runs with a change and without it: which differences count, and what they may cost."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tasks.diagnose.causes.base import Remedy
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.standing.contest import Contest
from tasks.diagnose.standing.ends import Ends, best_of, ending_of, mean_loss, needed
from tasks.diagnose.standing.suspicion import Option
from tasks.diagnose.thresholds import AS_GOOD, TUNED
from tasks.errors import SettingsError


def ends(without, *falls):
    return Ends(tuple(without), tuple(float(loss * np.exp(-fall)) for loss, fall in zip(without, falls, strict=True)))


def test_a_fall_is_a_difference_of_logarithms():
    found = Ends((0.4, 0.4), (0.2, 0.1))
    assert found.falls == pytest.approx((np.log(2), np.log(4)))
    assert found.fall == pytest.approx(1.5 * np.log(2))
    assert found.effect.by_seed == pytest.approx((2 / 3, 4 / 3))


def test_noise_is_the_deviation_over_seeds_of_the_log_loss():
    found = Ends((np.exp(1.0), np.exp(2.0), np.exp(3.0)), (1.0, 1.0, 1.0))
    # The standard deviation of 1, 2 and 3, with one degree of freedom less.
    assert found.noise == pytest.approx(1.0)
    assert np.isnan(Ends((1.0,), (0.5,)).noise)


def test_a_loss_that_ends_clearly_lower_with_every_seed_is_beyond_the_noise():
    assert ends([0.2, 0.201, 0.199], 0.6, 0.6, 0.6).beyond_noise(AS_GOOD)


def test_runs_that_end_anywhere_are_beyond_the_noise_if_all_of_them_end_higher():
    # With the change all end at 0.1. Without it they end at 2.3 or diverge: log losses 0.83, 9.21 and 9.21 (at most
    # 10,000), so falls of 3.1, 11.5 and 11.5: mean 8.7, above the noise of 4.8. The shares of the mean, at most 1, are
    # 0.36, 1 and 1, so their lower bound is 0.79 - 2.92 * 0.37 / sqrt(3) = 0.16.
    found = Ends((2.3, np.inf, np.inf), (0.1, 0.1, 0.1))
    assert not found.effect.proven
    assert found.beyond_noise(TUNED)
    # One run with the change ends at 2: only 0.14 below the best run without it.
    assert not Ends((2.3, np.inf, np.inf), (2.0, 0.1, 0.1)).beyond_noise(TUNED)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (ends([0.2] * 3, 0.0, 0.0, 0.0), "no fall"),
        (ends([0.2] * 3, -0.5, -0.5, -0.5), "it ends higher"),
        (ends([0.1, 0.2, 0.4], 0.6, 0.6, 0.6), "ln 2 = 0.69 of noise is more than the fall"),
        (ends([0.2] * 3, 0.9, 0.0, 0.0), "one seed of three: shares 3, 0, 0, capped at 1, have the mean 1/3"),
        (ends([0.2] * 3, 0.0009, 0.0009, 0.0009), "less than AS_GOOD"),
        (Ends((0.2,), (0.1,)), "one seed has no spread"),
    ],
)
def test_other_falls_are_not(found, why):
    assert not found.beyond_noise(AS_GOOD), why


def test_a_setting_must_matter_more_than_a_client():
    assert (needed(False), needed(True)) == (AS_GOOD, TUNED)
    found = ends([0.2] * 3, 0.39, 0.39, 0.39)
    assert found.beyond_noise(needed(False))
    assert not found.beyond_noise(needed(True))


def test_losses_of_0_and_infinity_are_compared_without_a_warning():
    assert Ends((0.2, 0.2, 0.2), (0.0, 0.0, 0.0)).beyond_noise(TUNED)
    assert not Ends((0.2, 0.2, 0.2), (np.inf, np.inf, np.inf)).beyond_noise(AS_GOOD)


def option(says):
    return Option(says, Remedy(says, {}))


def test_the_most_fitting_option_is_taken_if_it_is_nearly_the_best():
    # TAKEN_BACK is 0.9.
    a, b = option("a"), option("b")
    assert best_of([(a, 0.9), (b, 1.0)]) is a
    assert best_of([(a, 0.89), (b, 1.0)]) is b
    assert best_of([(a, -0.1), (b, -1.0)]) is a


def test_the_end_is_the_mean_of_the_last_five_rounds_that_were_measured():
    assert ending_of(30) == range(26, 31)
    assert ending_of(3) == range(1, 4)
    assert mean_loss({29: 0.1, 30: 0.4, 3: 9.0}, ending_of(30)) == pytest.approx(0.2)
    assert mean_loss({}, ending_of(30)) == np.inf


@dataclass
class Scripted:
    """A stand-in for the replayer: each replay has the loss that the test gives, by what its change says and seed."""

    losses: dict
    refused: tuple = ()
    spent: int = 0
    ran: list = field(default_factory=list)

    def begin(self, change, seed):
        if change.says in self.refused:
            raise SettingsError("not allowed")
        return Run(change, seed, self.losses[change.says])

    def advance(self, replay, until):
        while replay.next_round <= until:
            replay.losses["val_loss"].append(replay.curve(replay.next_round, replay.seed))
            self.ran.append((replay.change.says, replay.seed, replay.next_round))
            replay.next_round += 1
            self.spent += 1


class Run:
    def __init__(self, change, seed, curve):
        self.change, self.seed, self.next_round, self.losses = change, seed, 1, {"val_loss": []}
        self.curve = curve if callable(curve) else lambda at, seed: curve

    def losses_without(self, clients):
        return [0.5] * (self.next_round - 1)


A, B = Change("a"), Change("b")
LOGGED = dict.fromkeys(range(1, 11), 0.4)


def contest(losses, logged=LOGGED, allowed=1000, **more):
    return Contest(Scripted({"": 0.4, **losses}, **more), logged, 10, allowed)


def test_the_log_is_the_run_with_nothing_changed():
    ran = contest({})
    assert ran.run(NO_CHANGE) == LOGGED
    assert ran.replays.spent == 0
    assert ran.is_run(NO_CHANGE)
    # Another seed is not in the log.
    assert not ran.is_run(NO_CHANGE, 1)
    assert ran.run(NO_CHANGE, 1) == LOGGED
    assert ran.replays.spent == 10


def test_a_promise_is_the_fall_with_the_runs_own_seed():
    ran = contest({"a": 0.2})
    assert ran.promises(A, NO_CHANGE) == pytest.approx(np.log(2))
    assert {seed for _, seed, _ in ran.replays.ran} == {0}
    assert ran.replays.spent == 10


def test_a_run_that_is_worse_halfway_ends_there():
    ran = contest({"a": lambda at, _: 0.6 if at <= 5 else 0.01})
    # MARGIN is 0.2: above 0.4 * 1.2 in rounds 1 to 5.
    assert ran.promises(A, NO_CHANGE) == pytest.approx(np.log(0.4 / 0.6))
    assert ran.replays.spent == 5
    assert not ran.is_run(A)


def test_a_change_that_is_not_allowed_or_not_affordable_promises_nothing():
    assert contest({"a": 0.2}, refused=("a",)).promises(A, NO_CHANGE) is None
    short = contest({"a": 0.2}, allowed=9)
    assert short.promises(A, NO_CHANGE) is None
    assert short.replays.spent == 0


def test_ends_have_three_seeds_and_run_nothing_twice():
    ran = contest({"": lambda _, seed: 0.4 + seed / 10, "a": lambda _, seed: 0.2 + seed / 10})
    ran.promises(A, NO_CHANGE)
    found = ran.ends(A, NO_CHANGE)
    assert found.without == pytest.approx((0.4, 0.5, 0.6))
    assert found.with_change == pytest.approx((0.2, 0.3, 0.4))
    assert len(ran.replays.ran) == len(set(ran.replays.ran))
    # Seed 0 of nothing changed is the log: three replays of a, and two of nothing.
    assert ran.replays.spent == 50


def test_ends_never_cost_more_than_is_allowed():
    for allowed in (10, 29, 30, 49, 50):
        ran = contest({"a": 0.2}, allowed=allowed)
        ran.promises(A, NO_CHANGE)
        assert (ran.ends(A, NO_CHANGE) is not None) == (allowed >= 50)
        assert ran.replays.spent <= allowed


def test_a_series_is_the_mean_over_the_seeds_that_were_run_to_the_end():
    ran = contest({"a": lambda at, seed: at + seed})
    ran.run(A, 0)
    ran.run(A, 1)
    ran.run(A, 2, until=4)
    assert ran.series(A) == tuple(at + 0.5 for at in range(1, 11))
    assert ran.series(NO_CHANGE) == (0.4,) * 10


def test_a_series_runs_nothing():
    ran = contest({"a": 0.2})
    assert ran.series(A) == ()
    ran.run(A, until=4)
    assert ran.series(A) == (0.2,) * 4
    assert ran.replays.spent == 4


def test_rounds_that_the_log_has_not_measured_are_unknown_in_a_series():
    ran = contest({}, logged={2: 0.4, 4: 0.3})
    assert ran.series(NO_CHANGE) == pytest.approx((np.nan, 0.4, np.nan, 0.3), nan_ok=True)


def test_the_loss_of_others_is_known_of_replays_only():
    ran = contest({"a": 0.2})
    assert ran.loss_of_others(NO_CHANGE, ("03",)) is None
    ran.run(A)
    assert ran.loss_of_others(A, ("03",)) == pytest.approx(0.5)
