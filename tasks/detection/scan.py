"""The scan of one curve: every pair of windows at every split, standardised by the null law."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.detection.noise import Noise, noise_of
from tasks.detection.null import Null, at_splits, null_law
from tasks.detection.windows import KINDS, NEAR, as_normal, kind_of, statistics


@dataclass(frozen=True)
class Cells:
    """One entry for every pair of windows and every split.

    Attributes:
        height: the standardised statistic.
        split: number of losses before the window after the split, which holds the losses split … split + after - 1.
        after: A, the number of losses in the window after the split.
        before: B, the number of losses in the window before the split that show the level: of `past` and `jump`, at
            most NEAR.
        kind: the place of the pair's kind in `KINDS`.
    """

    height: Floats
    split: NDArray[np.int64]
    after: NDArray[np.int64]
    before: NDArray[np.int64]
    kind: NDArray[np.int64]

    @property
    def end(self) -> NDArray[np.int64]:
        """Number of losses that the cell needs: up to the end of the window after the split."""
        return self.split + self.after


def all_cells(z: Floats, scale: float, law: Null, chosen: tuple[int, ...] | None = None) -> Cells:
    """Returns every cell of the series z (N,) with the noise scale `scale`, standardised by `law`.

    With `chosen`, only the cells with these splits.
    """
    none = np.zeros(0, dtype=np.int64)
    parts = [[np.zeros(0), none, none, none, none]]
    for pair, first, rise in statistics(z[None, :], np.array([scale])):
        places = at_splits(first, rise.shape[1], chosen)
        if not len(places):
            continue
        a, b, level = pair
        height = (as_normal(pair, rise[0, places]) - law.location[pair]) / law.spread[pair]
        splits = first + places
        right_before = min(b, NEAR) if level in ("past", "jump") else b
        kind = kind_of(pair)
        parts.append([height, splits, *(np.full(len(height), value) for value in (a, right_before, kind))])
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class CurveScan:
    """The scan of one curve: its noise, the null law, every cell, and each cell's height minus its critical height."""

    noise: Noise
    law: Null
    cells: Cells
    excess: Floats


def scan_curve(z: Floats, significance: float, splits: tuple[int, ...] | None = None) -> CurveScan:
    """Returns the scan of the series z (N,). A cell whose excess is above 0 is a claim at `significance`.

    With `splits`, a rise can begin only there.
    """
    noise = noise_of(z)
    law = null_law(len(z), noise.correlation, significance, splits)
    cells = all_cells(z, noise.scale, law, splits)
    critical = np.array([law.critical(significance, kind) for kind in range(len(KINDS))])
    return CurveScan(noise, law, cells, cells.height - critical[cells.kind])
