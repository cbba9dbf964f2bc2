"""What clients hold, from data/partition/partition.json: their labels and how far their data is from the whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from tasks.arrays import Floats
from tasks.diagnose.report.svg import BLUE, GREY, INK, WIDTH, new, short
from tasks.shown_clients import quantiles

MOST_DRAWN = 12
"""Most clients whose labels are drawn."""
_NUMBERED = 10
"""Most classes for which each cell shows its number."""
_MOST_TICKS = 20
MOST_DOTS = 300
"""Most clients that are drawn as single dots."""
MEASURES = {
    "num_examples": "examples",
    "earth_mover": "labels",
    "mean_distance": "inputs: level",
    "variance_distance": "inputs: spread",
    "mmd_squared": "inputs: shape",
}
"""The measures that are shown, in the order of the picture, and their names there."""


@dataclass(frozen=True)
class Holdings:
    """K clients and C classes: `counts` (K, C) examples, and each measure of `MEASURES` that is known, (K,)."""

    clients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Floats
    measures: dict[str, Floats]

    @property
    def shares(self) -> Floats:
        """(K, C): the share of each class in a client's examples; 0 for a client without any."""
        totals = self.counts.sum(axis=1, keepdims=True)
        shares: Floats = self.counts / np.maximum(totals, 1)
        return shares

    @property
    def whole(self) -> Floats:
        """(C,): the share of each class in the examples of all clients."""
        total: Floats = self.counts.sum(axis=0) / max(1.0, float(self.counts.sum()))
        return total


def read_holdings(partition: Any) -> Holdings | None:
    """Returns what partition.json holds; None if there is no such file, or if its content has another form."""
    if not isinstance(partition, dict):
        return None
    clients, classes = partition.get("clients"), partition.get("classes")
    if not isinstance(clients, dict) or not isinstance(classes, list) or not clients or not classes:
        return None
    rows = []
    for client in clients.values():
        counts = client.get("counts") if isinstance(client, dict) else None
        row = [_number(cell) for cell in counts] if isinstance(counts, list) else []
        if len(row) != len(classes) or any(cell is None or cell < 0 for cell in row):
            return None
        rows.append(row)
    columns = {name: [_number(client.get(name)) for client in clients.values()] for name in MEASURES}
    measures = {
        name: np.array(column, dtype=np.float64)
        for name, column in columns.items()
        if all(cell is not None for cell in column)
    }
    counted = np.array(rows, dtype=np.float64)
    measures.setdefault("num_examples", counted.sum(axis=1))
    return Holdings(tuple(map(str, clients)), tuple(map(str, classes)), counted, measures)


def chosen(held: Holdings, named: Sequence[str]) -> list[str]:
    """Returns the named clients, at most MOST_DRAWN; if the file has none, the five whose labels differ most."""
    known = set(held.clients)
    holders = [client for client in dict.fromkeys(named) if client in known]
    if holders:
        return holders[:MOST_DRAWN]
    distance = np.abs(held.shares - held.whole).sum(axis=1)
    return [held.clients[k] for k in np.argsort(-distance, kind="stable")[:5]]


def draw_labels(held: Holdings, clients: Sequence[str]) -> Figure:
    """Returns a heat map: the share of each class (across) in the data of all clients, then of each client (down)."""
    rows = np.vstack([held.whole, *(held.shares[held.clients.index(client)] for client in clients)])
    names = ["all clients", *(short(client) for client in clients)]
    classes = [short(name, "end") for name in held.classes]
    upright = max(map(len, classes)) > 2
    figure = Figure(
        figsize=(WIDTH, 0.3 * len(rows) + 1.0 + upright * 0.09 * max(map(len, classes))), layout="constrained"
    )
    axes = figure.subplots()
    shades = PowerNorm(0.6, 0, max(float(rows.max()), 1e-9))
    axes.imshow(np.where(rows > 0, rows, np.nan), norm=shades, cmap="Blues", aspect="auto", interpolation="none")
    axes.set_facecolor("white")
    if len(held.classes) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(rows):
            if share >= 0.005:
                colour = "white" if shades(share) > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9.5)
    every = -(-len(classes) // _MOST_TICKS)
    angle = 90 if upright else 0
    axes.set_xticks(range(0, len(classes), every), classes[::every], rotation=angle, fontsize=9.5)
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.axhline(0.5, color=INK, linewidth=1.5)
    axes.set(xlabel="class: share of the client's examples, %")
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def draw_features(held: Holdings, clients: Sequence[str]) -> Figure:
    """Returns a row for each measure, scaled to at most 1: all clients as grey dots, `clients` as blue diamonds.

    More than 300 clients are a grey band from the 5 % to the 95 % quantile with the median, because each dot is 100
    bytes of the page.
    """
    names = [name for name in MEASURES if name in held.measures]
    figure, axes = new(0.42 * len(names) + 1.2)
    chosen = np.isin(np.array(held.clients, dtype=object), list(clients))
    for row, name in enumerate(names):
        values = held.measures[name]
        largest = float(np.abs(values).max())
        scaled = values / largest if largest > 0 else values
        axes.axhline(row, color=GREY, alpha=0.3, linewidth=1)
        places = np.full(len(values), float(row))
        if len(values) <= MOST_DOTS:
            dots, label = scaled[~chosen], "_" * row + "other clients"
            axes.plot(dots, places[~chosen], "o", color=GREY, alpha=0.6, markersize=5, label=label)
        else:
            upper, median, lower = quantiles(scaled)
            label = "_" * row + "90 % of all clients"
            axes.plot([lower, upper], [row, row], "-", color=GREY, alpha=0.6, linewidth=6, label=label)
            axes.plot([median], [row], "|", color=INK, markersize=12)
        axes.plot(
            scaled[chosen], places[chosen], "D", color=BLUE, markersize=6, label="_" * row + "the clients of the table"
        )
    axes.set_yticks(range(len(names)), [MEASURES[name] for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="share of the largest value")
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
    return figure


def _number(value: Any) -> float | None:
    """A finite number of JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
