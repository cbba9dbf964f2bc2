"""The documents against the tree: links, commands, settings, outputs, tables of kinds, and the length of the README."""

import contextlib
import io
import itertools
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from flows.comparing import grid
from flows.workspace.overrides import with_overrides
from tasks import command
from tasks.errors import SettingsError
from tasks.settings import STEPS, Settings, fields, laid_over, parse, value_at
from tests.documents import DOCUMENTS, GUIDES, ROOT, anchors, commands, headings, links, relative, spans, tables

PATH = re.compile(r"\b(?:tasks|flows|tests|docs)/[\w./<>*-]*[\w>]")
"""A placeholder, <kind>, stands for any name."""
PICTURES = (".png", ".svg", ".jpg")
LARGEST_PICTURE = 300_000
"""Bytes of a picture: several are loaded with one page."""
README_LINES, README_WORDS = 200, 2500
OUTPUT = re.compile(r"(?<![\w/.-])(?:data|models|reports)/[\w./*<>-]*")
OPTIONS = {"-S", "--set-param", "--grid"}
KINDS = (
    "data.kind",
    "partition.kind",
    "federate.client.kind",
    "federate.aggregator.kind",
    "federate.server_optimizer.kind",
    "federate.sampling.kind",
    "federate.guard",
)
EXPLAINED = [
    path for path in GUIDES if relative(path).startswith("docs/") and path.stem not in ("settings", "benchmarks")
]
"""The documents that explain kinds. docs/settings.md only names them, and docs/benchmarks.md only measures them."""


@cache
def text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    named = set(PATH.findall(text(document)))
    assert [path for path in sorted(named) if not list(ROOT.glob(re.sub(r"<\w+>", "*", path)))] == []


# Links


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    assert [problem for link in links(text(document)) if (problem := broken(document, link))] == []


def broken(document: Path, link: str) -> str:
    """Says what is wrong with a link; empty if it is right."""
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists() or not target.is_relative_to(ROOT):
        return f"{link}: no such file"
    if OUTPUT.fullmatch(relative(target)):
        return f"{link}: an output, which a fresh clone does not have"
    if anchor and target.suffix == ".md" and anchor not in anchors(text(target)):
        return f"{link}: no such heading, there are {sorted(anchors(text(target)))}"
    if target.suffix in PICTURES and target.stat().st_size > LARGEST_PICTURE:
        return f"{link}: {target.stat().st_size} bytes, more than {LARGEST_PICTURE}"
    return ""


def test_anchors_are_githubs() -> None:
    assert anchors("# Set-up\n## Your `own` data: how, why?\n### a_b\n## Set-up\n```\n# none\n```\n") == {
        "set-up",
        "your-own-data-how-why",
        "a_b",
        "set-up-1",
    }


def test_every_picture_of_the_documents_is_in_one_of_them() -> None:
    shown = {(document.parent / link).resolve() for document in GUIDES for link in links(text(document))}
    assert [relative(path) for path in sorted((ROOT / "docs/images").glob("*")) if path not in shown] == []


# Commands


@pytest.fixture(scope="module")
def read_arguments() -> Iterator[Callable[[str, list[str]], str]]:
    """(module, arguments) → what is wrong with the arguments of `python -m module`; empty: nothing. It never runs."""

    class Taken(Exception):
        pass

    def stop() -> None:
        raise Taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "prepare", stop)

        def read(module: str, arguments: list[str]) -> str:
            patch.setattr(sys, "argv", [module, *arguments])
            patch.delitem(sys.modules, f"{module}.__main__", raising=False)  # runpy warns of a module that is imported
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                    runpy.run_module(module, run_name="__main__")
            except (Taken, SystemExit):
                return said.getvalue()
            return f"{module} is not a command"

        yield read


