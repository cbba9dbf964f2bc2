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

Places = NDArray[np.int64]

NOT_SAMPLED, FAILED = "#cccccc", "black"
_LEAST_END = 2.0
"""Smallest end of the colour scale, in log2 of a ratio: the colours reach at least from a quarter to four times."""
_UNKNOWN = 2.0
"""Replaces the mean cosine of a client without a cosine. It is above every cosine, so these clients come last."""


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


def worst_clients(grid: Grid, cosine: str | None, most: int, first: Sequence[str] = ()) -> Places:
    """Returns the rows to show, at most `most`: `first`, then the worst of the other clients in the order of their ids.

    Worst are the clients that failed most often, then the clients with the lowest mean of the signal `cosine`.
    """
    row_of = {client: row for row, client in enumerate(grid.clients)}
    leading = [row_of[client] for client in dict.fromkeys(first) if client in row_of][:most]
    mean = np.full(len(grid.clients), _UNKNOWN)
    if cosine is not None:
        measured = np.isfinite(grid.signals[cosine])
        total = np.where(measured, grid.signals[cosine], 0).sum(axis=1)
        mean = np.where(measured.any(axis=1), total / np.maximum(measured.sum(axis=1), 1), mean)
    worst_first = np.lexsort((mean, -grid.failed.sum(axis=1)))
    others = worst_first[~np.isin(worst_first, leading)][: most - len(leading)]
    return np.array([*leading, *np.sort(others)], dtype=np.int64)


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
