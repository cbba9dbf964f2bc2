"""The updates of a round, one after the other: their statistics, without more of them in memory than needed."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.federate.statistics import (
    UpdateStatistics,
    Vector,
    combined,
    few,
    gram,
    sketch,
    sketched_median_shares,
    update_statistics,
)
from tasks.files import naming_path, scratch_file
from tasks.npz import read_into
from tasks.parameters import Params

_AT_A_TIME = 1 << 16
"""Values of updates that are computed at a time; one update (or its part) can have more. In float64 too, they fit into
a core's cache: larger blocks take three times as long."""
_PARTS = 16
"""Most parts into which the work on the updates is divided, for as many threads."""
_COLUMNS = 1 << 14
"""Fewest parameters of a part."""
_IN_MEMORY = 1 << 26
"""Most values that the threads hold together, in float32 and float64: 800 MB. One thread holds at least an update."""


class FewUpdates:
    """Updates that stay in memory; their statistics are exact."""

    def __init__(self) -> None:
        self._updates: list[Params] = []
        self._weights: list[float] = []

    def __enter__(self) -> "FewUpdates":
        return self

    def __exit__(self, *raised: object) -> None:
        self._updates.clear()

    def add(self, update: Params, weight: float) -> None:
        """Adds a client's finite update (P,) and its weight >= 0 in the average."""
        self._updates.append(update)
        self._weights.append(weight)

    def statistics(self) -> tuple[Vector, UpdateStatistics]:
        """Returns the shares (K,) of the average, and the statistics, over the K >= 1 updates that were added."""
        share = _shares(self._weights)
        return share, update_statistics(gram(self._updates), share)


class ManyUpdates:
    """Updates that are kept in a file without a name, and read again twice when all of them are known.

    Exact are the norms, drift, gradient diversity, distances and the cosines to the mean. The shares of the geometric
    median follow from sketches (`tasks.federate.statistics.sketch`); the cosines to the point with these shares are
    exact again.

    Rejected: to train a second time for the cosines, which takes twice as long; and to take the cosines from the
    sketches, whose error of 1/√m would hide small drifts.
    """

    def __init__(self, num_params: int, folder: Path | None) -> None:
        """Makes the file in `folder`; None: in the system's folder for temporary files."""
        self._num_params, self._folder = num_params, folder
        self._waiting = np.empty((max(1, _AT_A_TIME // num_params), num_params), np.float32)
        self._weights: list[float] = []
        self._sketches: list[NDArray[np.float32]] = []
        self._file = scratch_file(folder)

    def __enter__(self) -> "ManyUpdates":
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, update: Params, weight: float) -> None:
        """Adds a client's finite update (P,) and its weight >= 0 in the average."""
        self._waiting[len(self._weights) % len(self._waiting)] = update
        self._weights.append(weight)
        if len(self._weights) % len(self._waiting) == 0:
            self._take(self._waiting)

    def _take(self, updates: NDArray[np.float32]) -> None:
        with naming_path(self._folder):
            self._file.write(updates.data)
        self._sketches.append(sketch(updates))

    def statistics(self) -> tuple[Vector, UpdateStatistics]:
        """Returns the shares (K,) of the average, and the statistics, over the K >= 1 updates that were added."""
        left = len(self._weights) % len(self._waiting)
        if left:
            self._take(self._waiting[:left])
        share, shares = _shares(self._weights), sketched_median_shares(self._sketched())
        with naming_path(self._folder):
            self._file.flush()
            mean, median, total = self._sums(np.stack([share, shares, np.ones(len(share))]))
            square, square_distance, to_mean, to_median = self._products(mean, median)
        return share, combined(
            square,
            share,
            square_distance,
            (to_mean, float(mean @ mean)),
            (to_median, float(median @ median)),
            float(total @ total),
        )

    def _sketched(self) -> NDArray[np.float32]:
        sketches = np.concatenate(self._sketches)
        self._sketches.clear()
        return sketches

    def _sums(self, shares: Vector) -> Vector:
        """Returns the sums (n, P) of the updates with each row of the shares (n, K)."""
        found = np.zeros((len(shares), self._num_params))

        def add(begin: int, end: int) -> None:
            for first, block in self._read(0, len(self._weights), begin, end):
                found[:, begin:end] += shares[:, first : first + len(block)] @ block

        _shared(add, self._num_params, self._num_params // _COLUMNS, _PARTS)
        return found

    def _products(self, mean: Vector, median: Vector) -> Vector:
        """Returns ‖Δ_k‖², ‖Δ_k − mean‖², ⟨Δ_k, mean⟩ and ⟨Δ_k, median⟩ of each update, (4, K)."""
        found, both = np.empty((4, len(self._weights))), np.stack([mean, median], axis=1)

        def multiply(begin: int, end: int) -> None:
            for first, block in self._read(begin, end, 0, self._num_params):
                place = slice(first, first + len(block))
                found[0, place] = _squares(block)
                found[2:, place] = (block @ both).T
                block -= mean
                found[1, place] = _squares(block)

        _shared(multiply, len(self._weights), len(self._weights), _IN_MEMORY // self._num_params)
        return found

    def _read(self, first: int, last: int, begin: int, end: int) -> Iterator[tuple[int, Vector]]:
        """Yields the values from `begin` to `end` of the updates from `first` to `last`, in blocks (n, end - begin).

        With each comes the place of its first update. Each block overwrites the one before.
        """
        rows = max(1, _AT_A_TIME // (end - begin))
        narrow, wide = np.empty((rows, end - begin), np.float32), np.empty((rows, end - begin))
        at_once = rows if end - begin == self._num_params else 1  # of other columns, each row is elsewhere in the file
        for place in range(first, last, rows):
            count = min(rows, last - place)
            for row in range(0, count, at_once):
                part = narrow[row : min(count, row + at_once)]
                read_into(self._file.fileno(), part.data.cast("B"), 4 * ((place + row) * self._num_params + begin))
            np.copyto(wide[:count], narrow[:count])
            yield place, wide[:count]


def _shared(do: Callable[[int, int], None], size: int, parts: int, threads: int) -> None:
    """Calls do(begin, end) for `parts` parts of `size` things, 1 to _PARTS, on up to `threads` cores."""
    number = min(_PARTS, max(1, parts))
    ends = [size * part // number for part in range(number + 1)]
    with ThreadPoolExecutor(min(number, max(1, threads), len(os.sched_getaffinity(0)))) as pool:
        for _ in pool.map(do, ends[:-1], ends[1:]):
            pass


def updates_of(num_clients: int, num_params: int, folder: Path | None) -> FewUpdates | ManyUpdates:
    """Returns what collects the updates (P,) of at most `num_clients` clients; `folder` is for files."""
    return FewUpdates() if few(num_clients, num_params) else ManyUpdates(num_params, folder)


def _squares(vectors: Vector) -> Vector:
    return np.array([vector @ vector for vector in vectors])


def _shares(weights: list[float]) -> Vector:
    own: Vector = np.array(weights)
    share: Vector = own / own.sum()
    return share
