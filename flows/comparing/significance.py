"""Tests whether the best group of a comparison is better than the others, or only had better seeds.

Cells with the same seed share the clients and the first model. So groups are compared seed by seed, by a paired t-test
on the differences. The test assumes that the differences are normal. A test without this assumption needs more seeds:
the signs of five differences never give p < 0.06.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
"""A group counts as better if its p-value is below this."""
FEWEST_SEEDS = 3
"""Fewest seeds for a test. With two seeds, two differences that are equal by chance would look certain."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether the group with the best mean is better than every other group.

    Attributes:
        best: the group with the best mean.
        is_better: whether `best` is better than every other group, with p < LEVEL.
        rival: the other group with the largest p-value; None if no group was tested.
        p: the p-value of `best` against `rival`, after Holm's correction over the other groups; None without a test.
        reason: why no test was done; empty if a test was done.
    """

    best: Group
    is_better: bool = False
    rival: Group | None = None
    p: float | None = None
    reason: str = ""


def judge(
    numbers: Mapping[Group, Mapping[str, float]], seeds: Sequence[str], higher: bool, resolution: float
) -> Verdict | None:
    """Returns whether the group with the best mean is better than all others; None if no group has a number.

    It is better if it beats each other group in a two-sided paired t-test, with Holm's correction over the groups. A
    test against the runner-up alone is not enough: the best can be harder to separate from a third group with a larger
    variance.

    Args:
        numbers: group → seed → a finite number.
        seeds: the seeds of the grid. If the best group lacks a seed, there is no test: the failed seed can be a hard
            one.
        higher: whether a higher number is better.
        resolution: the smallest step of the number: 1 / N for an accuracy on N examples, 0 for a loss. The sd of the
            differences counts as at least this: one more correct example with each of three seeds proves nothing.
    """
    by_group = {group: by_seed for group, by_seed in numbers.items() if by_seed}
    if not by_group:
        return None
    sign = 1.0 if higher else -1.0
    best = max(by_group, key=lambda group: sign * float(np.mean(list(by_group[group].values()))))
    if len(by_group) == 1:
        return Verdict(best, reason="no other group has a result")
    if len(seeds) < FEWEST_SEEDS:
        return Verdict(best, reason=f"{len(seeds)} seed{'s'[: len(seeds) != 1]}, and a test needs {FEWEST_SEEDS}")
    if len(by_group[best]) < len(seeds):
        return Verdict(best, reason="the best group lacks a seed")
    raw: dict[Group, float] = {}
    for other in by_group:
        if other == best:
            continue
        differences = [
            sign * (by_group[best][seed] - by_group[other][seed]) for seed in seeds if seed in by_group[other]
        ]
        if len(differences) < FEWEST_SEEDS:
            return Verdict(best, rival=other, reason=f"another group has fewer than {FEWEST_SEEDS} seeds")
        raw[other] = paired_t_test(differences, resolution)
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    rival = max(corrected, key=lambda group: corrected[group])
    return Verdict(best, corrected[rival] < LEVEL, rival, corrected[rival])


def paired_t_test(differences: Sequence[float], resolution: float = 0.0) -> float:
    """Returns the two-sided p-value of n >= 2 differences for the hypothesis that their mean is 0.

    The sample sd of the differences counts as at least `resolution`. The p-value is 1 if the mean is 0, and 0 if all
    differences are equal and `resolution` is 0.
    """
    n, mean = len(differences), float(np.mean(differences))
    if mean == 0:
        return 1.0
    spread = max(float(np.std(differences, ddof=1)), resolution)
    if spread <= 1e-12 * abs(mean):  # equal differences, except for the rounding of their mean
        return 0.0
    return float(2 * stats.t.sf(abs(mean) / spread * math.sqrt(n), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values after Holm's correction (1979).

    The i-th smallest of m p-values is multiplied by m - i + 1 and cut at 1. Then each is raised to the one before it,
    if that is larger.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
