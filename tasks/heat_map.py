"""A heat map with a row per client and a column per round, for the pictures of `evaluate` and `diagnose`.

Red: the client drifted. Black: it failed. Grey: it was not sampled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from tasks.arrays import Bools, Floats
from tasks.round_log.read import ClientLog
from tasks.shown_clients import QUANTILES, Places, mean_of_known, quantiles, shown_clients

NOT_SAMPLED, FAILED = "#cccccc", "black"
_LEAST_END = 2.0
"""Smallest end of the colour scale, in log2 of a ratio: the colours reach at least from a quarter to four times."""


@dataclass(frozen=True)
class Grid:
    """K clients by R rounds: each of `signals` is (K, R), NaN if it was not measured; `failed` is (K, R)."""

    clients: list[str]
    rounds: NDArray[np.int64]
    signals: dict[str, Floats]
    failed: Bools
    """The client was sampled, but its update was left out."""


@dataclass(frozen=True)
class Colours:
    """Matplotlib's colour `scheme` of a signal, from -`end` to `end`; `worst` combines rounds that share a column."""

    end: float
    scheme: str
    worst: np.ufunc


COSINES = Colours(1.0, "RdBu", np.fmin)


def ratio_colours(ratios: Floats) -> Colours:
    """Returns the colours of log2 ratios. They end at the 99th percentile of |ratio|, but at least at `_LEAST_END`."""
    sizes = np.abs(ratios[np.isfinite(ratios)])
    return Colours(max(_LEAST_END, float(np.percentile(sizes, 99)) if sizes.size else 0.0), "RdBu_r", np.fmax)


def grid_of(
    log: ClientLog, clients: Iterable[str] = (), rounds: Iterable[int] = (), signals: Iterable[str] | None = None
) -> Grid:
    """Returns the log's signals by client and round, both ascending.

    Args:
        log: clients.csv.
        clients: clients that get a row even if the log does not have them.
        rounds: rounds that get a column even if the log does not have them.
        signals: the signals of the grid; None: all of the log.
    """
    names = sorted({*clients, *log.ids})
    numbers = np.unique([*rounds, *log.rounds.tolist()]).astype(np.int64)
    row_of = {client: row for row, client in enumerate(names)}
    rows = np.array([row_of[client] for client in log.ids], np.int64)
    places = rows[log.codes], np.searchsorted(numbers, log.rounds)
    failed = np.zeros((len(names), len(numbers)), dtype=np.bool_)
    failed[places] = log.failed
    by_name = {name: np.full(failed.shape, np.nan) for name in (log.signals if signals is None else signals)}
    for name, values in by_name.items():
        values[places] = log.signals[name]
    return Grid(names, numbers, by_name, failed)


@dataclass(frozen=True)
class Rows:
    """The rows of a heat map: clients, and above them quantiles over all clients if some clients are left out.

    Attributes:
        places: of the clients in the grid.
        num_clients: clients of the grid.
    """

    places: Places
    num_clients: int

    @property
    def left_out(self) -> bool:
        """Whether the picture does not show every client."""
        return len(self.places) < self.num_clients

    def names(self, clients: Sequence[str]) -> list[str]:
        """Returns the name of each row; `clients` (K,) are the ids."""
        return [*(QUANTILES if self.left_out else ()), *(clients[place] for place in self.places)]

    def of(self, values: Floats) -> Floats:
        """Returns the rows of `values` (K, R)."""
        return np.vstack([quantiles(values), values[self.places]]) if self.left_out else values[self.places]

    def of_failed(self, failed: Bools) -> Bools:
        """Returns the rows of `failed` (K, R); no quantile failed."""
        nobody = np.zeros((len(QUANTILES) if self.left_out else 0, failed.shape[1]), dtype=np.bool_)
        return np.vstack([nobody, failed[self.places]])

    def separate(self, axes: Axes) -> None:
        """Draws a line between the quantiles and the clients."""
        if self.left_out:
            axes.axhline(len(QUANTILES) - 0.5, color="black", linewidth=1.5)


def rows_of(grid: Grid, deviations: Sequence[Floats], most: int, first: Sequence[str] = ()) -> Rows:
    """Returns the rows of a heat map with at most `most` clients; see `shown_clients` for their choice.

    Args:
        grid: the clients.
        deviations: see `shown_clients`.
        most: most clients.
        first: ids of clients that come first, as far as the grid has them.
    """
    place = {client: row for row, client in enumerate(grid.clients)}
    leading = [place[client] for client in first if client in place]
    return Rows(shown_clients(deviations, grid.failed.sum(axis=1), most, leading), len(grid.clients))


def from_the_median(ratios: Floats) -> Floats:
    """Returns (K,) how far a client is from the median of its rounds: the mean of |log2 ratio|; see `log2_ratios`."""
    return mean_of_known(np.abs(ratios))


def from_the_mean(cosines: Floats) -> Floats:
    """Returns (K,) how far a client's updates point away from the mean of its rounds: 1 - the mean cosine."""
    return 1 - mean_of_known(cosines)


def log2_ratios(values: Floats) -> Floats:
    """Returns (K, R) log2 of each value over the median of its round's known values; NaN if the value is NaN."""
    measured = np.isfinite(values).any(axis=0)
    logs = np.log2(np.maximum(values, np.finfo(np.float64).tiny))
    medians = np.full(values.shape[1], np.nan)
    medians[measured] = np.nanmedian(logs[:, measured], axis=0)
    ratios: Floats = logs - medians
    return ratios


def ratio_labels(digits: int, unit: str = "") -> FuncFormatter:
    """Returns the formatter that writes a log2 ratio as a ratio, `4` or `1/4`, with `unit` after ratios from 1 on."""
    return FuncFormatter(lambda log2, _: f"{2**log2:.{digits}g}{unit}" if log2 >= 0 else f"1/{2**-log2:.{digits}g}")


def column_width(num_rounds: int, most: int) -> int:
    """Returns how many rounds share a column if at most `most` columns are drawn."""
    return -(-num_rounds // most)


def paint(
    axes: Axes, values: Floats, failed: Bools, colours: Colours, most_columns: int, left: float = -0.5
) -> tuple[AxesImage, list[Patch]]:
    """Paints `values` (K, R), with black over them for `failed` (K, R).

    A round is one unit wide, and the first round begins at `left`.

    Returns:
        The image of the values, for a colour bar, and for a legend the marks of failed and of grey cells, if the
        picture has any.
    """
    num_clients, num_rounds = values.shape
    width = column_width(num_rounds, most_columns)
    columns, black = _columns(values, colours.worst, width), _columns(failed.astype(np.float64), np.fmax, width) > 0
    extent = (left, left + width * columns.shape[1], num_clients - 0.5, -0.5)
    axes.set_facecolor(NOT_SAMPLED)
    image = axes.imshow(
        columns,
        norm=Normalize(-colours.end, colours.end),
        cmap=colours.scheme,
        aspect="auto",
        interpolation="none",
        extent=extent,
    )
    cover = np.where(black, 1.0, np.nan)
    axes.imshow(cover, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="none", extent=extent)
    axes.set_xlim(left, left + num_rounds)
    marks = [Patch(color=FAILED, label="failed")] if black.any() else []
    if (np.isnan(columns) & ~black).any():
        marks.append(Patch(color=NOT_SAMPLED, label="not sampled"))
    return image, marks


def _columns(values: Floats, worst: np.ufunc, width: int) -> Floats:
    """Returns the worst value of each `width` rounds, NaN if none of them has a value."""
    reduced: Floats = worst.reduceat(values, np.arange(0, values.shape[1], width), axis=1)
    return reduced
