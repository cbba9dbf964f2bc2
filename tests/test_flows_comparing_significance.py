"""flows/comparing/significance.py: p-values match closed forms, and chance alone is rarely printed bold."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.comparing.significance import LEVEL, Group, holm, judge, paired_t_test

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
A, B, C = ("a",), ("b",), ("c",)
SEEDS = ("0", "1", "2")


def by_seed(*values: float) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def p_of_two_degrees(t: float) -> float:
    """Student's t with 2 degrees of freedom: P(|T| > t) = 1 - t / √(t² + 2)."""
    return 1 - t / math.sqrt(t * t + 2)


@pytest.mark.parametrize(
    ("differences", "t"),
    [
        ([1.0, 2.0, 3.0], 2 / (1 / math.sqrt(3))),  # mean 2, sample sd 1, n 3
        ([9.0, 10.0, 11.0], 10 / (1 / math.sqrt(3))),
        ([-1.0, -2.0, -3.0], 2 / (1 / math.sqrt(3))),
        ([0.0, 0.0, 3.0], 1 / (math.sqrt(3) / math.sqrt(3))),  # mean 1, variance (1 + 1 + 4) / 2 = 3
    ],
)
def test_paired_t_test_is_student_s_closed_form(differences: list[float], t: float) -> None:
    assert paired_t_test(differences) == pytest.approx(p_of_two_degrees(t), rel=1e-9)


def test_paired_t_test_of_two_differences_is_cauchy_s() -> None:
    # One degree of freedom: P(|T| > t) = 1 - 2/π atan t; mean 2, sd √2, t = 2 / (√2 / √2).
    assert paired_t_test([1.0, 3.0]) == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_no_difference_is_no_evidence_and_a_constant_one_is_certain() -> None:
    assert paired_t_test([0.0, 0.0, 0.0]) == 1.0
    assert paired_t_test([-1.0, 0.0, 1.0]) == 1.0
    assert paired_t_test([0.3, 0.3, 0.3]) == 0.0


def test_the_same_one_example_more_each_time_is_no_certainty() -> None:
    # The sd counts as one example: t = 1 / (1 / √3) = √3.
    one = 1 / 360
    assert paired_t_test([one] * 3, resolution=one) == pytest.approx(p_of_two_degrees(math.sqrt(3)))


def test_holm_multiplies_the_smallest_by_all_and_stays_monotone() -> None:
    # Sorted: 0.01 · 3 = 0.03; 0.03 · 2 = 0.06; 0.04 · 1, raised to 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_p_value_and_bonferroni_s(p_values: list[float]) -> None:
    for raw, corrected in zip(p_values, holm(p_values), strict=True):
        assert raw <= corrected <= min(1.0, raw * len(p_values))


def test_the_best_must_beat_every_other_group() -> None:
    # a - b = 9, 10, 11: p = 0.0033. a - c = 1, 2, 3: p = 0.0742. It is the larger of two, so Holm does not change it.
    a = by_seed(20.0, 30.0, 40.0)
    b, c = by_seed(11.0, 20.0, 29.0), by_seed(19.0, 28.0, 37.0)
    alone = judge({A: a, B: b}, SEEDS, True, 0.0)
    assert alone is not None
    assert (alone.best, alone.is_better, alone.rival) == (A, True, B)
    assert alone.p == pytest.approx(p_of_two_degrees(10 * math.sqrt(3)))
    both = judge({A: a, B: b, C: c}, SEEDS, True, 0.0)
    assert both is not None
    assert (both.best, both.is_better, both.rival) == (A, False, C)
    assert both.p == pytest.approx(p_of_two_degrees(2 * math.sqrt(3)))


def test_holm_s_correction_can_take_the_bold_away() -> None:
    # a - b = a - c with p = 1 - t/√(t² + 2) = 0.03 at t = 5.64: one test has 0.03 < 0.05, two have 2 · 0.03 = 0.06.
    t = math.sqrt(2 * 0.97**2 / (1 - 0.97**2))
    mean = t / math.sqrt(3)  # sd 1
    a, other = by_seed(mean - 1, mean, mean + 1), by_seed(0.0, 0.0, 0.0)
    alone, both = judge({A: a, B: other}, SEEDS, True, 0.0), judge({A: a, B: other, C: other}, SEEDS, True, 0.0)
    assert alone is not None
    assert both is not None
    assert (alone.p, alone.is_better) == (pytest.approx(0.03), True)
    assert (both.p, both.is_better) == (pytest.approx(0.06), False)


