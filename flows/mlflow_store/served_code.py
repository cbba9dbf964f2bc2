"""The code that a logged model needs: the part of `tasks` that predicts, and the module of a user's own model."""

import ast
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import tasks

_ROOT = Path(tasks.__file__).parents[1]
_BEGIN = "tasks.predict"


def copy_code(model: str, folder: Path) -> list[str]:
    """Copies the code that predicts with `federate.model` = `model` into `folder`. Returns its modules and packages.

    Of a user's `module:function`, it is the file of the module, or the whole package.
    """
    for path in modules_of(_BEGIN):
        target = folder / path.relative_to(_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    code = [folder / "tasks"]
    if ":" in model:
        place = Path(str(importlib.import_module(model.partition(":")[0].partition(".")[0]).__file__))
        code.append(place.parent if place.name == "__init__.py" else place)
    return [str(path) for path in code]


def modules_of(name: str) -> set[Path]:
    """Returns the files of `tasks` that run if the module or package `name` is used, also imports in functions."""
    seen: set[Path] = set()
    todo = [name]
    while todo:
        for path in _files(todo.pop()):
            if path not in seen:
                seen.add(path)
                todo += _imports(path)
    return seen


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """Yields the files that run when a dotted name is imported: the packages above it, and the module itself."""
    parts = name.split(".")
    if parts[0] != "tasks":
        return
    for end in range(1, len(parts) + 1):
        place = _ROOT.joinpath(*parts[:end])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())
