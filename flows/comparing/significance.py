"""Is the best group of a comparison really better, or did it only get the better seeds?

Groups are compared seed by seed, for cells of one seed share the clients and the first model: a paired t-test on the
differences. They are few, so no distribution-free test could decide (signs of five differences alone never go below
p = 0.06); that they are normal is the assumption.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
FEWEST_SEEDS = 3
"""Two differences that happen to be alike would pass for certainty."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What can be said of the group with the best mean.

    Attributes:
        best: the group.
        is_better: than every other group, at LEVEL.
        rival: the other group of the largest p; None if there is none to test against.
        p: that p, after Holm's correction over the other groups; None without a test.
        reason: why no test was done; empty if one was.
    """

    best: Group
    is_better: bool = False
    rival: Group | None = None
    p: float | None = None
    reason: str = ""


def judge(
    numbers: Mapping[Group, Mapping[str, float]], seeds: Sequence[str], higher: bool, resolution: float
) -> Verdict | None:
    """Returns whether the best of the groups is better than all others; None if no group has a number.

    It is if it beats each of them, in a two-sided paired t-test with Holm's correction. Against the runner-up alone
    would do if all groups had one variance: a third one that varies more may be the harder to tell from the best.

    Args:
        numbers: group → seed → a finite number.
        seeds: those of the grid. A best group that lacks one is not judged: what failed may be what was hard.
        higher: is better.
        resolution: the step of the number, as 1 / N for an accuracy on N examples; 0 for a loss. Differences count as
            spread by at least this much: three times one example more is no certainty.
    """
    known = {group: of for group, of in numbers.items() if of}
    if not known:
        return None
    sign = 1.0 if higher else -1.0
    best = max(known, key=lambda group: sign * float(np.mean(list(known[group].values()))))
    if len(known) == 1:
        return Verdict(best, reason="no other group has a result")
    if len(seeds) < FEWEST_SEEDS:
        return Verdict(best, reason=f"{len(seeds)} seed{'s'[: len(seeds) != 1]}, and a test needs {FEWEST_SEEDS}")
    if len(known[best]) < len(seeds):
        return Verdict(best, reason="its group lacks a seed")
    raw: dict[Group, float] = {}
    for other in known:
        if other == best:
            continue
        differences = [sign * (known[best][seed] - known[other][seed]) for seed in seeds if seed in known[other]]
        if len(differences) < FEWEST_SEEDS:
            return Verdict(best, rival=other, reason=f"another group has fewer than {FEWEST_SEEDS} seeds")
        raw[other] = paired_t_test(differences, resolution)
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    rival = max(corrected, key=lambda group: corrected[group])
    return Verdict(best, corrected[rival] < LEVEL, rival, corrected[rival])


def paired_t_test(differences: Sequence[float], resolution: float = 0.0) -> float:
    """Returns the two-sided p-value of n >= 2 differences having mean 0; their sd counts as at least `resolution`."""
    n, mean = len(differences), float(np.mean(differences))
    if mean == 0:
        return 1.0
    spread = max(float(np.std(differences, ddof=1)), resolution)
    if spread <= 1e-12 * abs(mean):  # the same difference each time, but for the rounding of its mean
        return 0.0
    return float(2 * stats.t.sf(abs(mean) / spread * math.sqrt(n), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values after Holm's correction (1979): the i-th smallest of m times m - i + 1, made monotone."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