def test_lower_is_better_where_it_is() -> None:
    verdict = judge({A: by_seed(20.0, 30.0, 40.0), B: by_seed(11.0, 20.0, 29.0)}, SEEDS, False, 0.0)
    assert verdict is not None
    assert (verdict.best, verdict.is_better) == (B, True)


@pytest.mark.parametrize(
    ("numbers", "seeds", "reason"),
    [
        ({A: by_seed(1.0), B: by_seed(0.5)}, ("0",), "1 seed, and a test needs 3"),
        ({A: by_seed(1.0, 1.1), B: by_seed(0.5, 0.6)}, ("0", "1"), "2 seeds, and a test needs 3"),
        ({A: by_seed(1.0, 2.0, 3.0), B: {}}, SEEDS, "no other group has a result"),
        ({A: by_seed(9.0, 9.0), B: by_seed(1.0, 2.0, 3.0)}, SEEDS, "the best group lacks a seed"),
        ({A: by_seed(9.0, 9.0, 9.0), B: by_seed(1.0, 2.0)}, SEEDS, "another group has fewer than 3 seeds"),
    ],
)
def test_without_enough_seeds_nothing_is_claimed(
    numbers: dict[Group, dict[str, float]], seeds: tuple[str, ...], reason: str
) -> None:
    verdict = judge(numbers, seeds, True, 0.0)
    assert verdict is not None
    assert (verdict.best, verdict.is_better, verdict.reason) == (A, False, reason)


def test_no_number_at_all_gives_no_verdict() -> None:
    assert judge({A: {}, B: {}}, SEEDS, True, 0.0) is None


def test_groups_are_compared_seed_by_seed() -> None:
    # An unpaired test would not find the difference: the seeds differ more, although the difference is in every seed.
    seeds = tuple(str(seed) for seed in range(5))
    own = [0.0, 10.0, 20.0, 30.0, 40.0]
    gain = [1.0, 1.1, 0.9, 1.05, 0.95]
    numbers = {A: dict(zip(seeds, np.add(own, gain).tolist(), strict=True)), B: dict(zip(seeds, own, strict=True))}
    verdict = judge(numbers, seeds, True, 0.0)
    assert verdict is not None
    assert verdict.is_better


@given(st.permutations([A, B, C]), st.floats(0.1, 100), st.floats(-100, 100))
def test_order_unit_and_origin_do_not_matter(order: list[Group], unit: float, origin: float) -> None:
    numbers = {A: by_seed(3.0, 5.5, 4.0), B: by_seed(2.0, 4.0, 3.5), C: by_seed(0.0, 1.0, 0.5)}
    moved = {group: {seed: unit * value + origin for seed, value in numbers[group].items()} for group in order}
    plain, other = judge(numbers, SEEDS, True, 0.0), judge(moved, SEEDS, True, 0.0)
    assert plain is not None
    assert other is not None
    assert (other.best, other.rival, other.p) == (plain.best, plain.rival, pytest.approx(plain.p, rel=1e-6))


def normal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.normal(size=n)


def skewed(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return np.exp(rng.normal(size=n))


def accuracy(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.binomial(360, 0.97, size=n) / 360


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize(("draw", "resolution"), [(normal, 0.0), (skewed, 0.0), (accuracy, 1 / 360)])
def test_noise_alone_is_bold_in_at_most_five_of_a_hundred(
    draw: Draw, resolution: float, groups: int, seeds: int
) -> None:
    """Cells whose numbers are a value of their seed plus noise, so that the groups differ by chance only."""
    rng, trials, names = np.random.default_rng(7), 1000, tuple(str(seed) for seed in range(seeds))
    bold = 0
    for _ in range(trials):
        shared = rng.normal(size=seeds).round() * resolution * 10
        numbers = {
            (str(k),): dict(zip(names, (shared + draw(rng, seeds)).tolist(), strict=True)) for k in range(groups)
        }
        verdict = judge(numbers, names, True, resolution)
        assert verdict is not None
        bold += verdict.is_better
    # Three standard errors of a rate of 5 % over the trials: 2.1 %.
    assert bold / trials <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / trials)


def test_a_real_difference_is_found_with_few_seeds() -> None:
    """With five seeds, a difference of three sds of the noise is mostly bold: the test is not too strict."""
    rng, trials, names = np.random.default_rng(8), 200, tuple("01234")
    found = 0
    for _ in range(trials):
        numbers = {
            A: dict(zip(names, 3 + rng.normal(size=5), strict=True)),
            B: dict(zip(names, rng.normal(size=5), strict=True)),
        }
        verdict = judge(numbers, names, True, 0.0)
        assert verdict is not None
        found += verdict.is_better and verdict.best == A
    assert found / trials > 0.8
