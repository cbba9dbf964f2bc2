"""Who may import whom: arrows point one way, flows → tasks → numpy, TensorFlow, TFF. Imports are read, not run."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tasks.settings import STEPS

ROOT = Path(__file__).parents[1]
TASKS = sorted((ROOT / "tasks").rglob("*.py"))
FLOWS = sorted((ROOT / "flows").rglob("*.py"))
LAYERS = (
    {"addresses"},
    {"known_secrets"},
    {"workspace"},
    {"mlflow_store"},
    {"recovery", "running", "serving"},
    {"comparing", "steps"},
    {"prefect_flows"},
    {"pipeline", "compare", "diagnose", "deployments", "tracking"},
)
"""The modules and packages of flows/, from what knows nothing of the others to the commands."""
FRAMEWORKS = {"flows", "prefect", "mlflow", "dvc", "dvc_data", "dvc_objects"}
LIBRARIES = {"numpy", "scipy", "sklearn", "pandas", "PIL", "matplotlib", "rich", "yaml", "pydantic", "pydantic_core"}
LIBRARIES |= {"dp_accounting", "h5py", "psutil", "pyarrow", "threadpoolctl"}
TENSORFLOW = {"tensorflow", "tensorflow_federated", "tensorflow_model_optimization", "keras"}
CALLERS_OF_FEDERATE = ("tasks/prune", "tasks/diagnose/evidence", "tasks/diagnose/replay")


def imported(path: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def step_of(path: Path) -> str | None:
    first = path.relative_to(ROOT / "tasks").parts[0]
    return first if first in STEPS else None


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", TASKS, ids=relative)
def test_tasks_know_no_framework(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & FRAMEWORKS


@pytest.mark.parametrize("path", TASKS, ids=relative)
def test_tasks_use_only_the_agreed_libraries(path: Path) -> None:
    used = {name.split(".")[0] for name in imported(path)}
    assert used <= LIBRARIES | TENSORFLOW | {"tasks"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", TASKS, ids=relative)
def test_tasks_read_no_environment_variable(path: Path) -> None:
    """Setting one for a library (`setdefault` as a statement, or an item) is no reading."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    read = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr=method)):
                if method != "setdefault" or id(node) not in statements:
                    read.append(node.lineno)
            case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
                read.append(node.lineno)
            case ast.Attribute(attr="getenv"):
                read.append(node.lineno)
    assert read == []


@pytest.mark.parametrize("path", [path for path in TASKS if step_of(path)], ids=relative)
def test_steps_never_import_each_other(path: Path) -> None:
    others = {name.split(".")[1] for name in imported(path) if name.startswith("tasks.")} & set(STEPS) - {step_of(path)}
    allowed = {"federate"} if relative(path).startswith(CALLERS_OF_FEDERATE) else set()
    assert others <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "tasks/diagnose").rglob("*.py")), ids=relative)
def test_a_diagnosis_needs_no_tensorflow(path: Path) -> None:
    if not relative(path).startswith(("tasks/diagnose/evidence", "tasks/diagnose/replay")):
        assert not {name.split(".")[0] for name in imported(path)} & TENSORFLOW


@pytest.mark.parametrize("path", [*TASKS, *FLOWS], ids=relative)
def test_nothing_starts_tffs_own_runtime(path: Path) -> None:
    """It listens on every network interface, without authentication."""
    text = path.read_text(encoding="utf-8")
    assert not [name for name in ("worker_binary", "grpc", "cpp_execution_context", "RemoteExecutor") if name in text]


def part_of_flows(name: str) -> str:
    """The module or package of flows/ that a dotted name is in: `flows.serving.worker` → serving."""
    return name.split(".")[1]


def layer(name: str) -> int:
    return next(rank for rank, parts in enumerate(LAYERS) if part_of_flows(name) in parts)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", [path for path in FLOWS if path != ROOT / "flows/__init__.py"], ids=relative)
def test_flows_import_only_from_lower_layers(path: Path) -> None:
    """Commands → flows → steps → packages: no package imports a command, and no command another one."""
    mine = dotted(path)
    names = [name for name in imported(path) if name.startswith("flows.")]
    wrong = [name for name in names if part_of_flows(name) != part_of_flows(mine) and layer(name) >= layer(mine)]
    assert wrong == []


def test_no_modules_of_flows_import_each_other_in_a_circle() -> None:
    modules = {dotted(path): path for path in FLOWS}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imported(path)} & set(modules)
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def test_no_part_of_matplotlib_keeps_global_state() -> None:
    assert [relative(path) for path in TASKS if any("pyplot" in name for name in imported(path))] == []


def test_tests_are_flat() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "tests/tasks").exists()
