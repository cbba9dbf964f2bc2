"""The benchmarks against the code that they import: names are read from the syntax trees, and nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "tests/benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))
OURS = ("tasks", "flows", "tests")


def relative(path: Path) -> str:
    return path.relative_to(BENCHMARKS).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(module: str, script: Path) -> Path | None:
    """The file of a module of this repository, or of a module in the script's folder; None for a library's."""
    for root in (ROOT, script.parent):
        base = root.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def bound(statements: list[ast.stmt]) -> Iterator[str]:
    """Yields the names that statements of a module bind, also inside `if`, `try` and `with`."""
    for node in statements:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                yield from bound([each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)])


def has(module: str, name: str, script: Path) -> bool:
    """Whether a module binds `name`, or is a package with a module of that name."""
    path = file_of(module, script)
    holds = path is not None and name in bound(parsed(path).body)
    return holds or file_of(f"{module}.{name}", script) is not None


def is_ours(module: str, script: Path) -> bool:
    return module.split(".")[0] in OURS or file_of(module, script) is not None


def missing(script: Path) -> Iterator[str]:
    """Yields the names of this repository that a script imports, or takes from a module, and that do not exist."""
    tree, modules = parsed(script), {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None or not is_ours(node.module, script):
            continue
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            if not has(node.module, alias.name, script):
                yield full
            path = file_of(node.module, script)
            if file_of(full, script) and (path is None or alias.name not in bound(parsed(path).body)):
                modules[alias.asname or alias.name] = full
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                # Every module has names such as __name__.
                if not attribute.startswith("__") and not has(modules[name], attribute, script):
                    yield f"{modules[name]}.{attribute}"


def test_there_are_benchmarks_that_import_this_code() -> None:
    importing = [path for path in SCRIPTS if any(f"from {package}." in path.read_text("utf-8") for package in OURS)]
    assert len(importing) > 5


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_every_name_that_a_benchmark_imports_exists(script: Path) -> None:
    assert list(missing(script)) == []


def test_a_renamed_name_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from beside import there, gone\n"
        "from tasks.federate import federate, loop, nothing\n"
        "from tasks.settings import Settings, NoSettings\n"
        "from tasks.nowhere import anything\n"
        "print(loop.run_rounds, loop.run_circles, loop.__name__)\n"
    )
    (tmp_path / "beside.py").write_text("there = 1\n")
    assert list(missing(script)) == [
        "beside.gone",
        "tasks.federate.nothing",
        "tasks.settings.NoSettings",
        "tasks.nowhere.anything",
        "tasks.federate.loop.run_circles",
    ]
