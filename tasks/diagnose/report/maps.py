"""Heat maps of clients by rounds: which client was unlike the others, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.arrays import Floats
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.report.svg import INK, WIDTH, short
from tasks.heat_map import (
    COSINES,
    Colours,
    Grid,
    Rows,
    column_width,
    from_the_mean,
    from_the_median,
    grid_of,
    log2_ratios,
    paint,
    ratio_colours,
    ratio_labels,
    rows_of,
)
from tasks.round_log.read import ClientLog

MOST_ROWS = 40
"""Most clients whose names can still be read on a phone."""
_MOST_COLUMNS = 125
"""Most columns that can be told apart on a phone."""


@dataclass(frozen=True)
class Map:
    """One signal by client and round: what it is, what the colours mean, and the picture."""

    title: str
    says: str
    figure: Figure


def draw_maps(log: ClientLog, rise: Rise, named: Sequence[str]) -> list[Map]:
    """Returns at most two maps, of the length and the direction of the updates, or of the clients' own loss.

    The clients in `named` come first, in bold. Of more than 40 clients, the clients that failed most often follow, then
    the clients that are farthest from the others in what the maps show; see `shown_clients`. Rows above the clients
    then show quantiles over all clients. Of more than 125 rounds, each column shows the worst of several.
    """
    cosine = next((name for name in ("update_cosine_robust", "update_cosine") if name in log.signals), None)
    drawn = [name for name in ("update_norm", cosine, "loss_before") if name in log.signals][:2]
    grid = grid_of(log, signals=filter(None, drawn))
    ratios = {name: log2_ratios(grid.signals[name]) for name in grid.signals if name != cosine}
    apart = [from_the_median(each) for each in ratios.values()]
    apart += [from_the_mean(grid.signals[cosine])] if cosine else []
    rows = rows_of(grid, apart, MOST_ROWS, named)
    maps = []
    if "update_norm" in ratios:
        says = "Red: longer than the median update of the round. Blue: shorter."
        maps.append(Map("Length of each update", says, _draw_ratios(grid, ratios["update_norm"], rows, rise, named)))
    if cosine:
        to = "the median of all updates" if cosine == "update_cosine_robust" else "the mean update"
        says = f"Cosine to {to}. Blue: the same direction. White: at a right angle. Red: the opposite direction."
        cosines = _draw(grid, grid.signals[cosine], COSINES, rows, rise, named)
        maps.append(Map("Direction of each update", says, cosines))
    if "loss_before" in ratios:
        says = "Red: higher than the median client of the round. Blue: lower."
        losses = _draw_ratios(grid, ratios["loss_before"], rows, rise, named)
        maps.append(Map("Loss of each client on its own data, before local training", says, losses))
    return maps


def drawn_size(log: ClientLog) -> tuple[int, int, int]:
    """Returns how many clients a map shows, how many there are, and how many rounds share a column."""
    clients = len(log.ids)
    return min(clients, MOST_ROWS), clients, column_width(len(np.unique(log.rounds)), _MOST_COLUMNS)


def _draw_ratios(grid: Grid, ratios: Floats, rows: Rows, rise: Rise, named: Sequence[str]) -> Figure:
    """Returns the map of a signal over the median of its round."""
    return _draw(grid, ratios, ratio_colours(ratios), rows, rise, named)


def _draw(grid: Grid, values: Floats, colours: Colours, rows: Rows, rise: Rise, named: Sequence[str]) -> Figure:
    names = rows.names(grid.clients)
    height = max(0.19 * len(names), 0.7)
    figure = Figure(figsize=(WIDTH, height + 1.55), layout="constrained")
    axes = figure.subplots()
    image, marks = paint(axes, rows.of(values), rows.of_failed(grid.failed), colours, _MOST_COLUMNS)
    rows.separate(axes)
    _label(axes, grid, names, named)
    _mark(axes, grid, rise)
    ticks = None if colours == COSINES else ratio_labels(3, "×")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02, format=ticks)
    bar.locator = MaxNLocator(4, integer=ticks is not None)
    bar.update_ticks()
    if marks:
        figure.legend(handles=marks, loc="outside upper right", ncols=2)
    return figure


def _label(axes: Axes, grid: Grid, names: Sequence[str], named: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=9.5)
    for name, tick in zip(names, axes.get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if name in named else "normal")
    round_numbers = MaxNLocator(6, integer=True).tick_values(grid.rounds[0], grid.rounds[-1])
    ticks = np.flatnonzero(np.isin(grid.rounds, round_numbers))
    ticks = ticks if len(ticks) > 1 else np.unique([0, len(grid.rounds) - 1])
    axes.set_xticks(ticks, [str(number) for number in grid.rounds[ticks]])
    axes.set(xlabel="round", ylabel="client")


def _mark(axes: Axes, grid: Grid, rise: Rise) -> None:
    """Dashed lines around the rise."""
    if rise.rounds:
        first, last = rise.rounds[0], rise.rounds[-1]
        for edge in (np.searchsorted(grid.rounds, first), np.searchsorted(grid.rounds, last, side="right")):
            if 0 < edge < len(grid.rounds):
                axes.axvline(float(edge) - 0.5, color="black", linestyle="--", linewidth=1.2)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
