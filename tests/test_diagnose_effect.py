"""The share of a rise that a change removes, on plain numbers."""

import numpy as np
import pytest

from tasks.diagnose.replay.effect import Effect, height, removed


def test_effect_is_the_share_of_the_logarithm() -> None:
    # From 1 to 4 is ln 4. At 2, half of it is gone; at 1, all of it; at 1/2, three halves of it.
    assert height([4.0, 4.0], 1.0) == pytest.approx(np.log(4))
    assert removed([4.0], [2.0], 1.0) == pytest.approx(0.5)
    assert removed([4.0], [1.0], 1.0) == pytest.approx(1.0)
    assert removed([4.0], [0.5], 1.0) == pytest.approx(1.5)
    assert removed([2.0], [4.0], 1.0) == pytest.approx(-1.0)
    assert np.isnan(removed([0.9], [0.5], 1.0))
    assert np.isnan(removed([1.0], [0.5], 1.0))


def test_losses_that_are_not_finite_count_as_ten_thousand_times_the_level() -> None:
    assert height([np.inf], 0.5) == height([np.nan], 0.5) == pytest.approx(np.log(1e4))
    # On the logarithm, 100 times the level is half of 10,000 times the level.
    assert removed([np.inf], [50.0], 0.5) == pytest.approx(0.5)


def test_losses_far_below_the_level_count_as_a_ten_thousandth_of_it() -> None:
    assert height([1e-9], 0.5) == pytest.approx(-np.log(1e4))
    assert height([0.5e-4], 0.5) == pytest.approx(-np.log(1e4))


def test_bound_is_students() -> None:
    # Mean 0.8, sd 0.1, n 3: 0.8 - 2.920 * 0.1 / sqrt(3).
    effect = Effect((0.7, 0.8, 0.9))
    assert effect.mean == pytest.approx(0.8)
    assert effect.low == pytest.approx(0.8 - 2.920 * 0.1 / np.sqrt(3), abs=1e-3)
    assert effect.proven
    assert not Effect((0.8,)).proven  # one seed has no spread
    assert not Effect((0.1, 1.5)).proven
    # A fall below the level before the rise adds no spread: 1 and 2.1 count as 1 and 1.
    assert Effect((1.0, 2.1)).low == Effect((1.0, 2.1)).mean == 1.0
    assert not Effect((0.3, 0.3, 0.3)).proven


@pytest.mark.parametrize(
    ("by_seed", "proven"),
    [
        ((0.5, 0.5, 0.5), True),
        ((0.49, 0.49, 0.49), False),  # less than half
        ((0.5, 0.32, 0.68), False),  # half, but the bound 0.5 - 2.920 * 0.18 / sqrt(3) is 0.197
        ((0.5, 0.33, 0.67), True),  # 0.213
    ],
)
def test_cause_is_proven_by_half_of_the_rise_and_surely_a_fifth(by_seed: tuple[float, ...], proven: bool) -> None:
    assert Effect(by_seed).proven is proven


def test_share_of_one_seed_is_at_least_minus_one_and_a_half() -> None:
    assert Effect((-9.0,)).mean == -1.5
    assert Effect((-1.4,)).mean == -1.4
