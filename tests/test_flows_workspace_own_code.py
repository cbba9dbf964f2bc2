"""flows/workspace/own_code.py: a run in its own folder finds the user's module, as `dvc repro` does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.recovery import takeover
from flows.workspace.dvc_hashes import dvc_hash
from flows.workspace.own_code import own_code
from flows.workspace.run_folder import Workspace
from tasks.partition import partition
from tasks.settings import load

MODULES = {"own.py": "rate = 0.5\n", "package/model.py": "units = 9\n", "package/__init__.py": ""}


@pytest.fixture
def repository(copy_repository: Callable[..., Path], tmp_path: Path) -> Path:
    """A repository whose first stage depends on a module and on a package of the user."""
    folder = copy_repository(tmp_path / "repository")
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    add_to_deps(folder, "own.py", "package")
    return folder


def add_to_deps(repository: Path, *names: str) -> None:
    stages = (repository / "dvc.yaml").read_text()
    listed = "".join(f"      - {name}\n" for name in names)
    (repository / "dvc.yaml").write_text(stages.replace("    deps:\n", f"    deps:\n{listed}", 1))


def opened(repository: Path, name: str = "run") -> Workspace:
    return Workspace.open(repository, name, (repository / "params.yaml").read_text(), "tasks/datasets")


def test_it_is_what_stages_depend_on_and_nobody_makes(repository: Path) -> None:
    add_to_deps(repository, "params.yaml", "nowhere.py", "/etc/hostname", "../repository/params.yaml", "data", ".")
    assert own_code(repository) == ["own.py", "package"]


def test_a_run_has_it_and_its_results_are_known_by_it(repository: Path) -> None:
    first = opened(repository)
    assert {name: (first.folder / name).read_text() for name in MODULES} == MODULES
    partition(load(first.folder / "params.yaml"), first.folder)
    first.commit("partition")
    assert opened(repository, "second").restore("partition")
    for name in ("own.py", "package/model.py"):
        (repository / name).write_text("changed = 1\n")
        assert not opened(repository, f"after {Path(name).stem}").restore("partition")
        (repository / name).write_text(MODULES[name])
    assert dvc_hash(opened(repository, "third").folder / "package") == dvc_hash(repository / "package")


def test_a_second_attempt_has_it_as_it_is_by_then(repository: Path) -> None:
    first = opened(repository)
    (repository / "own.py").write_text("rate = 0.1\n")
    (repository / "package/model.py").unlink()
    assert opened(repository).folder == first.folder
    assert (first.folder / "own.py").read_text() == "rate = 0.1\n"
    assert not (first.folder / "package/model.py").exists()


@pytest.mark.parametrize("name", ["own.py", "package/model.py"])
def test_a_killed_run_of_another_module_is_not_gone_on_with(name: str, repository: Path) -> None:
    before = takeover.identity(repository, ["seed: 0\n"])
    (repository / name).write_text("changed = 1\n")
    assert takeover.identity(repository, ["seed: 0\n"]) != before
    (repository / name).write_text(MODULES[name])
    assert takeover.identity(repository, ["seed: 0\n"]) == before