@pytest.mark.parametrize("document", GUIDES, ids=relative)
def test_every_command_can_be_given(document: Path, read_arguments: Callable[[str, list[str]], str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    stages = set(yaml.safe_load(text(ROOT / "dvc.yaml"))["stages"])
    for words in commands(text(document)):
        match words:
            case ["make", *arguments]:
                unknown = [word for word in arguments if "=" not in word and word not in targets]
                assert not unknown, f"make {unknown}: there are {sorted(targets)}"
            case ["python", "-m", module, *arguments] if module.split(".")[0] in ("tasks", "flows"):
                file = ROOT / module.replace(".", "/")
                assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), f"no module {module}"
                placed = [STEPS[0] if word == "STEP" else word for word in arguments]
                assert not arguments or read_arguments(module, placed) == ""  # without any, the module is only named
            case ["python", script, *arguments] if script.endswith(".py"):
                options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
                assert [option for option in options if f'"{option}"' not in text(ROOT / script)] == [], script
            case ["dvc", "repro", *arguments]:
                assert [word for word in arguments if word[0] != "-" and word not in stages] == [], words


# Settings


def settings_of(words: list[str]) -> tuple[list[str], list[str]]:
    """The values of -S and of --grid in a command; `-S` without a value is only named."""
    pairs = [(word, value) for word, value in itertools.pairwise(words) if word in OPTIONS and "=" in value]
    return [v for word, v in pairs if word != "--grid"], [v for word, v in pairs if word == "--grid"]


@cache
def check_settings(overrides: tuple[str, ...], axes: tuple[str, ...]) -> None:
    """Raises SettingsError unless a run, or each cell of a comparison, can have these settings."""
    named = {given.partition("=")[0].lstrip("+") for given in (*overrides, *axes)} | {"seed", "partition.seed"}
    defaults = {name: value_at(yaml.safe_load(text(ROOT / "params.yaml")), name) for name in named & set(fields())}
    base = with_overrides(yaml.safe_dump(laid_over({}, defaults)), overrides)  # DVC reads the whole file in 60 ms
    if axes:
        grid.cells(base, axes, same_clients=True)
    else:
        parse(yaml.safe_load(base))


@pytest.mark.parametrize("document", GUIDES, ids=relative)
def test_every_setting_of_a_command_is_one_and_they_can_be_set_together(document: Path) -> None:
    for words in commands(text(document)):
        overrides, axes = settings_of(words)
        try:
            check_settings(tuple(overrides), tuple(axes))
        except SettingsError as exc:
            pytest.fail(f"{' '.join(words)}: {exc}")


@pytest.mark.parametrize("document", GUIDES, ids=relative)
def test_every_dotted_name_of_a_setting_is_one(document: Path) -> None:
    known = {".".join(name.split(".")[:length]) for name in fields() for length in range(1, name.count(".") + 2)}
    dotted = re.compile(rf"(?<![\w./-])(?:{'|'.join(Settings.model_fields)})(?:\.[a-z_0-9]+)+(?![\w/(*.-])")
    files = {"csv", "h5", "html", "json", "md", "npz", "png", "py", "yaml"}
    named = {name for span in spans(text(document)) for name in dotted.findall(span)}
    assert [name for name in sorted(named) if name.rpartition(".")[2] not in files and name not in known] == []


# The outputs


@cache
def outputs() -> list[str]:
    """Every `outs` and `metrics` of dvc.yaml."""
    stages = yaml.safe_load(text(ROOT / "dvc.yaml"))["stages"].values()
    listed = [out for stage in stages for key in ("outs", "metrics") for out in stage.get(key, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


@cache
def code() -> str:
    return "".join(text(path) for folder in ("tasks", "flows") for path in sorted((ROOT / folder).rglob("*.py")))


@pytest.mark.parametrize("document", GUIDES, ids=relative)
def test_every_output_that_a_document_names_is_one(document: Path) -> None:
    """It is in dvc.yaml; or the code writes a file or folder of this name."""
    named = {name.rstrip("./") for span in spans(text(document)) for name in OUTPUT.findall(span)} - set(STEPS)
    assert [name for name in sorted(named) if not is_output(name)] == []


def is_output(name: str) -> bool:
    """Whether `name` in a document is an output of a run; it may hold a * or a <placeholder>."""
    pattern = re.sub(r"<[\w ]+>", "*", name)
    if any(fnmatch(out, pattern) or f"{out}/".startswith(f"{name}/") for out in outputs()):
        return True
    last = Path(pattern).name
    return "*" in last or bool(re.search(rf"[\"/]{re.escape(last)}[\"/]", code()))


def test_every_output_of_dvc_yaml_is_in_a_table_of_a_document() -> None:
    rows = [re.findall(r"`([^`]+)`", " ".join(row)) for path in GUIDES for table in tables(text(path)) for row in table]
    missing = [out for out in outputs() if not any(names_output(row, out) for row in rows)]
    assert not missing, f"no table of README.md or docs/ has {missing}"


def names_output(row: list[str], out: str) -> bool:
    """Whether the code words of a row name an output.

    They name it by (1) its path, which may hold a *, (2) its folder, (3) its name, if another word is in its folder, or
    (4) its suffix, if another word is its path with another suffix.
    """
    folder, _, name = out.rpartition("/")
    if any(fnmatch(out, word.rstrip("/")) or word.rstrip("/") == folder for word in row if "/" in word):
        return True
    if name in row:
        return any(word.rpartition("/")[0] == folder for word in row)
    return Path(name).suffix in row and any(word.startswith(f"{folder}/{Path(name).stem}.") for word in row)


# The tables of kinds


@pytest.mark.parametrize("name", KINDS)
def test_a_table_explains_every_kind_and_no_table_has_an_unknown_one(name: str) -> None:
    kinds = set(get_args(fields()[name].annotation))
    found = []
    for path in EXPLAINED:
        for table in tables(text(path)):
            words = set(re.findall(r"`([^`]+)`", " ".join(row[0] for row in table[1:])))
            if 2 * len(words & kinds) > len(words):
                found.append(words)
    assert kinds in found, f"{name}: no table of docs/ has a row for each of {sorted(kinds)}, only {found}"
    assert [words - kinds for words in found if words - kinds] == []


# The README


def test_readme_is_short() -> None:
    readme = text(ROOT / "README.md")
    assert len(readme.splitlines()) <= README_LINES
    assert len(readme.split()) <= README_WORDS


def test_readme_links_to_every_document() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(text(ROOT / "README.md"))}
    assert [relative(path) for path in sorted((ROOT / "docs").glob("*.md")) if path not in linked] == []


@pytest.mark.parametrize("document", GUIDES, ids=relative)
def test_a_document_has_one_title(document: Path) -> None:
    assert [level for level, _ in headings(text(document))].count(1) == 1
