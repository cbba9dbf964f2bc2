"""What counts as a run that trains, on plain numbers."""

import numpy as np
import pytest

from tasks.diagnose.ended.course import Course, bar, early_bar, effect_of, final_rounds, good_enough, trains
from tasks.diagnose.window import chance_loss

ENDED = Course((np.inf, np.inf), 0, True)


def test_chance_is_the_entropy_of_the_labels() -> None:
    # Shares 1/2, 1/4, 1/4: ½ ln 2 + 2 · ¼ ln 4 = 1.5 ln 2.
    assert chance_loss(np.array([0, 0, 1, 3])) == pytest.approx(1.5 * np.log(2))
    assert chance_loss(np.array([2, 2])) == np.inf  # no loss is below that of the only label, 0, so there is no bar
    assert chance_loss(np.repeat(np.arange(10), 7)) == pytest.approx(np.log(10))


def test_no_constant_prediction_is_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    for _ in range(200):
        p = rng.dirichlet(np.ones(4))
        assert -np.log(p[labels]).mean() >= chance_loss(labels)


def test_a_replay_must_get_below_chance_and_about_to_the_model_it_starts_from() -> None:
    assert bar(2.3, 2.5) == 2.3
    assert bar(2.3, 0.4) == pytest.approx(0.44)
    assert bar(2.3, np.nan) == 2.3


def test_a_short_replay_of_unequal_classes_need_not_reach_chance():
    # From ln 2 = 0.69 to the 0.31 of a class with 9 % of the examples: half of the way is 0.5.
    assert early_bar(0.31, 0.69) == pytest.approx(0.5)
    assert early_bar(2.3, 0.4) == bar(2.3, 0.4)
    assert early_bar(2.3, np.nan) == 2.3


@pytest.mark.parametrize(("rounds", "last"), [(1, 1), (4, 1), (8, 2), (12, 3), (40, 3)])
def test_the_final_loss_is_that_of_the_last_rounds(rounds: int, last: int) -> None:
    assert final_rounds(rounds) == last
    losses = tuple(float(r) for r in range(rounds))
    assert Course(losses, 0, False).final == np.mean(losses[-last:])


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (Course((2.0, 1.9), 0, False), True),
        (Course((1.0, 2.4), 0, False), False),  # not below
        (Course((2.0, 2.2), 0, False), False),  # equal is not below
        (Course((2.0, 1.9), 1, False), False),  # a client fails
        (Course((2.0, 1.9), 0, True), False),
        (Course((2.0, np.inf), 0, False), False),
    ],
)
def test_a_run_trains_if_it_goes_on_without_failures_and_learns(course: Course, expected: bool) -> None:
    assert trains(course, 2.2) == expected


def test_only_seeds_that_do_not_train_otherwise_count() -> None:
    good, bad = Course((1.0,), 0, False), Course((3.0,), 0, False)
    assert effect_of([ENDED, good, bad], [good, good, bad], 2.0).by_seed == (1.0, 0.0)
    assert effect_of([ENDED] * 3, [good] * 3, 2.0).proven
    assert not effect_of([ENDED] * 3, [good, good, bad], 2.0).proven
    assert not effect_of([good] * 3, [good] * 3, 2.0).proven


def test_a_change_that_only_keeps_the_run_alive_is_not_good_enough() -> None:
    # Half of the way from 2.3 to 0.3 is 1.3.
    assert good_enough(1.29, 0.3, 2.3)
    assert not good_enough(1.31, 0.3, 2.3)
