"""The updates of a round, one after the other: their statistics, without more of them in memory than needed."""

from collections.abc import Iterator
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
from tasks.parameters import Params

_AT_A_TIME = 1 << 16
"""Values of updates that are computed at a time. In float64 too, they fit into a core's cache: larger blocks take three
times as long."""


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
        self._folder = folder
        rows = max(1, _AT_A_TIME // num_params)
        self._block, self._wide = np.empty((rows, num_params), np.float32), np.empty((rows, num_params))
        self._waiting = 0
        self._weights: list[float] = []
        self._squares: list[float] = []
        self._sketches: list[NDArray[np.float32]] = []
        self._total, self._weighted = np.zeros(num_params), np.zeros(num_params)
        self._file = scratch_file(folder)

    def __enter__(self) -> "ManyUpdates":
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, update: Params, weight: float) -> None:
        """Adds a client's finite update (P,) and its weight >= 0 in the average."""
        self._block[self._waiting] = update
        self._weights.append(weight)
        self._waiting += 1
        if self._waiting == len(self._block):
            self._take()

    def _take(self) -> None:
        """Takes the numbers of the updates that wait, and writes them away."""
        if not self._waiting:
            return
        block, wide = self._block[: self._waiting], self._wide[: self._waiting]
        np.copyto(wide, block)
        self._squares += _squares(wide).tolist()
        self._total += wide.sum(axis=0)
        self._weighted += np.array(self._weights[-len(block) :]) @ wide
        self._sketches.append(sketch(block))
        with naming_path(self._folder):
            self._file.write(block.data)
        self._waiting = 0

    def statistics(self) -> tuple[Vector, UpdateStatistics]:
        """Returns the shares (K,) of the average, and the statistics, over the K >= 1 updates that were added."""
        self._take()
        square, share = np.array(self._squares), _shares(self._weights)
        mean = self._weighted / sum(self._weights)
        shares = sketched_median_shares(self._sketched())
        median, begin = np.zeros(len(mean)), 0
        for block in self._again():
            median += shares[begin : begin + len(block)] @ block
            begin += len(block)
        both = np.stack([mean, median], axis=1)
        products, square_distance = [], []
        for block in self._again():
            products.append(block @ both)
            block -= mean
            square_distance.append(_squares(block))
        to_mean, to_median = np.concatenate(products).T
        return share, combined(
            square,
            share,
            np.concatenate(square_distance),
            (to_mean, float(mean @ mean)),
            (to_median, float(median @ median)),
            float(self._total @ self._total),
        )

    def _sketched(self) -> NDArray[np.float32]:
        sketches = np.concatenate(self._sketches)
        self._sketches.clear()
        return sketches

    def _again(self) -> Iterator[Vector]:
        """Yields the updates in their order, in blocks (n, P), each in the place of the one before."""
        with naming_path(self._folder):
            self._file.seek(0)
            left = len(self._weights)
            while left:
                block, wide = self._block[:left], self._wide[:left]
                self._file.readinto(block.data.cast("B"))  # type: ignore[attr-defined]
                np.copyto(wide, block)
                left -= len(wide)
                yield wide


def updates_of(num_clients: int, num_params: int, folder: Path | None) -> FewUpdates | ManyUpdates:
    """Returns what collects the updates (P,) of at most `num_clients` clients; `folder` is for files."""
    return FewUpdates() if few(num_clients, num_params) else ManyUpdates(num_params, folder)


def _squares(vectors: Vector) -> Vector:
    return np.array([vector @ vector for vector in vectors])


def _shares(weights: list[float]) -> Vector:
    own: Vector = np.array(weights)
    share: Vector = own / own.sum()
    return share
