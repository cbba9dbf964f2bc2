"""Did a short series rise? The statistic of a split and a window, and its law where there is only noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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


@dataclass(frozen=True)
class Law:
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
        """Returns the p-value of a height among the heights of one loss, or of several."""
        return p_value(self.single if width == 1 else self.lasting, height)

    def p_value(self, smaller: float) -> float:
        """Returns the probability that noise alone is as clear in either kind."""
        return float((1 + np.searchsorted(self.smallest, smaller, side="right")) / (1 + len(self.smallest)))


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
    """Returns the law of panels of noise with `lengths` losses, one length a client; `draws` is a multiple of 500."""
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
    return Law(np.sort(single), np.sort(several), np.sort(np.minimum(*values)))
