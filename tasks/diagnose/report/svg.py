"""Matplotlib figures as SVG inside an HTML page: text stays text, colours follow the page, the same bytes each time."""

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tasks.diagnose.phrases import clean

WIDTH = 5.0
"""Inches, which are 360 units of the SVG: about as many pixels as a phone is wide."""
INK, BLUE, ORANGE, GREY, RISE = "#fe0101", "#fe0102", "#fe0103", "#fe0104", "#fe0105"
"""Stand-ins for the page's colours, which differ in light and dark mode."""
_VARIABLES = {INK: "--ink", BLUE: "--blue", ORANGE: "--orange", GREY: "--grey", RISE: "--rise"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # names may hold any signs
    "font.size": 10.5,
    "axes.titlesize": 11,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
}
_LETTERS = 14


@contextmanager
def style() -> Iterator[None]:
    """Sets the look of figures that are made and written inside this block; restores Matplotlib's settings after it."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has other fonts
        yield


def new(height: float) -> tuple[Figure, Axes]:
    """Returns a figure of the page's width and `height` inches with one panel."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Returns the `<svg>` element.

    Args:
        figure: the figure, made inside `style`.
        name: of the figure, unique on the page: the ids of its marks and clips begin with it.
        label: what the figure shows, for a screen reader.
    """
    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"]))
    text = written.getvalue()
    box = re.search(r'viewBox="([0-9. ]+)"', text)
    start = text.index(">", text.index("<svg ")) + 1
    text = text[start : text.rindex("</svg>")]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"<>]*"', "<g", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    text = re.sub(r"\n\s*", "\n", text)
    shape = box[1] if box else "0 0 360 240"
    return f'<svg viewBox="{shape}" role="img" aria-label="{html.escape(clean(label))}">{text}</svg>'


def short(text: str, at: Literal["middle", "end"] = "middle") -> str:
    """Returns `text` in at most 14 letters; ids often differ at their ends, so the middle goes."""
    text = clean(text)
    if len(text) <= _LETTERS:
        return text
    return f"{text[: _LETTERS - 1]}…" if at == "end" else f"{text[: _LETTERS // 2]}…{text[1 - _LETTERS // 2 :]}"


def grow_log(axes: Axes, lowest: float, highest: float) -> None:
    """Makes the axis logarithmic if all losses are positive and the largest is over 50 times the smallest."""
    if 0 < 50 * lowest < highest:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
