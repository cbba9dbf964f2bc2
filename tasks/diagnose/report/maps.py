"""Heat maps of clients by rounds: who drifted, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from tasks.diagnose.report.story import Rise
from tasks.diagnose.report.svg import INK, WIDTH, short
from tasks.round_log.cells import Bools, Floats
from tasks.round_log.read import ClientLog

MOST_CLIENTS = 40
"""Rows whose names can still be read on a phone."""
_MOST_BLOCKS = 125
"""Columns that a phone still shows apart."""
_NOT_SAMPLED = "#cccccc"
_RATIO = FuncFormatter(lambda log2, _: f"{2**log2:.3g}×" if log2 >= 0 else f"1/{2**-log2:.3g}")


@dataclass(frozen=True)
class Map:
    """One signal by client and round: what it is, what the colours mean, and the picture."""

    title: str
    says: str
    figure: Figure


@dataclass(frozen=True)
class _Grid:
    """K clients by R rounds: what was measured (K, R), NaN where it was not, and who failed (K, R)."""

    clients: list[str]
    rounds: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    failed: Bools

    def of(self, values: Floats) -> Floats:
        laid = np.full(self.failed.shape, np.nan)
        laid[self.row, self.column] = values
        return laid


def draw_maps(log: ClientLog, rise: Rise, named: Sequence[str]) -> list[Map]:
    """Returns at most two maps, of the length and the direction of the updates, or of the clients' own loss.

    The clients in `named` come first, in bold; of more than 40, those that failed most often and those of the lowest
    mean cosine follow. Of more than 125 rounds, each column shows the worst of several.
    """
    grid = _grid(log)
    cosine = next((name for name in ("update_cosine_robust", "update_cosine") if name in log.signals), None)
    rows = _rows(grid, named, grid.of(log.signals[cosine]) if cosine else None)
    maps = []
    if "update_norm" in log.signals:
        says = "red: longer than the median update of its round; blue: shorter"
        maps.append(Map("Length of each update", says, _ratios(grid, log.signals["update_norm"], rows, rise, named)))
    if cosine:
        to = "the middle of all updates" if cosine == "update_cosine_robust" else "the mean update"
        says = f"blue: in the direction of {to}; white: across; red: against it (cosine)"
        values = grid.of(log.signals[cosine])[rows]
        drawn = _draw(grid, _blocks(values, np.fmin), rows, Normalize(-1, 1), "RdBu", rise, named)
        maps.append(Map("Direction of each update", says, drawn))
    if "loss_before" in log.signals and len(maps) < 2:
        says = "red: higher than the median client of its round; blue: lower"
        drawn = _ratios(grid, log.signals["loss_before"], rows, rise, named)
        maps.append(Map("Each client's own loss, before its local work", says, drawn))
    return maps


def shown(log: ClientLog) -> tuple[int, int, int]:
    """Returns how many clients a map shows, how many there are, and how many rounds share a column."""
    clients = len(set(log.clients))
    return min(clients, MOST_CLIENTS), clients, _width(len(np.unique(log.rounds)))


def _grid(log: ClientLog) -> _Grid:
    clients, row = np.unique(np.array(log.clients, dtype=object), return_inverse=True)
    rounds, column = np.unique(log.rounds, return_inverse=True)
    failed = np.zeros((len(clients), len(rounds)), dtype=np.bool_)
    failed[row, column] = log.failed
    return _Grid([str(client) for client in clients], rounds, row, column, failed)


def _rows(grid: _Grid, named: Sequence[str], cosines: Floats | None) -> list[int]:
    place = {client: number for number, client in enumerate(grid.clients)}
    first = [place[client] for client in dict.fromkeys(named) if client in place][:MOST_CLIENTS]
    rest = np.array([k for k in range(len(grid.clients)) if k not in set(first)], dtype=np.int64)
    if len(grid.clients) > MOST_CLIENTS:
        mean = np.zeros(len(grid.clients))
        if cosines is not None:
            known = np.isfinite(cosines)
            mean = np.where(known, cosines, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        worst = np.lexsort((mean[rest], -grid.failed[rest].sum(axis=1)))[: MOST_CLIENTS - len(first)]
        rest = np.sort(rest[worst])
    return [*first, *(int(k) for k in rest)]


def _ratios(grid: _Grid, values: Floats, rows: list[int], rise: Rise, named: Sequence[str]) -> Figure:
    """The map of log2 of the values over the median of their round, on a scale of at least a quarter to four times."""
    logs = np.log2(np.maximum(grid.of(values), np.finfo(np.float64).tiny))
    known = np.isfinite(logs).any(axis=0)
    medians = np.full(logs.shape[1], np.nan)
    medians[known] = np.nanmedian(logs[:, known], axis=0)
    relative = logs - medians
    size = np.abs(relative[np.isfinite(relative)])
    end = max(2.0, float(np.percentile(size, 99)) if size.size else 0.0)
    return _draw(grid, _blocks(relative[rows], np.fmax), rows, Normalize(-end, end), "RdBu_r", rise, named)


def _draw(
    grid: _Grid, values: Floats, rows: list[int], scale: Normalize, colours: str, rise: Rise, named: Sequence[str]
) -> Figure:
    height = max(0.19 * len(rows), 0.7)
    figure = Figure(figsize=(WIDTH, height + 1.55), layout="constrained")
    axes = figure.subplots()
    end = _width(len(grid.rounds)) * values.shape[1] - 0.5
    extent = (-0.5, end, len(rows) - 0.5, -0.5)
    axes.set_facecolor(_NOT_SAMPLED)
    image = axes.imshow(values, norm=scale, cmap=colours, aspect="auto", interpolation="none", extent=extent)
    failed = _blocks(grid.failed[rows].astype(np.float64), np.fmax) > 0
    black = np.where(failed, 1.0, np.nan)
    axes.imshow(black, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="none", extent=extent)
    axes.set_xlim(-0.5, len(grid.rounds) - 0.5)
    _label(axes, grid, rows, named)
    _mark(axes, grid, rise)
    ratio = colours.endswith("_r")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02, format=_RATIO if ratio else None)
    bar.locator = MaxNLocator(4, integer=ratio)
    bar.update_ticks()
    marks = [Patch(facecolor="black", label="failed")] if failed.any() else []
    if (np.isnan(values) & ~failed).any():
        marks.append(Patch(facecolor=_NOT_SAMPLED, label="not sampled"))
    if marks:
        figure.legend(handles=marks, loc="outside upper right", ncols=2)
    return figure


def _label(axes: Axes, grid: _Grid, rows: list[int], named: Sequence[str]) -> None:
    names = [grid.clients[row] for row in rows]
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=9.5)
    for name, tick in zip(names, axes.get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if name in named else "normal")
    round_numbers = MaxNLocator(6, integer=True).tick_values(grid.rounds[0], grid.rounds[-1])
    ticks = np.flatnonzero(np.isin(grid.rounds, round_numbers))
    ticks = ticks if len(ticks) > 1 else np.unique([0, len(grid.rounds) - 1])
    axes.set_xticks(ticks, [str(number) for number in grid.rounds[ticks]])
    axes.set(xlabel="round", ylabel="client")


def _mark(axes: Axes, grid: _Grid, rise: Rise) -> None:
    """Dashed lines around the rise."""
    if rise.detected and rise.round is not None:
        until = rise.until if rise.until is not None else int(grid.rounds[-1])
        for edge in (np.searchsorted(grid.rounds, rise.round), np.searchsorted(grid.rounds, until, side="right")):
            if 0 < edge < len(grid.rounds):
                axes.axvline(float(edge) - 0.5, color="black", linestyle="--", linewidth=1.2)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)


def _width(rounds: int) -> int:
    return -(-rounds // _MOST_BLOCKS)


def _blocks(values: Floats, worst: np.ufunc) -> Floats:
    """Returns (K, at most 125) the worst of each block of rounds; a block of nothing but NaN stays NaN."""
    reduced: Floats = worst.reduceat(values, np.arange(0, values.shape[1], _width(values.shape[1])), axis=1)
    return reduced
