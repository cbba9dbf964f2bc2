"""diagnosis.html as a browser takes it."""

import re
from html.parser import HTMLParser
from typing import Any

from diagnosis_values import LOSSES, client_log, round_log

from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.report.page import to_html

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser makes of the page: tags and their attributes, and the text. Fails if a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.said = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(
    answer: Diagnosis,
    clients: list[str] | None = None,
    losses: Any = LOSSES,
    name: str = "val_loss",
    partition: Any = None,
) -> str:
    """The page of a diagnosis, with logs of as many rounds as there are losses."""
    log = client_log(clients or ["03", "00", "01"], len(losses))
    return to_html(answer, round_log(losses, name), log, partition)


def labels_of(svg: str) -> list[str]:
    """The labels of the vertical axis, from the top of the file."""
    return re.findall(r"<text[^>]*text-anchor: end[^>]*>([^<]*)</text>", svg)
