"""The diagnosis as a Markdown artifact of Prefect: with the pictures of diagnosis.html, and with no column cut.

Prefect's pages show HTML and embedded pictures in Markdown. They do not break the lines of a Markdown table, and cut
what is wider than the page; they do break the lines of an HTML table.
"""

import base64
import html
import re
from pathlib import Path

_WIDE = 60
"""Most characters of a row that a Markdown table can have: at 1280 pixels, Prefect's page has room for about 70."""
_TABLE = re.compile(r"(?:^\|.*\|$\n?)+", re.MULTILINE)
_CELL_ENDS = re.compile(r"(?<!\\)\|")
_SECTION = re.compile(r'<section[^>]*><h2 id="[^"]*">(.*?)</h2>(.*?)</section>', re.DOTALL)
_FIGURE = re.compile(
    r'<figure><strong>(.*?)</strong><svg (viewBox="[^"]*")[^>]*>(.*?)</svg><figcaption>(.*?)</figcaption></figure>',
    re.DOTALL,
)
_COLOURS = re.compile(r":root \{([^}]*)\}")
_RULES = re.compile(r"^svg (?:\*|text|image) \{[^}]*\}$", re.MULTILINE)
_SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def report(reports: Path) -> str:
    """Returns the diagnosis in the folder `reports` as one Markdown text with its pictures; "" if there is none."""
    if not (reports / "diagnosis.md").is_file():
        return ""
    markdown = (reports / "diagnosis.md").read_text(encoding="utf-8")
    page = (reports / "diagnosis.html").read_text(encoding="utf-8")
    return with_pictures(_TABLE.sub(lambda match: _unless_narrow(match[0]), markdown), page)


def with_pictures(markdown: str, page: str) -> str:
    """Returns `markdown` with the pictures of the HTML page `page` after the answer.

    Pictures stand in the section of their page. A section of the same title in `markdown` follows them.
    """
    colours, rules = _COLOURS.search(page), "".join(_RULES.findall(page))
    # Prefect's page can be dark. The picture is light: its colours are the first that the page defines.
    look = f'style="{colours[1] if colours else ""} color-scheme: light; background: white"'
    begin = f'<svg {_SPACES} width="720" {look}><style>{rules}</style>'
    answer, *rest = re.split(r"^(?=## )", markdown, flags=re.MULTILINE)
    texts = dict(part.split("\n", 1) for part in rest)
    parts = [answer]
    for title, content in _SECTION.findall(page):
        heading = f"## {html.unescape(title)}"
        pictures = "".join(_picture(begin, *found) for found in _FIGURE.findall(content))
        if pictures:
            parts.append(f"{heading}\n\n{pictures}{texts.pop(heading, '')}")
    return "".join([*parts, *(f"{heading}\n{text}" for heading, text in texts.items())])


def _picture(begin: str, title: str, shape: str, drawing: str, says: str) -> str:
    """Returns a picture as an HTML block of Markdown.

    Args:
        begin: the first tag of an SVG file, and its styles.
        title: of the picture, as HTML.
        shape: the attribute `viewBox`.
        drawing: what is inside the tag `svg`.
        says: what it shows, as HTML.
    """
    alone = f"{begin.replace('<svg ', f'<svg {shape} ', 1)}{drawing}</svg>"
    source = f"data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()}"
    name = html.escape(html.unescape(title))
    return f'<p><strong>{title}</strong><br><img alt="{name}" src="{source}"><br>{says}</p>\n\n'


def _unless_narrow(table: str) -> str:
    """Returns a Markdown table as it is if it is narrow, else as an HTML table."""
    rows = [[cell.strip() for cell in _CELL_ENDS.split(line)[1:-1]] for line in table.splitlines()]
    heads, _, *body = rows
    if sum(max(map(len, column)) for column in zip(heads, *body, strict=True)) <= _WIDE:
        return table
    lines = [_row("th", heads), *(_row("td", row) for row in body)]
    return f'<table cellpadding="6">{"".join(lines)}</table>\n'


def _row(tag: str, cells: list[str]) -> str:
    texts = (html.escape(re.sub(r"\\(.)", r"\1", cell)) for cell in cells)
    whole = "".join(f'<{tag} align="left" valign="top">{text}</{tag}>' for text in texts)
    return f"<tr>{whole}</tr>"
