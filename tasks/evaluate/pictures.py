"""The pictures of a finished run, 960 pixels wide: made for a README's column."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from tasks.evaluate.curves import Curves, Drift
from tasks.files import replacing

_WIDTH = 8.0
_MOST_CLIENTS = 100
"""rows that a heat map of this size can still show apart"""
_MOST_BLOCKS = 200
"""the same for columns"""
_MOST_COUNTS = 12
"""classes beyond which the numbers in a confusion matrix run into each other"""
_LETTER = 0.07
"""inches that a letter of a tick's label takes"""
_NOT_SAMPLED = "#cccccc"
_FAILED = "black"
_RATIO = FuncFormatter(lambda log2, _: f"{2**log2:g}" if log2 >= 0 else f"1/{2**-log2:g}")


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG at 120 dpi, whole or not at all; the same bytes for the same figure."""
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png", dpi=120, metadata={"Software": None})


def draw_loss(curves: Curves) -> Figure:
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


def draw_drift(drift: Drift, prune_from: int | None) -> Figure:
    """Returns two heat maps of clients by rounds, red where a client drifted; no client is hidden by another's scale.

    Above, the norm of each update against the median of its round's clients, on a logarithmic scale that ends at the
    99th percentile (at least a quarter to four times): norms themselves shrink as training goes on, and would show that
    instead. Below, the cosine of each update to the round's aggregate. Grey: not sampled. Black: sampled and failed.
    With more than 100 clients, the 100 that failed most often, then those of lowest mean cosine; with more than 200
    rounds, the worst of each block of rounds.
    """
    rows = _most_drifted(drift)
    names = [drift.clients[row] for row in rows]
    height = min(max(0.22 * len(rows), 1.4), 3.8)
    figure = Figure(figsize=(_WIDTH, 2 * height + 1.5), layout="constrained")
    norms, cosines = figure.subplots(2, 1, sharex=True)
    ratios = relative_norms(drift.update_norm)
    end = max(float(np.percentile(np.abs(ratios[np.isfinite(ratios)]), 99)) if np.isfinite(ratios).any() else 0.0, 2.0)
    _heat_map(norms, _blocks(ratios[rows], np.fmax), drift, Normalize(-end, end), "RdBu_r")
    _heat_map(cosines, _blocks(drift.update_cosine[rows], np.fmin), drift, Normalize(-1, 1), "RdBu")
    failed = _blocks(drift.failed[rows].astype(np.float64), np.fmax)
    for axes, ticks in ((norms, _RATIO), (cosines, None)):
        bar = figure.colorbar(axes.images[0], ax=axes, pad=0.01, aspect=height / 0.14, format=ticks)
        bar.locator = MaxNLocator(4, integer=ticks is not None)
        _heat_map(axes, np.where(failed > 0, 1.0, np.nan), drift, Normalize(0, 1), "gray_r")
        _thin_ticks(axes, names, height)
        if prune_from is not None:
            axes.axvline(prune_from - 0.5, color="black", linestyle="--", linewidth=1)
    norms.set(title="Norm of the update / median of its round", ylabel="client")
    cosines.set(title="Cosine of the update to the aggregate", ylabel="client", xlabel=_round_label(drift, prune_from))
    cosines.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(rows) < len(drift.clients):
        figure.suptitle(f"{len(rows)} of {len(drift.clients)} clients: most failures, then lowest mean cosine")
    figure.legend(handles=_marks(drift), loc="outside lower center", ncols=2, frameon=False)
    return figure


def relative_norms(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (K, R) log2 of each norm over the median of its round's known norms; NaN where the norm is."""
    known = np.isfinite(norms).any(axis=0)
    logs = np.log2(np.maximum(norms, np.finfo(np.float64).tiny))
    medians = np.full(norms.shape[1], np.nan)
    medians[known] = np.nanmedian(logs[:, known], axis=0)
    relative: NDArray[np.float64] = logs - medians
    return relative


def draw_confusion(matrices: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> Figure:
    """Returns a panel for each model: test examples by label (row) and prediction; colour is the share of the row."""
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
        # A class may be called anything, "$" included: never read names as formulas.
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
    known = np.isfinite(values)
    if known.any():
        marker = "." if known.sum() <= 60 else ""
        axes.plot(rounds[known], values[known], label=label, color=colour, marker=marker, linewidth=1.5)


def _mark_prune_phase(axes: Axes, curves: Curves) -> None:
    if curves.prune_from is not None:
        axes.axvspan(curves.prune_from - 0.5, curves.rounds.max() + 0.5, color="tab:gray", alpha=0.15, linewidth=0)
        axes.axvline(curves.prune_from - 0.5, color="black", linestyle="--", linewidth=1, label="pruning starts")


def _heat_map(axes: Axes, values: NDArray[np.float64], drift: Drift, scale: Normalize, colours: str) -> None:
    """Draws the blocks `values`; what is under them shows through NaN."""
    left, right = drift.rounds[0] - 0.5, drift.rounds[-1] + 0.5
    extent = (left, left + _block_width(len(drift.rounds)) * values.shape[1], len(values) - 0.5, -0.5)
    axes.set_facecolor(_NOT_SAMPLED)
    axes.imshow(values, norm=scale, cmap=colours, aspect="auto", interpolation="nearest", extent=extent)
    axes.set_xlim(left, right)


def _block_width(rounds: int) -> int:
    return -(-rounds // _MOST_BLOCKS)


def _blocks(values: NDArray[np.float64], worst: np.ufunc) -> NDArray[np.float64]:
    """Returns (K, at most 200) the worst of each block of rounds; a block of nothing but NaN stays NaN."""
    width = _block_width(values.shape[1])
    reduced: NDArray[np.float64] = worst.reduceat(values, np.arange(0, values.shape[1], width), axis=1)
    return reduced


def _most_drifted(drift: Drift) -> NDArray[np.int64]:
    if len(drift.clients) <= _MOST_CLIENTS:
        return np.arange(len(drift.clients))
    known = np.isfinite(drift.update_cosine)
    total = np.where(known, drift.update_cosine, 0).sum(axis=1)
    mean = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), 2.0)
    worst_first = np.lexsort((mean, -drift.failed.sum(axis=1)))
    return np.sort(worst_first[:_MOST_CLIENTS])


def _thin_ticks(axes: Axes, names: Sequence[str], height: float) -> None:
    every = -(-len(names) // max(1, int(height / 0.17)))
    axes.set_yticks(range(0, len(names), every), [_short(name) for name in names[::every]], fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


def _marks(drift: Drift) -> list[Patch]:
    marks = []
    if drift.failed.any():
        marks.append(Patch(color=_FAILED, label="failed"))
    if (np.isnan(drift.update_norm) & ~drift.failed).any():
        marks.append(Patch(color=_NOT_SAMPLED, label="not sampled"))
    return marks


def _round_label(drift: Drift, prune_from: int | None) -> str:
    width = _block_width(len(drift.rounds))
    notes = [f"the worst of each {width} rounds"] if width > 1 else []
    notes += [f"dashed: pruning starts with round {prune_from}"] if prune_from is not None else []
    return f"round ({', '.join(notes)})" if notes else "round"
