"""Markdown documents as the tests of the documents read them: headings, tables, code, links, commands."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").rglob("*.md"))]
DOCUMENTS = [*GUIDES, ROOT / "CHANGELOG.md"]
"""The guides and CHANGELOG.md. CHANGELOG.md is no guide, because it also names removed things."""

_FENCE = re.compile(r"^( *)(```+|~~~+)(.*)\n((?:.*\n)*?)\1\2 *$", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\""
)
_PLACEHOLDER = re.compile(r"<\w[\w ]*>")
_SHELL = ("", "sh", "bash", "shell", "console")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its text without its indentation."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document."""
    return [
        Block(language.strip(), re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, _, language, body in _FENCE.findall(text)
    ]


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """The inline code of a document, each on one line."""
    return [" ".join(code.split()) for _, code in _SPAN.findall(prose(text))]


def headings(text: str) -> list[tuple[int, str]]:
    """The headings of a document: level and title."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) +(.+?) *#*$", prose(text), re.MULTILINE)]


def chapters(text: str) -> dict[str, str]:
    """Title → text of each chapter of the second level, with the chapters below it."""
    titles = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(titles[::2], titles[1::2], strict=True))


def anchors(text: str) -> set[str]:
    """The anchors of a document, by GitHub's rules: the names after `#` in a link."""
    seen: Counter[str] = Counter()
    found = set(re.findall(r"<\w+ [^>]*?(?:id|name)=\"([^\"]+)\"", prose(text)))
    for _, title in headings(text):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(text: str) -> list[str]:
    """The targets of a document's links and pictures, without addresses of the web."""
    targets = ["".join(target) for target in _LINK.findall(_SPAN.sub("", prose(text)))]
    targets += re.findall(r"^\[[^\]]+\]: +(\S+)", prose(text), re.MULTILINE)
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a document: rows of cells, the head first, without the line of dashes."""
    found = re.findall(r"((?:^ *\|.*\|[ \t]*\n)+)", f"{prose(text)}\n", re.MULTILINE)
    split = [[re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in split if len(table) > 2]


def commands(text: str) -> Iterator[list[str]]:
    """The commands in a document's blocks and inline code, as words.

    If some lines begin with `$`, all other lines are output. A line is cut at `&&`, `||`, `|`, `;` and `&`. The lines
    of a here-document are no commands.
    """
    for block in blocks(text):
        if block.language in _SHELL:
            lines = re.sub(r" *\\\n\s*", " ", block.text).splitlines()
            prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            yield from _commands(prompted or _without_here_documents(lines))
    yield from _commands(spans(text))


def _without_here_documents(lines: list[str]) -> Iterator[str]:
    end = ""
    for line in lines:
        if end:
            end = "" if line.strip() == end else end
            continue
        yield line
        end = next(iter(re.findall(r"<< *'?(\w+)'?", line)), "")


def _commands(lines: Iterator[str] | list[str]) -> Iterator[list[str]]:
    for line in lines:
        lexer = shlex.shlex(_PLACEHOLDER.sub("NAME", line), posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in [*lexer, ";"]:
                if set(word) <= set(";|&"):
                    yield from [words] if words else []
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a quotation mark that is not closed: prose, not a command
            assert not re.match(r"(make|python|dvc|mlflow|prefect) ", line), line
