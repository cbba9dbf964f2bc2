"""The null law: how the statistics are distributed if the loss does not rise, from simulated noise."""

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.detection.noise import roughness
from tasks.detection.windows import KINDS, Pair, as_normal, freedom_of, kind_of, statistics, student, variance_of

_log = logging.getLogger(__name__)

_TAIL = 5
"""Degrees of freedom of Student's t, from which the noise is simulated."""
_BURN_IN = 32
"""Losses that are drawn and dropped before each simulated curve, so that its noise is stationary."""
_SHARE = 0.9
"""Quantile of the largest statistic of a pair in each curve; it is the location of the pair's law."""
_CHUNK = 500
"""Curves that are drawn at once. The number of curves is a multiple of it."""
_AT_ONCE = 80_000
"""Most losses whose statistics one thread computes at once (one curve at least): the arrays stay in a core's cache."""
_LONG = 10_000_000
"""Losses from which on a simulation is announced: it takes about 7 s on two cores."""
MOST_DRAWS = 40_000
"""Most curves that are simulated. A probability below 1 / 40,001 is not resolved."""


@dataclass(frozen=True)
class Null:
    """The null law of the scan, from `draws` simulated curves.

    Attributes:
        location: of each pair of windows, the 0.9 quantile of the largest statistic of a curve.
        spread: of each pair, the mean excess over `location`. It makes pairs with light and with heavy tails
            comparable.
        maxima: of each kind of pairs (`KINDS`), (draws,) the largest standardised statistic of each curve, ascending.
            The kinds have different tails, so each kind has its own p-value.
        smallest: (draws,) the smallest of the p-values of the kinds of each curve, ascending.
    """

    location: dict[Pair, float]
    spread: dict[Pair, float]
    maxima: tuple[Floats, ...]
    smallest: Floats

    def p_value(self, height: float, kind: int) -> float:
        """Returns the probability that noise alone makes any kind as improbable as `height` is in this `kind`.

        It is at least 1 / (draws + 1).
        """
        alone = p_value(self.maxima[kind], height)
        return float((1 + np.searchsorted(self.smallest, alone, side="right")) / (1 + len(self.smallest)))

    def critical(self, significance: float, kind: int) -> float:
        """Returns the height above which `p_value` is at most `significance`; infinite if there is none."""
        draws = len(self.smallest)
        allowed = math.floor(significance * (1 + draws) + 1e-9) - 1
        if allowed < 1:
            return math.inf
        # With ties, fewer curves than allowed are claimed.
        least = float(self.smallest[allowed])
        below = self.smallest[self.smallest < least]
        return critical(self.maxima[kind], float(below[-1])) if len(below) else math.inf

    def least_rise(self, significance: float, sd: float, scale: float) -> float:
        """Returns the smallest lasting rise of the mean that some pair can claim, in units of the series.

        `sd` and `scale` are the curve's `Noise.sd` and `Noise.scale`.
        """
        least = []
        for pair, location in self.location.items():
            level = pair[2]
            height = location + self.critical(significance, kind_of(pair)) * self.spread[pair]
            if level == "mean":
                least.append(height * scale)
            elif level != "upper":
                least.append(student(height, freedom_of(pair)) * sd * math.sqrt(variance_of(pair)))
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


def simulate(n: int, rho: float, draws: int, splits: tuple[int, ...] | None = None) -> Null:
    """Returns the null law for N losses with noise of the lag-1 correlation ρ, from `draws` simulated curves.

    With `splits`, a rise can begin only there: see `at_splits`.
    """
    if n * draws >= _LONG:
        _log.info("simulating %d curves of %d losses, for what noise alone does", draws, n)
    rng = np.random.default_rng([n, round(100 * rho), draws])
    parts: dict[Pair, list[Floats]] = {}
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        # The curves are drawn in their order, so the law does not depend on the number of cores.
        for begin in range(0, draws // _CHUNK, cores):
            drawn = [_correlated(rng, _CHUNK, n, rho) for _ in range(begin, min(begin + cores, draws // _CHUNK))]
            for chunk in pool.map(partial(_largest, splits), drawn):
                for pair, highest in chunk.items():
                    parts.setdefault(pair, []).append(highest)
    largest = {pair: np.concatenate(chunks) for pair, chunks in parts.items()}
    location = {pair: float(np.quantile(values, _SHARE)) for pair, values in largest.items()}
    spread = {
        pair: float((values[values > location[pair]] - location[pair]).mean()) for pair, values in largest.items()
    }
    standardised: list[list[Floats]] = [[] for _ in KINDS]
    for pair, values in largest.items():
        standardised[kind_of(pair)].append((values - location[pair]) / spread[pair])
    maxima = [np.max(kind, axis=0) if kind else np.full(draws, -np.inf) for kind in standardised]
    # The share of the draws that are as high is the p-value of a draw among all.
    ascending = tuple(np.sort(each) for each in maxima)
    shares = [(len(m) - np.searchsorted(a, m)) / (1 + len(m)) for m, a in zip(maxima, ascending, strict=True)]
    return Null(location, spread, ascending, np.sort(np.min(shares, axis=0)))


def _largest(splits: tuple[int, ...] | None, curves: Floats) -> dict[Pair, Floats]:
    """Returns pair -> the largest statistic of each curve, (draws,)."""
    found: dict[Pair, list[Floats]] = {}
    rows = max(1, _AT_ONCE // curves.shape[1])
    for begin in range(0, len(curves), rows):
        few = curves[begin : begin + rows]
        for pair, first, rise in statistics(few, roughness(few, 1)):
            chosen = rise[:, at_splits(first, rise.shape[1], splits)] if splits is not None else rise
            if chosen.shape[1]:
                found.setdefault(pair, []).append(chosen.max(axis=1))
    return {pair: as_normal(pair, np.concatenate(parts)) for pair, parts in found.items()}


def at_splits(first: int, count: int, splits: tuple[int, ...] | None) -> NDArray[np.int64]:
    """Returns which of the `count` splits from `first` on are among `splits`, as places; None: all of them."""
    places = np.arange(count)
    return places if splits is None else places[np.isin(places + first, splits)]


_simulated = lru_cache(maxsize=256)(simulate)


def null_law(n: int, correlation: float, significance: float, splits: tuple[int, ...] | None = None) -> Null:
    """Returns the null law of the scan for N losses. The same arguments give the same law, simulated once a process.

    4,000 curves (see `draws_for`) take 0.02 s (N = 10) to 1 s (N = 200) on one core. N is rounded up to a multiple of 8
    above 32 and to a multiple of 32 above 128, so that a live run does not need a new simulation in every round. With
    `splits`, N is not rounded.
    """
    if splits is not None:
        return _simulated(n, round(correlation, 1), draws_for(significance), splits)
    step = 1 if n <= 32 else 8 if n <= 128 else 32
    return _simulated(-(-n // step) * step, round(correlation, 1), draws_for(significance))


def draws_for(significance: float) -> int:
    """Returns how many curves to simulate: 20 / significance, so that 20 lie in the tail; from 4,000 to 40,000."""
    return int(min(MOST_DRAWS, max(4_000, np.ceil(20 / significance / _CHUNK) * _CHUNK)))
