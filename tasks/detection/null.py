"""The null law: how the statistics are distributed if the loss does not rise, from simulated noise."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tasks.arrays import Floats
from tasks.detection.noise import roughness
from tasks.detection.windows import PRIOR_SPREAD, Pair, statistics, student

_TAIL = 5
"""Degrees of freedom of Student's t, from which the noise is simulated."""
_BURN_IN = 32
"""Losses that are drawn and dropped before each simulated curve, so that its noise is stationary."""
_SHARE = 0.9
"""Quantile of the largest statistic of a pair in each curve; it is the location of the pair's law."""
_CHUNK = 500
"""Curves that are simulated at once. The number of curves is a multiple of it."""
MOST_DRAWS = 40_000
"""Most curves that are simulated. A probability below 1 / 40,001 is not resolved."""


@dataclass(frozen=True)
class Null:
    """The null law of the scan, from `draws` simulated curves.

    Attributes:
        location: of each pair of windows, the 0.9 quantile of the largest statistic of a curve.
        spread: of each pair, the mean excess over `location`. It makes pairs with light and with heavy tails
            comparable.
        maxima: two arrays (draws,), ascending, with the largest standardised statistic of each curve: one over the
            `mean` and `upper` pairs, one over the `beside` pairs. The two kinds have different tails, so each kind gets
            half of the significance.
    """

    location: dict[Pair, float]
    spread: dict[Pair, float]
    maxima: tuple[Floats, Floats]

    def p_value(self, height: float, beside: bool) -> float:
        """Returns the probability that noise alone reaches `height`, times 2 because both kinds of pairs are tested.

        It is from 2 / (draws + 1) to 1.
        """
        return min(1.0, 2 * p_value(self.maxima[beside], height))

    def critical(self, significance: float, beside: bool) -> float:
        """Returns the height above which `p_value` is at most `significance`; infinite if there is none."""
        return critical(self.maxima[beside], significance / 2)

    def least_rise(self, significance: float, sd: float, scale: float) -> float:
        """Returns the smallest lasting rise of the mean that some pair can claim, in units of the series.

        `sd` and `scale` are the curve's `Noise.sd` and `Noise.scale`.
        """
        least = []
        for (a, b, level), location in self.location.items():
            height = location + self.critical(significance, level == "beside") * self.spread[a, b, level]
            if level == "mean":
                least.append(height * scale)
            elif level == "beside":
                least.append(student(height, a + b - 2 + PRIOR_SPREAD) * sd * math.sqrt(1 / a + 1 / b))
        return min(least)


def p_value(maxima: Floats, height: float) -> float:
    """Returns the probability that noise alone reaches `height`; at least 1 / (draws + 1).

    `maxima` (draws,) are the largest statistics of simulated noise, ascending.
    """
    above = len(maxima) - int(np.searchsorted(maxima, height, side="left"))
    return (1 + above) / (1 + len(maxima))


def critical(maxima: Floats, significance: float) -> float:
    """Returns the height above which `p_value` is at most `significance`; infinite if there is none."""
    allowed = math.floor(significance * (1 + len(maxima)) + 1e-9) - 1
    return float(maxima[-1 - allowed]) if allowed >= 0 else math.inf


def _correlated(rng: np.random.Generator, draws: int, n: int, rho: float) -> Floats:
    shocks = rng.standard_t(_TAIL, (n + _BURN_IN, draws))
    for t in range(1, n + _BURN_IN):
        shocks[t] += rho * shocks[t - 1]
    return np.ascontiguousarray(shocks[_BURN_IN:].T)


def simulate(n: int, rho: float, draws: int) -> Null:
    """Returns the null law for N losses with noise of the lag-1 correlation ρ, from `draws` simulated curves."""
    rng = np.random.default_rng([n, round(100 * rho), draws])
    parts: dict[Pair, list[Floats]] = {}
    for _ in range(draws // _CHUNK):
        curves = _correlated(rng, _CHUNK, n, rho)
        for pair, _, rise in statistics(curves, roughness(curves, 1)):
            parts.setdefault(pair, []).append(rise.max(axis=1))
    largest = {pair: np.concatenate(chunks) for pair, chunks in parts.items()}
    location = {pair: float(np.quantile(values, _SHARE)) for pair, values in largest.items()}
    spread = {
        pair: float((values[values > location[pair]] - location[pair]).mean()) for pair, values in largest.items()
    }
    maxima = [
        np.sort(
            np.max(
                [
                    (values - location[pair]) / spread[pair]
                    for pair, values in largest.items()
                    if (pair[2] == "beside") == beside
                ],
                axis=0,
            )
        )
        for beside in (False, True)
    ]
    return Null(location, spread, (maxima[0], maxima[1]))


_simulated = lru_cache(maxsize=256)(simulate)


def null_law(n: int, correlation: float, significance: float) -> Null:
    """Returns the null law of the scan for N losses. The same arguments give the same law, simulated once a process.

    4,000 curves (see `draws_for`) take 0.02 s (N = 10) to 1 s (N = 200) on one core. N is rounded up to a multiple of 8
    above 32 and to a multiple of 32 above 128, so that a live run does not need a new simulation in every round.
    """
    step = 1 if n <= 32 else 8 if n <= 128 else 32
    return _simulated(-(-n // step) * step, round(correlation, 1), draws_for(significance))


def draws_for(significance: float) -> int:
    """Returns how many curves to simulate: 10 / significance, so that 10 lie in the tail; from 4,000 to 40,000."""
    return int(min(MOST_DRAWS, max(4_000, np.ceil(10 / significance / _CHUNK) * _CHUNK)))
