"""The picture of the labels per client, reports/labels.png."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.shown_clients import QUANTILES, quantiles, shown_clients

TICKS = 25
"""Most names along an axis. With more clients or classes, every 2nd, 5th, 10th, … is named."""

LETTERS = 16
"""Most letters of a name. A longer name loses its middle, because ids often differ at their ends."""

NUMBERED = 20, 25
"""Most clients and most classes of a picture with a number in each cell."""


MOST_CLIENTS = 300
"""Most clients of whom all are drawn: a column is then 3 pixels wide."""

CHOSEN = 22
"""Clients that are drawn of more, beside three quantiles: each column can have its name."""


def draw_label_counts(path: Path, counts: NDArray[np.int64], clients: Sequence[str], classes: Sequence[str]) -> None:
    """Writes a PNG with a heat map of the examples by class (down) and client (across), and the clients' sizes on top.

    The colour follows the square root of the number, so that ten examples next to a thousand can still be seen. A cell
    is white if the client has no example of the class. Small pictures show the number in each cell.

    Of more than 300 clients, 22 are drawn: the clients whose share of each class is farthest from that of all data, and
    the largest and smallest clients. Beside them stand quantiles over all clients, of each class and of the sizes.

    Args:
        path: the file.
        counts: (K, C) number of examples.
        clients: K ids.
        classes: C names.
    """
    total, num_classes = counts.shape
    counts, sizes, clients = drawn_clients(counts, clients)
    num_clients = len(clients)
    figure = Figure(figsize=(9, min(9.0, 3.4 + 0.25 * num_classes)), dpi=120, layout="constrained")
    top, middle = figure.subplots(2, 1, sharex=True, height_ratios=[1, max(2.0, min(5.0, 0.25 * num_classes))])

    top.bar(range(num_clients), sizes, width=0.8 if num_clients <= 50 else 1.0, color="#2f6fab")
    top.set_ylabel("examples")
    top.spines[["top", "right"]].set_visible(False)
    top.tick_params(axis="x", length=0)

    cells = np.where(counts.T > 0, counts.T, np.nan)
    highest = int(counts.max())
    # One example must be darker than none, so the colours start at a sixth of the colour map.
    colors = LinearSegmentedColormap.from_list("labels", colormaps["Blues"](np.linspace(1 / 6, 1, 256)))
    shades = PowerNorm(0.5, 0, highest)
    image = middle.imshow(cells, aspect="auto", cmap=colors, norm=shades, interpolation="none")
    figure.colorbar(image, ax=middle, label="examples, white: none", pad=0.01)
    if num_clients <= NUMBERED[0] and num_classes <= NUMBERED[1]:
        for client, label in np.argwhere(counts > 0):
            number = counts[client, label]
            color = "white" if shades(number) > 0.5 else "black"
            middle.text(client, label, str(number), ha="center", va="center", fontsize=8, color=color)
    _name(middle.xaxis, clients)
    _name(middle.yaxis, classes)
    middle.tick_params(axis="x", rotation=0 if max(map(len, clients)) <= 3 else 90)
    if num_clients == total:
        middle.set_xlabel(f"client ({total} in all)")
    else:
        left = f"{CHOSEN} of {total:,} clients: labels or size farthest from the others; all: partition.json"
        middle.set_xlabel(left)
        middle.axvline(len(QUANTILES) - 0.5, color="black", linewidth=1.5)
    middle.set_ylabel("class")
    # Written in memory first: if the disk is full, the error that Pillow raises has no errno.
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    path.write_bytes(drawn.getvalue())


def drawn_clients(
    counts: NDArray[np.int64], clients: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Returns the columns of the picture: the examples by class (N, C), the sizes (N,), and the names.

    N is K, or for more than 300 clients the three quantiles and 22 clients.
    """
    sizes = counts.sum(axis=1)
    if len(clients) <= MOST_CLIENTS:
        return counts, sizes, list(clients)
    places = shown_clients(_apart(counts), np.zeros(len(clients), dtype=np.int64), CHOSEN)
    counts, sizes = (np.concatenate([_whole(each), each[places]]) for each in (counts, sizes))
    return counts, sizes, [*QUANTILES, *(clients[place] for place in places)]


def _whole(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The quantiles over the clients, rounded to whole examples."""
    return np.rint(quantiles(counts.astype(np.float64))).astype(np.int64)


def _apart(counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(K,) how far each client's shares of the classes are from those of all data, and its size from the median."""
    sizes, whole = np.maximum(counts.sum(axis=1), 1), counts.sum(axis=0) / max(1, int(counts.sum()))
    return np.abs(counts / sizes[:, None] - whole).sum(axis=1), np.abs(np.log2(sizes / np.median(sizes)))


def _name(axis: Axis, names: Sequence[str]) -> None:
    least = len(names) / TICKS
    power = 10 ** max(0, math.floor(math.log10(least)))
    every = next(step * power for step in (1, 2, 5, 10) if step * power >= least)
    short = [name if len(name) <= LETTERS else name[: LETTERS // 2] + "…" + name[1 - LETTERS // 2 :] for name in names]
    axis.set_ticks(range(0, len(names), every), short[::every], fontsize=9, parse_math=False)
