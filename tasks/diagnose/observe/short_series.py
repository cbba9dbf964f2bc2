"""Did a short series rise? The statistic of a split and a window, and its law where there is only noise."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from tasks.arrays import Floats
from tasks.detection.noise import SMALLER_HALF, smaller_half
from tasks.detection.null import p_value
from tasks.detection.windows import deviate

FEWEST_BEFORE, FEWEST_AFTER = 3, 1
"""Fewest losses before and after a split: where few take part, a client's second loss comes rounds after its first."""
_LASTING = 2
"""Fewest losses of a rise that lasts."""
_RECENT = 4
"""Losses right before a split, against which a client must have risen by itself."""
_WINDOWS = (1, 2, 4, 8)
"""Losses after a split that are compared; beside these, all of them."""
_OWN = 0.5
"""Share of its rise beside the others by which a client's loss must have risen by itself."""
_PRIOR = 4
"""Weight of all clients' noise in the noise of one client, in degrees of freedom."""
_LEAST_SD = 1e-6
"""Lower bound of the sd of the noise of the log loss."""
_TAIL = 5
"""Degrees of freedom of the simulated noise."""
_CHUNK = 500
"""Panels that are simulated at a time."""
MOST_SERIES = 400_000
"""Most series that are simulated: 100 clients in 4,000 panels. Series of 100 losses take 14 s on one core."""
_EXTREME = 0.01
"""Share of the simulated heights from which the law beyond all of them is inferred."""


class Law(Protocol):
    """The clearest rise of any client of a panel under H0."""

    def of_its_kind(self, height: float, width: int) -> float:
        """Returns the p-value of a height among the heights of one loss (`width` 1), or of several."""

    def p_value(self, smaller: float) -> float:
        """Returns the probability that noise alone is as clear in either kind."""


@dataclass(frozen=True)
class SimulatedLaw:
    """The clearest rise of any client under H0, from (draws,) simulated panels, each ascending.

    Attributes:
        single: largest statistic of one loss.
        lasting: largest statistic of several.
        smallest: smaller of the p-values of these two.
    """

    single: Floats
    lasting: Floats
    smallest: Floats

    def of_its_kind(self, height: float, width: int) -> float:
        """See `Law`."""
        return p_value(self.single if width == 1 else self.lasting, height)

    def p_value(self, smaller: float) -> float:
        """See `Law`."""
        return float((1 + np.searchsorted(self.smallest, smaller, side="right")) / (1 + len(self.smallest)))


@dataclass(frozen=True)
class Tail:
    """The law of the largest statistic of one series, from `maxima` (N,), ascending; -inf: a series without one.

    Up to `start`, the 99 % quantile, it is the share of the maxima. Above, the excess is exponential with the mean
    `spread`. For 4 to 100 losses, the shape of a generalised Pareto law of the excesses (Hosking & Wallis 1987, doi
    10.1080/00401706.1987.10488243) is from -0.15 to 0.06; 0 is the exponential law, and below 0 it is conservative.
    """

    maxima: Floats
    start: float
    spread: float

    def beyond(self, height: float) -> float:
        """Returns the probability of a height of at least `height`."""
        at = min(height, self.start)
        share = 1 - float(np.searchsorted(self.maxima, at, side="left")) / len(self.maxima)
        return share * math.exp((at - height) / self.spread)


def tail(maxima: Floats) -> Tail:
    """Returns the law of `maxima` (N,), in any order."""
    ascending = np.sort(maxima)
    known = ascending[np.isfinite(ascending)]
    if not len(known):
        return Tail(ascending, math.inf, 1.0)
    start = float(np.quantile(known, 1 - _EXTREME))
    return Tail(ascending, start, float((known[known >= start] - start).mean()) or _LEAST_SD)


@dataclass(frozen=True)
class PooledLaw:
    """The law of a large panel, whose clients are independent, from the laws of one client's series.

    The clearest of K series is below a height with the probability (1 - p)^K. One loss and several count as
    independent, which is conservative: one large loss makes both clear.
    """

    num_clients: int
    single: Tail
    lasting: Tail

    def of_its_kind(self, height: float, width: int) -> float:
        """See `Law`."""
        alone = (self.single if width == 1 else self.lasting).beyond(height)
        return -math.expm1(self.num_clients * math.log1p(-alone)) if alone < 1 else 1.0

    def p_value(self, smaller: float) -> float:
        """See `Law`."""
        return 1 - (1 - smaller) ** 2


def clearest(z: Floats, d: Floats, noise: Floats, law: Law) -> tuple[float, int, int]:
    """Returns the p-value of the clearest rise of a series (n,), and its window: its first index, and its end."""
    candidates = []
    for width, row in heights(z[None], d[None], noise):
        at = int(row[0].argmax())
        height, split = float(row[0, at]), at + FEWEST_BEFORE
        # If no draw reaches several rises, the highest is the clearest.
        candidates.append((law.of_its_kind(height, width), -height, split, min(len(z), split + width)))
    least, _, split, end = min(candidates)
    return law.p_value(least), split, end


