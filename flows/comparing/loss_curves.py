"""compare.png: the hold-out loss (val_loss) of every group over the rounds."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from flows.comparing.results import Result
from flows.comparing.summary import group_label, groups

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")
"""Okabe and Ito's colours without yellow, and a brown; colour-blind people can distinguish Okabe and Ito's colours."""
_OTHERS = "#bbbbbb"


class Point(NamedTuple):
    """One round of a group: mean, lowest and highest hold-out loss of its cells, in nats per example."""

    mean: float
    lowest: float
    highest: float


def draw(results: Sequence[Result]) -> Figure:
    """Returns the figure: per group the mean hold-out loss over its seeds, in a band from the lowest to the highest.

    The eight groups with the lowest final loss are coloured; the others are grey.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    seeds = len({each.cell.seed for each in results})
    title = f"mean of {seeds} seeds; band: lowest to highest" if seeds > 1 else ""
    axes.set(xlabel="round", ylabel="hold-out loss, nats per example")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    drawn = {group: curve for group, cells in groups(results).items() if (curve := mean_curve(cells))}
    if not drawn:
        axes.text(0.5, 0.5, "no cell finished", ha="center", va="center", transform=axes.transAxes)
        return figure
    best = sorted(drawn, key=lambda group: drawn[group][max(drawn[group])].mean)[: len(_COLOURS)]
    colours = dict(zip([group for group in drawn if group in best], _COLOURS, strict=False))
    settings = list(results[0].cell.values)
    for group in sorted(drawn, key=lambda group: group in colours):
        label = group_label(group, settings) if group in colours else None
        _plot(axes, drawn[group], colours.get(group, _OTHERS), label)
    if len(drawn) > len(colours):
        axes.plot([], [], color=_OTHERS, label=f"{len(drawn) - len(colours)} more, with higher loss")
    lines = [point.mean for curve in drawn.values() for point in curve.values()]
    if min(lines) > 0 and max(lines) > 20 * min(lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _mark_pruning(axes, results)
    figure.set_figheight(3.4 + 0.22 * math.ceil(len(axes.get_legend_handles_labels()[0]) / 2))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def mean_curve(cells: Sequence[Result]) -> dict[int, Point]:
    """Returns round → mean and extremes over the finished cells, for the rounds that all finished cells evaluated."""
    curves: list[Mapping[int, float]] = [each.curve for each in cells if each.is_finished and each.curve]
    if not curves:
        return {}
    rounds = sorted(set(curves[0]).intersection(*curves[1:]))
    values = {number: [curve[number] for curve in curves] for number in rounds}
    return {number: Point(float(np.mean(each)), min(each), max(each)) for number, each in values.items()}


def _plot(axes: Axes, curve: Mapping[int, Point], colour: str, label: str | None) -> None:
    rounds = list(curve)
    mean, lowest, highest = np.array(list(curve.values())).T
    marker = "." if len(rounds) <= 60 else ""
    axes.plot(rounds, mean, color=colour, marker=marker, linewidth=1.5, label=label)
    if (highest > lowest).any():
        axes.fill_between(rounds, lowest, highest, color=colour, alpha=0.15, linewidth=0)


def _mark_pruning(axes: Axes, results: Sequence[Result]) -> None:
    starts = {each.prune_from for each in results if each.prune_from is not None}
    if len(starts) == 1:
        axes.axvline(starts.pop() - 0.5, color="black", linestyle="--", linewidth=1, label="pruning starts")
