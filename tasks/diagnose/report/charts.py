"""The curves of the diagnosis: the loss with its rise, and the replays."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.arrays import Floats
from tasks.diagnose.diagnosis import Curve, Diagnosis, ReplayResult
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import figure as digits
from tasks.diagnose.phrases import who
from tasks.diagnose.report.svg import BLUE, GREY, INK, ORANGE, RISE, grow_log, new
from tasks.diagnose.report.vocabulary import LOSSES
from tasks.round_log.read import ClientLog, RoundLog

_HEIGHT = 3.3
_MARKED = 60
"""Most losses that are drawn as points too."""


def shaded(rise: Rise) -> str:
    """Returns what the shaded rounds are."""
    return "the first sign to the end of the run" if rise.of_an_end else "the rise"


def draw_loss(diagnosis: Diagnosis, rounds: RoundLog, clients: ClientLog) -> Figure:
    """Returns the tested loss and the other one over the rounds, the rise shaded, and a dotted line.

    The dotted line is the level before the rise. Where nothing rose, it is the hold-out loss at the end without the
    proven causes.

    If only some clients' losses rose, the mean of these clients' own losses is drawn too.
    """
    figure, axes = new(_HEIGHT)
    rise = diagnosis.rise
    first = rise.loss
    at = rounds.rounds.astype(np.float64)
    if rise.rounds:
        axes.axvspan(
            rise.rounds[0] - 0.5, rise.rounds[-1] + 0.5, color=RISE, alpha=0.28, linewidth=0, label=shaded(rise)
        )
    for name in sorted(rounds.losses, key=lambda name: name == first):
        measured = rounds.losses[name].given
        colour, width, dash = (BLUE, 2.0, "-") if name == first else (GREY, 1.2, "--")
        _plot(axes, at[measured], rounds.losses[name].values[measured], LOSSES[name], colour, width, dash)
    drawn = [column.values for column in rounds.losses.values()]
    if rise.clients and rise.kind == "level" and "loss_before" in clients.signals:
        own = clients.of(*rise.clients)
        sampled = np.unique(clients.rounds[own])
        means = [clients.signals["loss_before"][own & (clients.rounds == t)].mean() for t in sampled]
        drawn.append(np.array(means))
        _plot(axes, sampled.astype(np.float64), drawn[-1], f"loss of {who(rise.clients)}", ORANGE, 2.0, "-")
    level, says = _level(diagnosis)
    if level is not None:
        axes.axhline(level, color=INK, linestyle=":", linewidth=1.2, label=f"{says}: {digits(level)}")
        drawn.append(np.array([level]))
    _lost(axes, at, rounds.losses[first].not_finite)
    pruning = rounds.rounds[rounds.pruning].tolist()
    if pruning and len(pruning) < len(at):
        axes.axvline(min(pruning) - 0.5, color=INK, linestyle="-.", linewidth=1, label="pruning starts")
    _finish(figure, axes, drawn)
    axes.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    return figure


def _level(diagnosis: Diagnosis) -> tuple[float | None, str]:
    """The level of the dotted line, if there is one, and what it is."""
    if diagnosis.standing is None:
        several = len(diagnosis.rise.clients) > 1
        return diagnosis.rise.loss_before, "before each one's rise" if several else f"before {shaded(diagnosis.rise)}"
    if diagnosis.against is not None:
        return diagnosis.standing.reference, "the other run at its end"
    return diagnosis.standing.reference, f"without the cause{'s' * (len(diagnosis.causes) > 1)}"


def draw_replay(replay: ReplayResult, rounds: RoundLog) -> Figure:
    """Returns the losses of two replays, with and without the change, and the recorded loss of the same rounds."""
    figure, axes = new(_HEIGHT)
    start = replay.from_round
    last = start + max(len(replay.unchanged), len(replay.changed))
    at, recorded = _recorded(rounds, replay.loss, start, last)
    _plot(axes, at, recorded, "recorded", GREY, 1.2, ":")
    # The model they start from is the recorded one, and val_loss is measured on the model after its round.
    fork = recorded[at == start] if replay.loss == "val_loss" else recorded[:0]
    lines = {
        "log_without": [("replay without the cause", replay.changed, BLUE, "-")],  # the recorded loss is drawn already
        "log_before": [("replay, today's data", replay.unchanged, ORANGE, "--")],
        "hold_out": [
            ("hold-out data", replay.unchanged, ORANGE, "--"),
            ("clients that were left out", replay.changed, BLUE, "-"),
        ],
    }.get(
        replay.kind,
        [
            ("replay, nothing changed", replay.unchanged, ORANGE, "--"),
            ("replay with the change", replay.changed, BLUE, "-"),
        ],
    )
    fork = fork if replay.kind != "hold_out" else fork[:0]  # these models are other models from the first round on
    for label, losses, colour, dash in lines:
        values = np.concatenate([fork, _array(losses)])
        at = np.arange(start + 1.0 - len(fork), start + 1 + len(losses))
        _plot(axes, at, values, label, colour, 2.0, dash)
        _lost(axes, at, ~np.isfinite(values), colour)
    _finish(figure, axes, [_array(losses) for _, losses, _, _ in lines] + [recorded])
    return figure


def _recorded(rounds: RoundLog, loss: str, first: int, last: int) -> tuple[Floats, Floats]:
    """The rounds from `first` to `last` in which a loss was recorded, and the loss; empty if it is not in the log."""
    column = rounds.losses.get(loss)
    if column is None:
        return np.empty(0), np.empty(0)
    shown = column.given & (rounds.rounds >= first) & (rounds.rounds <= last)
    return rounds.rounds[shown].astype(np.float64), column.values[shown]


def _array(losses: Curve) -> Floats:
    return np.array([np.nan if loss is None else loss for loss in losses], dtype=np.float64)


def _plot(axes: Axes, at: Floats, values: Floats, label: str, colour: str, width: float, dash: str) -> None:
    finite = np.isfinite(values)
    if finite.any():
        shape = "o" if finite.sum() <= _MARKED else ""
        width = width if shape else width / 2
        axes.plot(
            at[finite], values[finite], dash, color=colour, linewidth=width, marker=shape, markersize=3, label=label
        )


def _lost(axes: Axes, at: Floats, lost: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], colour: str = INK) -> None:
    """Marks the rounds without a finite loss along the upper edge."""
    if lost.any():
        where = axes.get_xaxis_transform()
        label = "not finite" if colour == INK else "_"
        axes.plot(
            at[lost], np.full(int(lost.sum()), 0.97), "x", color=colour, transform=where, label=label, markersize=6
        )


def _finish(figure: Figure, axes: Axes, drawn: Sequence[Floats]) -> None:
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    if values.size:
        grow_log(axes, float(values.min()), float(values.max()))
    axes.set(xlabel="round", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(color=GREY, alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handlelength=1.8)
