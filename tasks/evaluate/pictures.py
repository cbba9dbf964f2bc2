"""The pictures of a finished run, 960 pixels wide, to fit a README's column."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from tasks.evaluate.curves import Curves
from tasks.files import replacing
from tasks.heat_map import (
    COSINES,
    Grid,
    column_width,
    from_the_mean,
    from_the_median,
    log2_ratios,
    paint,
    ratio_colours,
    ratio_labels,
    rows_of,
)

_WIDTH = 8.0
"""Width of every picture, in inches."""
_MOST_CLIENTS = 100
"""Most clients of whom all are shown: a row is then 4.5 pixels high, and fewer cannot be distinguished."""
_CHOSEN = 30
"""Clients that are shown of more: each row can have its name."""
_NAME = 0.17
"""Height of a name beside a row, in inches."""
_MOST_COLUMNS = 200
"""Most columns of a heat map; at this size, more cannot be distinguished."""
_MOST_COUNTS = 12
"""Most classes of a confusion matrix with numbers; with more classes, the numbers run into each other."""
_LETTER = 0.07
"""Width of one letter of a tick's label, in inches."""


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG at 120 dpi, whole or not at all; the same bytes for the same figure."""
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png", dpi=120, metadata={"Software": None})


def draw_curves(curves: Curves) -> Figure:
    """Returns loss and validation accuracy over the rounds; empty cells are skipped, the prune phase is marked."""
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    losses, accuracies = figure.subplots(1, 2, sharex=True)
    _plot_known(losses, curves.rounds, curves.train_loss, "training", "tab:blue")
    _plot_known(losses, curves.rounds, curves.val_loss, "validation", "tab:orange")
    losses.set(title="Loss, nats per example", xlabel="round")
    drawn = np.concatenate([curves.train_loss, curves.val_loss])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if drawn.size and drawn.max() > 50 * drawn.min():
        losses.set_yscale("log")
    _plot_known(accuracies, curves.rounds, curves.val_accuracy, "validation", "tab:orange")
    accuracies.set(title="Accuracy", xlabel="round", ylim=(-0.02, 1.02))
    accuracies.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (losses, accuracies):
        _mark_prune_phase(axes, curves)
        axes.set_xlim(curves.rounds.min() - 0.5, curves.rounds.max() + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


def draw_drift(grid: Grid, prune_from: int | None) -> Figure:
    """Returns two heat maps of clients by rounds. Red: the client drifted. Grey: not sampled. Black: failed.

    The upper map shows the norm of each update over the median norm of its round. The norms themselves shrink during
    training, and would hide the drift. The scale is logarithmic and ends at the 99th percentile (at least a quarter to
    four times), so that one client's large norm does not hide the others. The lower map shows the cosine of each update
    to the round's aggregate.

    Of more than 100 clients, the maps show 30, and the median, the 5 % and the 95 % quantile over all clients. The 30
    are clients that failed most often (at most 15), then the clients whose norms are farthest from the median or whose
    mean cosine is lowest. Of more than 200 rounds, a column shows the worst of several rounds.
    """
    ratios = log2_ratios(grid.signals["update_norm"])
    apart = from_the_median(ratios), from_the_mean(grid.signals["update_cosine"])
    rows = rows_of(grid, apart, _MOST_CLIENTS if len(grid.clients) <= _MOST_CLIENTS else _CHOSEN)
    names, failed = rows.names(grid.clients), rows.of_failed(grid.failed)
    height = _NAME * (len(names) + 0.5) if rows.left_out else min(max(0.22 * len(names), 1.4), 3.8)
    figure = Figure(figsize=(_WIDTH, 2 * height + 1.5), layout="constrained")
    norms, cosines = figure.subplots(2, 1, sharex=True)
    left = grid.rounds[0] - 0.5
    above, marks = paint(norms, rows.of(ratios), failed, ratio_colours(ratios), _MOST_COLUMNS, left)
    below, _ = paint(cosines, rows.of(grid.signals["update_cosine"]), failed, COSINES, _MOST_COLUMNS, left)
    for axes, image, ticks in ((norms, above, ratio_labels(6)), (cosines, below, None)):
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=height / 0.14, format=ticks)
        bar.locator = MaxNLocator(4, integer=ticks is not None)
        _thin_ticks(axes, names, height)
        rows.separate(axes)
        if prune_from is not None:
            axes.axvline(prune_from - 0.5, color="black", linestyle="--", linewidth=1)
    norms.set(title="Norm of the update / median of its round", ylabel="client")
    cosines.set(title="Cosine of the update to the aggregate", ylabel="client", xlabel=_round_label(grid, prune_from))
    cosines.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if rows.left_out:
        shown = f"{len(rows.places)} of {rows.num_clients:,} clients"
        figure.suptitle(
            f"{shown}: most failures, norms farthest from the median, lowest cosines.\n"
            "The top rows are quantiles over all clients. All clients are in clients.csv.",
            fontsize=10,
        )
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_confusion(matrices: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> Figure:
    """Returns a panel per model: test examples by label (row) and prediction (column); colour is the row's share."""
    every = -(-len(classes) // 25)
    names = [_short(name) for name in classes[::every]]
    letters = _LETTER * max(map(len, names))
    upright = letters > 3.0 / len(names)
    figure = Figure(figsize=(_WIDTH, 4.5 + upright * letters), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    panels[0].set_ylabel("label")
    for axes, (model, matrix) in zip(panels, matrices.items(), strict=True):
        totals = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=f"{model} model", xlabel="prediction")
        # A class can have any name, "$" included: names are not read as formulas.
        at = range(0, len(classes), every)
        axes.set_xticks(at, names, fontsize=8, rotation=90 if upright else 0, parse_math=False)
        axes.set_yticks(at, names, fontsize=8, parse_math=False)
        if len(classes) <= _MOST_COUNTS:
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    colour = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    return figure


def _plot_known(axes: Axes, rounds: NDArray[np.int64], values: NDArray[np.float64], label: str, colour: str) -> None:
    finite = np.isfinite(values)
    if finite.any():
        marker = "." if finite.sum() <= 60 else ""
        axes.plot(rounds[finite], values[finite], label=label, color=colour, marker=marker, linewidth=1.5)


def _mark_prune_phase(axes: Axes, curves: Curves) -> None:
    if curves.prune_from is not None:
        axes.axvspan(curves.prune_from - 0.5, curves.rounds.max() + 0.5, color="tab:gray", alpha=0.15, linewidth=0)
        axes.axvline(curves.prune_from - 0.5, color="black", linestyle="--", linewidth=1, label="pruning starts")


def _thin_ticks(axes: Axes, names: Sequence[str], height: float) -> None:
    every = -(-len(names) // max(1, int(height / _NAME)))
    axes.set_yticks(range(0, len(names), every), [_short(name) for name in names[::every]], fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


def _round_label(grid: Grid, prune_from: int | None) -> str:
    width = column_width(len(grid.rounds), _MOST_COLUMNS)
    notes = [f"the worst of each {width} rounds"] if width > 1 else []
    notes += [f"dashed: pruning starts with round {prune_from}"] if prune_from is not None else []
    return f"round ({', '.join(notes)})" if notes else "round"
