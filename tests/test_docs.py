"""The paths that the documents name are in the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
PATH = re.compile(r"\b(?:tasks|flows|tests|docs)/[\w./<>*-]*[\w>]")
"""A placeholder, <kind>, stands for any name."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    named = set(PATH.findall(document.read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if not list(ROOT.glob(re.sub(r"<\w+>", "*", path)))] == []