def noise_sd(steps: Floats) -> Floats:
    """Returns the sd (draws,) of independent noise from its differences (draws, S): from the smaller half of them."""
    return np.asarray(np.maximum(smaller_half(np.abs(steps), 1) / (SMALLER_HALF * math.sqrt(2)), _LEAST_SD))


def heights(z: Floats, d: Floats, noise: Floats) -> Iterator[tuple[int, Floats]]:
    """Yields for each window its width and the statistic of the splits from 3 losses on (draws, splits).

    The statistic is Student's t of d in the window against d before the split, as the normal deviate that is as
    improbable. The last width is n: all losses after the split, at least two, because a single loss has its own law. If
    z rose by less than half as much as d, the statistic is at most 0.

    Args:
        z: (draws, n) log losses.
        d: (draws, n) how far they are from what is typical.
        noise: (draws,) sd of all clients' noise.
    """
    n = z.shape[1]
    # Around the mean, so that the squares keep their digits.
    z, d = (values - values.mean(axis=1, keepdims=True) for values in (z, d))
    total_z, total, square = (np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0))) for values in (z, d, d**2))
    windows = [width for width in _WINDOWS if width == 1 or width < n - FEWEST_BEFORE]
    for width in windows if n < FEWEST_BEFORE + _LASTING else [*windows, n]:
        split = np.arange(FEWEST_BEFORE, n - (width if width < n else _LASTING) + 1)
        end = np.minimum(split + width, n)
        recent, size = np.maximum(split - _RECENT, 0), end - split
        after, before = (total[:, end] - total[:, split]) / size, total[:, split] / split
        inner = np.maximum(square[:, end] - size * after**2 - split * before**2, 0.0)
        freedom = size + split - 2 + _PRIOR
        variance = (inner + _PRIOR * noise[:, None] ** 2) / freedom
        t = (after - before) / np.sqrt(variance * (1 / size + 1 / split))
        height = deviate(t, freedom)
        own = (total_z[:, end] - total_z[:, split]) / size - (total_z[:, split] - total_z[:, recent]) / (split - recent)
        yield width, np.where(own >= _OWN * (after - before), height, np.minimum(height, 0.0))


@lru_cache(maxsize=64)
def panel_law(lengths: tuple[int, ...], draws: int) -> Law:
    """Returns the law of panels of noise with `lengths` losses, one length a client; `draws` is a multiple of 500.

    Panels are simulated as a whole if they have at most MOST_SERIES series together. Larger ones have the law of
    independent series.
    """
    return simulated_law(lengths, draws) if draws * len(lengths) <= MOST_SERIES else pooled_law(lengths)


def pooled_law(lengths: Sequence[int]) -> PooledLaw:
    """Returns the law of a large panel of noise from MOST_SERIES series, whose lengths are mixed as `lengths` are."""
    rng = np.random.default_rng([len(lengths), sum(lengths)])
    # So many clients give the sd of the noise without an error.
    noise = noise_sd(np.diff(rng.standard_t(_TAIL, (1, MOST_SERIES)), axis=1))
    drawn: tuple[list[Floats], list[Floats]] = ([], [])
    for n, share in zip(*np.unique(lengths, return_counts=True), strict=True):
        left = -(-MOST_SERIES * int(share) // len(lengths))
        while left > 0:
            size = min(left, 10 * _CHUNK)
            left -= size
            z = rng.standard_t(_TAIL, (size, n))
            tops = [(width, rows.max(axis=1)) for width, rows in heights(z, z, np.repeat(noise, size))]
            none = np.full(size, -np.inf)
            for maxima, lasting in zip(drawn, (False, True), strict=True):
                maxima.append(np.max([none, *(top for width, top in tops if (width > 1) == lasting)], axis=0))
    single, several = (tail(np.concatenate(maxima)) for maxima in drawn)
    return PooledLaw(len(lengths), single, several)


def simulated_law(lengths: Sequence[int], draws: int) -> SimulatedLaw:
    """Returns the law of panels from `draws` whole panels."""
    rng = np.random.default_rng([len(lengths), sum(lengths)])
    drawn: tuple[list[Floats], list[Floats]] = ([], [])
    for _ in range(draws // _CHUNK):
        panels = [rng.standard_t(_TAIL, (_CHUNK, n)) for n in lengths]
        noise = noise_sd(np.concatenate([np.diff(z, axis=1) for z in panels], axis=1))
        tops = [(width, rows.max(axis=1)) for z in panels for width, rows in heights(z, z, noise)]
        none = np.full(_CHUNK, -np.inf)  # of clients with four losses each: none has several after three
        for maxima, lasting in zip(drawn, (False, True), strict=True):
            maxima.append(np.max([none, *(top for width, top in tops if (width > 1) == lasting)], axis=0))
    single, several = (np.concatenate(maxima) for maxima in drawn)
    # The share of draws that are as high is the p-value of a draw among all.
    values = [(len(m) - np.searchsorted(np.sort(m), m)) / (1 + len(m)) for m in (single, several)]
    return SimulatedLaw(np.sort(single), np.sort(several), np.sort(np.minimum(*values)))
