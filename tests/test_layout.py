"""Allowed imports: flows → tasks → NumPy, TensorFlow, TFF, never the other way. Imports are read, not run."""

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
    {"comparing", "framework_logs", "steps"},
    {"prefect_flows"},
    {"pipeline", "compare", "diagnose", "deployments", "tracking"},
)
"""The modules and packages of flows/ in layers: a layer imports only earlier layers. The commands are last."""
FRAMEWORKS = {"flows", "prefect", "mlflow", "dvc", "dvc_data", "dvc_objects"}
LIBRARIES = {"numpy", "scipy", "sklearn", "pandas", "PIL", "matplotlib", "rich", "yaml", "pydantic", "pydantic_core"}
LIBRARIES |= {"distributed", "dp_accounting", "h5py", "psutil", "pyarrow", "threadpoolctl"}
TENSORFLOW = {"tensorflow", "tensorflow_federated", "tensorflow_model_optimization", "keras"}
CALLERS_OF_FEDERATE = (
    "tasks/prune",
    "tasks/evaluate/baselines",
    "tasks/diagnose/compared",
    "tasks/diagnose/evidence",
    "tasks/diagnose/replay",
)
CALLERS_OF_PREPROCESS = ("tasks/diagnose/compared/mixtures.py",)
"""With another run's data of one client, `normalize: global` changes the data of all: they are preprocessed again."""
READERS_OF_EXAMPLES = {"read_client", "read_checked", "read_raw", "read_raw_checked", "read_member", "read_npy"}
"""Functions of tasks.clients, tasks.npz and tasks.files that read arrays."""
CLIENTS_SIDE = (
    "tasks/local/",
    "tasks/datasets/",
    "tasks/partition/",
    "tasks/preprocess/",
    "tasks/clients/",
    "tasks/npz.py",
)
"""Code that runs where a client's data are, or that writes these data."""
AT_THE_SERVER = {
    "tasks/diagnose/compared/mixtures.py": "simulated counterfactuals: one run with another run's data of a client",
    "tasks/diagnose/compared/side.py": "reads the hold-out data, which are the server's",
    "tasks/diagnose/replay/variants.py": "simulated counterfactuals, which move examples between clients",
    "tasks/evaluate/baselines/pooled.py": "evaluate.baselines: all data in one place, which only a simulation can do",
    "tasks/federate/public.py": "federate.shared_fraction: a public data set, simulated by drawing it from the clients",
}
"""Other files that read examples, and why they are allowed to."""
OPENERS = {"np.load", "np.memmap", "np.fromfile", "np.lib.format.open_memmap", "np.lib.format.read_array"}


def imported(path: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, also inside functions."""
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


def test_only_the_runtime_on_dask_knows_dask() -> None:
    using = {relative(path) for path in TASKS if {"distributed", "dask"} & {n.split(".")[0] for n in imported(path)}}
    assert using == {"tasks/runtime/on_dask/cluster.py", "tasks/runtime/on_dask/lane.py"}


@pytest.mark.parametrize("path", TASKS, ids=relative)
def test_tasks_read_no_environment_variable(path: Path) -> None:
    """Setting a variable for a library is allowed: `setdefault` as a statement, or an assignment to an item."""
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
    allowed |= {"preprocess"} if relative(path) in CALLERS_OF_PREPROCESS else set()
    assert others <= allowed, (
        f"{relative(path)}: the step {step_of(path)} may not import {', '.join(sorted(others - allowed))}; steps share "
        f"the modules next to them in tasks/, and only {', '.join(CALLERS_OF_FEDERATE)} may import federate"
    )


def reads_examples(path: Path) -> bool:
    """Returns whether a file imports a function that reads a client's arrays, or names the files with the arrays."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name.rpartition(".")[2] for name in imported(path)} | attributes
    return bool(names & READERS_OF_EXAMPLES or texts & {"x.npy", "y.npy"})


def test_the_server_never_opens_a_clients_examples() -> None:
    """Only client computations open examples. The exceptions are listed with their reasons."""
    readers = {relative(path) for path in TASKS if reads_examples(path)}
    assert {path for path in readers if not path.startswith(CLIENTS_SIDE)} == set(AT_THE_SERVER)


def test_numpy_opens_checkpoints_and_nothing_else() -> None:
    """So `test_the_server_never_opens_a_clients_examples` looks for every way to open a client's arrays."""
    opening = set()
    for path in TASKS:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        opening |= {relative(path)} if used & OPENERS else set()
    assert opening == {"tasks/federate/checkpoint.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "tasks/local").rglob("*.py")), ids=relative)
def test_a_client_computation_knows_no_server_and_no_step(path: Path) -> None:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("tasks.")}
    assert not names & {*STEPS, "runtime"}


@pytest.mark.parametrize("path", sorted((ROOT / "tasks/diagnose").rglob("*.py")), ids=relative)
def test_a_diagnosis_needs_no_tensorflow(path: Path) -> None:
    if not relative(path).startswith(("tasks/diagnose/evidence", "tasks/diagnose/replay")):
        assert not {name.split(".")[0] for name in imported(path)} & TENSORFLOW


@pytest.mark.parametrize("path", [*TASKS, *FLOWS], ids=relative)
def test_nothing_starts_tffs_own_runtime(path: Path) -> None:
    """TFF's own runtime listens on every network interface, without authentication."""
    text = path.read_text(encoding="utf-8")
    assert not [name for name in ("worker_binary", "grpc", "cpp_execution_context", "RemoteExecutor") if name in text]


def part_of_flows(name: str) -> str:
    """Returns the module or package of flows/ that has a dotted name: `flows.serving.worker` → serving."""
    return name.split(".")[1]


def layer(name: str) -> int:
    return next(rank for rank, parts in enumerate(LAYERS) if part_of_flows(name) in parts)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", [path for path in FLOWS if path != ROOT / "flows/__init__.py"], ids=relative)
def test_flows_import_only_from_lower_layers(path: Path) -> None:
    """Commands → flows → steps → packages: no package imports a command, and no command imports another command."""
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
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_part_of_matplotlib_keeps_global_state() -> None:
    assert [relative(path) for path in TASKS if any("pyplot" in name for name in imported(path))] == []


def test_tests_are_flat() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "tests/tasks").exists()
