"""docs/extending.md against the tree: its files exist, are few enough, and are all that a kind needs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tasks.diagnose.causes import CAUSES
from tasks.settings import fields
from tests.documents import ROOT, chapters, tables

SECTIONS = chapters((ROOT / "docs/extending.md").read_text(encoding="utf-8"))
KINDS = {
    "An aggregator": "federate.aggregator.kind",
    "A client update": "federate.client.kind",
    "A partition": "partition.kind",
    "A data source": "data.kind",
}
EXPLAINED = {
    "An aggregator": "docs/algorithms.md",
    "A client update": "docs/algorithms.md",
    "A partition": "docs/algorithms.md",
    "A data source": "docs/data.md",
    "A cause": "docs/diagnosis.md",
    "A setting": "docs/settings.md",
}
"""The document that says what each member of a section is."""
MOST = 6
"""Most files that a new kind may need."""


def files(section: str) -> list[str]:
    """The paths of the numbered list of a section; its other paths are explanations."""
    items = re.split(r"^\d+\. ", SECTIONS[section], flags=re.MULTILINE)[1:]
    return [path for item in items for path in re.findall(r"`([\w./<>]+[/.][\w/<>]*)`", item.partition(":")[0])]


def matching(path: str) -> Iterator[Path]:
    """The files of the tree that a path with a placeholder stands for."""
    yield from ROOT.glob(re.sub(r"<\w+>", "*", path.rstrip("/")))


def members(section: str) -> list[str]:
    return list(CAUSES) if section == "A cause" else list(get_args(fields()[KINDS[section]].annotation))


@pytest.mark.parametrize("section", [*KINDS, "A cause", "A setting"])
def test_at_most_six_files_are_touched_and_every_one_exists(section: str) -> None:
    assert 0 < len(re.findall(r"^\d+\. ", SECTIONS[section], flags=re.MULTILINE)) <= MOST
    listed = files(section)
    assert EXPLAINED[section] in listed
    assert "tests/test_" in SECTIONS[section]
    for path in listed:
        assert list(matching(path)), f"{section}: no {path}"


@pytest.mark.parametrize("section", KINDS)
def test_a_kind_with_settings_names_them_and_params_yaml(section: str) -> None:
    name = KINDS[section]
    owner = "data" if name == "data.kind" else name.split(".")[-2]
    assert {f"tasks/settings/{owner}.py", "params.yaml"} <= set(files(section))


@pytest.mark.parametrize("section", [*KINDS, "A cause"])
def test_no_other_file_must_know_every_kind(section: str) -> None:
    """A file that names more than half of the kinds is one that a new kind must be added to."""
    kinds, listed = members(section), {path for name in files(section) for path in matching(name)}
    for path in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        named = [kind for kind in kinds if f'"{kind}"' in text]
        assert 2 * len(named) <= len(kinds) or path in listed, f"{path.name} names {named}"


@pytest.mark.parametrize("section", [*KINDS, "A cause"])
def test_every_kind_is_in_a_listed_file_of_its_package(section: str) -> None:
    package = [
        path for name in files(section) if not name.startswith(("tasks/settings", "tests")) for path in matching(name)
    ]
    for kind in members(section):
        assert any(f'"{kind}"' in path.read_text(encoding="utf-8") for path in package if path.suffix == ".py"), kind


@pytest.mark.parametrize("section", KINDS)
def test_every_kind_is_named_in_the_tests_of_its_section(section: str) -> None:
    paths = {path for name in files(section) if name.startswith("tests/") for path in matching(name)}
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    untested = [kind for kind in members(section) if f'"{kind}"' not in text]
    assert not untested, f"{untested}: add tests to one of {sorted(path.name for path in paths)}"


@pytest.mark.parametrize("section", [*KINDS, "A cause"])
def test_every_kind_has_a_row_in_the_document_of_its_section(section: str) -> None:
    document = (ROOT / EXPLAINED[section]).read_text(encoding="utf-8")
    first = [row[0] for table in tables(document) for row in table]
    missing = [kind for kind in members(section) if not any(f"`{kind}`" in cell for cell in first)]
    assert not missing, f"{EXPLAINED[section]}: add a row that says what {missing} are"


def test_the_row_of_a_client_update_has_its_equation() -> None:
    """An equation has a minus or a product; FedAvg adds nothing, and says so."""
    every = tables((ROOT / EXPLAINED["A client update"]).read_text(encoding="utf-8"))
    kinds = {f"`{kind}`" for kind in members("A client update")}
    bare = [
        [row[0] for row in table[1:] if not re.search("[-−·]|nothing", " ".join(row[1:]))]
        for table in every
        if {row[0] for row in table[1:]} == kinds
    ]
    assert [] in bare, f"no table of client updates with an equation for each of {bare}"
