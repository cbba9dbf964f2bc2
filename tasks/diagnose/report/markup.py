"""Pieces of HTML. Every text that comes in is escaped; only what these functions return is markup."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.diagnose.phrases import clean


@dataclass(frozen=True)
class Markup:
    """HTML that is safe to stand in a page."""

    html: str


Content = str | Markup
EMPTY = Markup("")


def text(content: Content) -> str:
    """Returns HTML: markup as it is, text escaped."""
    return content.html if isinstance(content, Markup) else html.escape(clean(content))


def together(parts: Iterable[Content]) -> Markup:
    """Returns the parts one after the other."""
    return Markup("\n".join(filter(None, map(text, parts))))


def tag(name: str, *content: Content, **attributes: str) -> Markup:
    """Returns `<name …>content</name>`; the attribute `class_` stands for `class`, `aria_label` for `aria-label`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(text, content))}</{name}>")


def paragraph(*content: Content) -> Markup:
    """Returns a paragraph."""
    return tag("p", *content)


def bullets(items: Iterable[Content]) -> Markup:
    """Returns a list."""
    return tag("ul", together(tag("li", item) for item in items))


def section(title: str, *content: Content) -> Markup:
    """Returns a section with its heading."""
    name = title.lower().replace(" ", "-").replace(",", "").replace("?", "")
    return tag("section", tag("h2", title, id=name), together(content), aria_labelledby=name)


def chart(svg: str, title: str, says: Content) -> Markup:
    """Returns a figure with its title and a sentence that says what it shows."""
    return tag("figure", tag("strong", title), Markup(svg), tag("figcaption", says))


def code(source: str) -> Markup:
    """Returns a block of code that one tap or click selects as a whole; its line ends stay."""
    lines = "\n".join(clean(line) for line in source.split("\n"))
    return tag("pre", tag("code", Markup(html.escape(lines))), tabindex="0")


def folded(summary: str, *content: Content) -> Markup:
    """Returns `content` hidden behind `summary`, which opens at a click."""
    return tag("details", tag("summary", summary), together(content))


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers, or sentences."""

    head: str
    kind: str = ""


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Content]]) -> Markup:
    """Returns a table. On a phone, a row of a table with sentences is a card. The first column names the row."""
    heads = (tag("th", column.head, scope="col", class_=column.kind) for column in columns)
    body = together(tag("tr", *(_cell(k, columns[k], cell) for k, cell in enumerate(row))) for row in rows)
    shape = "cards" if any(column.kind == "says" for column in columns) else "numbers"
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", body), class_=shape)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(place: int, column: Column, content: Content) -> Markup:
    if place == 0:
        return tag("th", content, scope="row")
    return tag("td", content, class_=column.kind, data_head=column.head)
