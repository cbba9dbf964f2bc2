"""flows/workspace.py with real DVC: what a run's private folder takes from the repository, and never changes there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import versions
from flows.workspace import Workspace
from tasks.partition import partition
from tasks.settings import load


@pytest.fixture(scope="module")
def repository(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose workspaces hold hard links into the cache, in which a first run has done its first step."""
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    with (folder / ".dvc/config").open("a") as config:
        config.write("[cache]\n    type = hardlink,copy\n")
    first = open_workspace(folder, "first")
    run_partition(first)
    first.commit("partition")
    return folder


def open_workspace(repository: Path, name: str) -> Workspace:
    return Workspace.open(repository, name, (repository / "params.yaml").read_text(), "tasks/datasets")


def run_partition(workspace: Workspace) -> None:
    partition(load(workspace.folder / "params.yaml"), workspace.folder)


def cache_of(repository: Path) -> dict[str, Path]:
    return {path.parent.name + path.name: path for path in (repository / ".dvc/cache/files/md5").glob("*/*")}


def test_restored_outputs_are_links_if_the_repository_says_so(repository: Path) -> None:
    second = open_workspace(repository, "second")
    assert second.restore("partition")
    path = second.folder / "data/partition/00/x.npy"
    assert path.samefile(cache_of(repository)[versions.dvc_hash(path)])


def test_a_step_that_runs_over_links_leaves_the_cache_as_it_was(repository: Path) -> None:
    third = open_workspace(repository, "third")
    assert third.restore("partition")
    params = third.folder / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 1", 1))
    before = (third.folder / "data/partition/00/y.npy").read_bytes()
    run_partition(third)
    assert (third.folder / "data/partition/00/y.npy").read_bytes() != before
    for name, path in cache_of(repository).items():
        assert versions.dvc_hash(path) == name.removesuffix(".dir")
