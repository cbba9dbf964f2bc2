"""How much higher the losses after a round are than the best level before it, and how much noise alone explains.

The model of a loss curve without a rise is z_t = m_t + e_t over its N losses in order, with m never increasing and z
the logarithm of the loss: federated noise grows with the loss, an exponential decay becomes a line, and a rise is a
ratio. (Losses that are not all positive are taken as they are.) The noise e is stationary, with a lag-1 correlation
up to 0.6 and tails up to those of Student's t with 5 degrees of freedom. On the plain loss, a
prototype of the test found a step of 10 sd in 30 rounds in 15-37 % instead of 43-72 %: there, the curvature of the
descent passes for noise.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["mean", "upper", "beside"]
Pair = tuple[int, int, Level]
"""A, B, and the statistic: `mean` and `upper`, the mean or the upper quartile of the A losses after the split over the
least mean of B in a row before it, in noise scales of the whole curve; `beside`, the mean of the A losses over that of
the B right before the split, in units of the spread within these two windows."""

FEWEST = 8
"""Losses below which nothing can be told: six second differences are too few for a noise scale."""
LONG = 60
"""Losses from which on the curve itself says much about the correlation of its noise."""
_RESOLUTION = 1e-6
"""Least noise scale: a loss is a mean of float32 values, and a change below a millionth is rounding."""
_PRIOR, _PRIOR_ROUNDS = 0.3, 6
SMALLER_HALF = 0.3247
"""Mean of the smaller half of the sizes of standard normal numbers."""
_PRIOR_SPREAD = 3
"""Weight of the whole curve's noise in the spread within two windows, in degrees of freedom: 2 and 4 losses may lie
close together by chance."""
_TAIL = 5
_BURN_IN = 32
_SHARE = 0.9
_CHUNK = 500
MOST_DRAWS = 40_000
"""Most curves that are simulated: a probability below 1 / 40,001 is not resolved."""


@dataclass(frozen=True)
class Noise:
    """Noise of a curve.

    Attributes:
        scale: mean of the smaller half of the absolute second differences, in units of the series.
        correlation: lag-1 correlation, 0 to 0.6, from 60 losses on to 0.8.
    """

    scale: float
    correlation: float

    @property
    def sd(self) -> float:
        """Standard deviation around the level, were the noise Gaussian.

        The smaller half of |x| of a standard normal x has the mean (φ(0) - φ(q)) / 0.25 = 0.3247 with q its quartile,
        and second differences have sd · sqrt(6 - 8 ρ + 2 ρ²).
        """
        return self.scale / (SMALLER_HALF * math.sqrt(6 - 8 * self.correlation + 2 * self.correlation**2))


@dataclass(frozen=True)
class Cells:
    """The scan: one entry for every pair of windows (after: A losses, before: B losses) and every split.

    Attributes:
        height: standardised statistic.
        split: number of losses before the after-window, which holds the losses split … split + after - 1.
        after: A.
        before: B.
        beside: whether the statistic is `beside`.
    """

    height: Floats
    split: NDArray[np.int64]
    after: NDArray[np.int64]
    before: NDArray[np.int64]
    beside: NDArray[np.bool_]

    @property
    def end(self) -> NDArray[np.int64]:
        """Number of losses up to the end of the after-window: the cell needs no later ones."""
        return self.split + self.after


@dataclass(frozen=True)
class Null:
    """What noise alone gives, over `draws` simulated curves.

    Attributes:
        location: by window pair, the 0.9 quantile of the largest statistic of a curve.
        spread: by window pair, the mean excess over it, which makes pairs of light and heavy tail comparable.
        maxima: (draws,) the largest standardised statistic of each curve, ascending; of the pairs that are not `beside`
            and of those that are, which share the significance, as their tails differ.
    """

    location: dict[Pair, float]
    spread: dict[Pair, float]
    maxima: tuple[Floats, Floats]

    def p_value(self, height: float, beside: bool) -> float:
        """Probability that noise alone reaches as clear a height in either kind of pair; at least 2 / (draws + 1)."""
        return min(1.0, 2 * p_value(self.maxima[beside], height))

    def critical(self, significance: float, beside: bool) -> float:
        """The height above which `p_value` is at most `significance`; infinite if there is none."""
        return critical(self.maxima[beside], significance / 2)

    def least_rise(self, significance: float, sd: float, scale: float) -> float:
        """The lasting rise of the mean that the most sensitive pair claims, where the noise has this sd and scale."""
        found = []
        for (a, b, level), location in self.location.items():
            height = location + self.critical(significance, level == "beside") * self.spread[a, b, level]
            if level == "mean":
                found.append(height * scale)
            elif level == "beside":
                found.append(_student(height, a + b - 2 + _PRIOR_SPREAD) * sd * math.sqrt(1 / a + 1 / b))
        return min(found)


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


def smaller_half(sizes: Floats, least: int) -> Floats:
    """Returns the mean of the smaller half of each row, of at least `least`; (draws, S) to (draws,)."""
    half = max(least, sizes.shape[1] // 2)
    return np.partition(sizes, half - 1, axis=1)[:, :half].mean(axis=1)  # type: ignore[no-any-return]


def series(losses: Floats) -> Floats:
    """Returns what is tested: the logarithm of losses that are all positive, else the losses themselves."""
    return np.log(losses) if bool((losses > 0).all()) else losses


def _roughness(curves: Floats, lag: int) -> Floats:
    """Mean of the smaller half of |z_{t+lag} - 2 z_t + z_{t-lag}| by curve; (draws, N) to (draws,).

    A straight descent adds nothing, and a rise, a spike or a steep start only reach the half that is left out.
    """
    n = curves.shape[1]
    bends = np.abs(curves[:, 2 * lag :] - 2 * curves[:, lag : n - lag] + curves[:, : n - 2 * lag])
    return smaller_half(bends, 2)


def noise(z: Floats) -> Noise:
    """Returns the noise of one series (N,).

    The correlation is the ρ of an AR(1) whose second differences at lag k have the variance σ² (6 - 8 ρ^k + 2 ρ^2k)
    that best fits the observed ratio of lag 2 to lag 1 (from 60 losses on of lag 3 too, least squares of logarithms).
    It is drawn towards 0.3 with the weight of 6 losses, since a short curve hardly tells, and ends at 0.6 (from 60
    losses on 0.8): beyond, correlated noise cannot be told from a slow climb, and is taken for one.
    """
    n, curve = len(z), z[None, :]
    most = 0.8 if n >= LONG else 0.6
    rough = {lag: float(_roughness(curve, lag)[0]) for lag in ((1, 2, 3) if n >= LONG else (1, 2))}
    floor = _RESOLUTION * max(1.0, float(np.abs(z).max()))
    if min(rough.values()) <= 0:
        return Noise(max(rough[1], floor), most)
    rho = np.linspace(0, 0.95, 96)
    variance = {lag: 6 - 8 * rho**lag + 2 * rho ** (2 * lag) for lag in rough}
    misfit = sum(
        (np.log(variance[lag] / variance[1]) - 2 * np.log(rough[lag] / rough[1])) ** 2 for lag in rough if lag > 1
    )
    fitted = float(rho[int(np.argmin(misfit))])
    drawn = (n * fitted + _PRIOR_ROUNDS * _PRIOR) / (n + _PRIOR_ROUNDS)
    return Noise(max(rough[1], floor), min(most, drawn))


def _widths(n: int, most: int) -> list[int]:
    return [width for width in (1, 2, 4, 8, 16, 32) if width <= max(2, min(most, n // 3))]


def _statistics(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """Yields each pair, its first split, and its statistic for each split (draws, splits)."""
    yield from _rises(curves, scale)
    yield from _beside(curves, scale)


def _rises(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """(The after-window's level - least mean of B in a row before) / scale."""
    n = curves.shape[1]
    total = np.pad(np.cumsum(curves, axis=1), ((0, 0), (1, 0)))
    best = {
        b: np.minimum.accumulate((total[:, b:] - total[:, :-b]) / b, axis=1)  # column i: windows within z_1 … z_(i+b)
        for b in _widths(n, 16)
        if b > 1
    }
    levels: dict[tuple[int, Level], Floats] = {(a, "mean"): (total[:, a:] - total[:, :-a]) / a for a in _widths(n, 32)}
    levels |= {(a, "upper"): _upper_quartiles(curves, a) for a in _widths(n, 16) if a >= 4}
    for (a, level_after), after in levels.items():
        for b, level in best.items():
            first = max(3, b)
            if first <= n - a:
                rise = after[:, first:] - level[:, first - b : n - a - b + 1]
                yield (a, b, level_after), first, rise / scale[:, None]


def _beside(curves: Floats, scale: Floats) -> Iterator[tuple[Pair, int, Floats]]:
    """Student's t of the two windows beside a split, as the normal deviate that is as improbable.

    The noise of the curve counts as `_PRIOR_SPREAD` more degrees of freedom. After a rise the losses often spread more,
    which hides it from a scale of the whole curve; beside a split, 8 losses on either side still tell.
    """
    n = curves.shape[1]
    sd = scale / (SMALLER_HALF * math.sqrt(6))
    # Around the curve's mean, so that the squares keep their digits.
    around = curves - curves.mean(axis=1, keepdims=True)
    total, square = (np.pad(np.cumsum(part, axis=1), ((0, 0), (1, 0))) for part in (around, around**2))
    for a in (2, 4, 8, 16):
        for b in (4, 8, 16):
            if max(a, b) > n // 2:
                continue
            split = np.arange(b, n - a + 1)
            after = (total[:, split + a] - total[:, split]) / a
            before = (total[:, split] - total[:, split - b]) / b
            inner = square[:, split + a] - square[:, split - b] - a * after**2 - b * before**2
            freedom = a + b - 2 + _PRIOR_SPREAD
            variance = (np.maximum(inner, 0.0) + _PRIOR_SPREAD * sd[:, None] ** 2) / freedom
            yield (a, b, "beside"), b, deviate((after - before) / np.sqrt(variance * (1 / a + 1 / b)), freedom)


def deviate(t: Floats, freedom: int | NDArray[np.int64]) -> Floats:
    """Returns the normal deviate as improbable as Student's t (Wallace 1959; to 0.03 up to 4, freedom from 7 on)."""
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    found: Floats = shrink * np.sign(t) * np.sqrt(freedom * np.log1p(t**2 / freedom))
    return found


def _student(deviate: float, freedom: int) -> float:
    """The inverse of `deviate`, for deviates above 0."""
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    return math.sqrt(freedom * math.expm1(min(500.0, (deviate / shrink) ** 2 / freedom)))


def _upper_quartiles(curves: Floats, width: int) -> Floats:
    """The (width / 4 + 1)-th largest of every `width` losses in a row: the peaks of an oscillation, not one outlier."""
    kth = width - width // 4 - 1
    return np.partition(np.lib.stride_tricks.sliding_window_view(curves, width, axis=1), kth, axis=2)[:, :, kth]


def _correlated(rng: np.random.Generator, draws: int, n: int, rho: float) -> Floats:
    shocks = rng.standard_t(_TAIL, (n + _BURN_IN, draws))
    for t in range(1, n + _BURN_IN):
        shocks[t] += rho * shocks[t - 1]
    return np.ascontiguousarray(shocks[_BURN_IN:].T)


@lru_cache(maxsize=256)
def _null(n: int, rho: float, draws: int) -> Null:
    rng = np.random.default_rng([n, round(100 * rho), draws])
    parts: dict[Pair, list[Floats]] = {}
    for _ in range(draws // _CHUNK):
        curves = _correlated(rng, _CHUNK, n, rho)
        for pair, _, rise in _statistics(curves, _roughness(curves, 1)):
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


def null(n: int, correlation: float, significance: float) -> Null:
    """Returns the null law of the scan for N losses: the same for the same arguments, simulated once a process.

    4,000 curves (see `draws_for`) take 0.02 s (N = 10) to 1 s (N = 200) on one core. Above 32, N is rounded up to a
    multiple of 8, above 128 of 32, so that a live run need not simulate anew in every round.
    """
    step = 1 if n <= 32 else 8 if n <= 128 else 32
    return _null(-(-n // step) * step, round(correlation, 1), draws_for(significance))


def draws_for(significance: float) -> int:
    """Returns how many curves to simulate: so many that 10 are that improbable, from 4,000 to 40,000."""
    return int(min(MOST_DRAWS, max(4_000, np.ceil(10 / significance / _CHUNK) * _CHUNK)))


def scan(z: Floats, scale: float, law: Null) -> Cells:
    """Returns every cell of the series z (N,), standardised by `law`."""
    parts = []
    for (a, b, level), first, rise in _statistics(z[None, :], np.array([scale])):
        height = (rise[0] - law.location[a, b, level]) / law.spread[a, b, level]
        splits = np.arange(first, first + len(height))
        parts.append([height, splits, *(np.full(len(height), value) for value in (a, b, level == "beside"))])
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))
