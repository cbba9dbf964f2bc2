"""flows/workspace/raw_data.py: a run in its own folder reads the same raw data as `dvc repro`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.comparing import grid
from flows.workspace import raw_data
from flows.workspace.dvc_hashes import dvc_hash
from flows.workspace.run_folder import Workspace
from tasks.errors import InputError
from tasks.partition import partition
from tasks.settings import load, parse


def table(seed: int) -> str:
    return "f,label\n" + "".join(f"{seed + i},{i % 3}\n" for i in range(60))


@pytest.fixture
def repository(copy_repository: Callable[..., Path], tmp_path: Path) -> Path:
    """A repository with tables inside it, next to it and below its .runs; all tables have different rows."""
    folder = copy_repository(
        tmp_path / "repository",
        {"data.kind": "table", "data.label_column": "label", "partition.kind": "iid", "partition.num_clients": 4},
    )
    for seed, name in enumerate(("../d.csv", "d.csv", "data/raw.csv", ".runs/d.csv", ".runs/old/d.csv", "sub/d.csv")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(table(1000 * seed))
    (folder / "up").symlink_to("..")
    (folder / "deep").symlink_to("sub")
    return folder


PATHS = ("../d.csv", "sub/../../d.csv", "sub/../d.csv", "./d.csv", "d.csv", "data/raw.csv", ".runs/old/d.csv")
LINKED = ("up/d.csv", "deep/d.csv", "deep/../d.csv", "up/repository/d.csv")


QUICK = ("../d.csv", "sub/../d.csv", "data/raw.csv", "up/repository/d.csv")
"""Outside, inside under another name, inside, and through a link; the others are slow."""


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path not in QUICK)) for path in (*PATHS, *LINKED)]
)
def test_a_run_reads_the_file_that_dvc_repro_reads(path: str, repository: Path) -> None:
    params = repository / "params.yaml"
    text = params.read_text().replace("path: tasks/datasets", f"path: {path}")
    params.write_text(text)
    text, settings = raw_data.placed(repository, text, load(params))
    assert parse(yaml.safe_load(text)) == settings
    workspace = Workspace.open(repository, "run", text, settings.data.path)
    assert load(workspace.folder / "params.yaml") == settings
    assert (workspace.folder / settings.data.path).samefile(repository / path)
    assert sorted(each.name for each in (repository / ".runs").iterdir()) == ["d.csv", "old", "run"]
    partition(load(params), repository)
    partition(settings, workspace.folder)
    assert dvc_hash(workspace.folder / "data/partition") == dvc_hash(repository / "data/partition")
    assert not workspace.restore("partition")  # DVC accepts the path, too
    # A path inside the repository stays as it is, so that the run-cache of `dvc repro` has the run.
    assert (settings.data.path == path) == (
        path in ("./d.csv", "d.csv", "data/raw.csv", "up/d.csv", "deep/d.csv", "up/repository/d.csv")
    )


@pytest.mark.parametrize(
    "path", [".", "./", "..", "../repository", "data", "data/partition", "data/clients/00", "up/repository"]
)
def test_what_the_pipeline_writes_is_no_raw_data(path: str, repository: Path) -> None:
    text = (repository / "params.yaml").read_text().replace("path: tasks/datasets", f"path: {path}")
    with pytest.raises(InputError, match=r"^data.path must not overlap with the pipeline's outputs"):
        raw_data.placed(repository, text, parse(yaml.safe_load(text)))


def test_a_path_that_is_nowhere_is_named_as_it_was_given(repository: Path) -> None:
    text = (repository / "params.yaml").read_text().replace("path: tasks/datasets", "path: nowhere.csv")
    assert raw_data.placed(repository, text, parse(yaml.safe_load(text)))[1].data.path == "nowhere.csv"


def test_cells_of_a_comparison_read_it_too(repository: Path) -> None:
    text = (repository / "params.yaml").read_text().replace("path: tasks/datasets", "path: ../d.csv")
    cells = grid.placed_cells(repository, grid.cells(text, ["data.path=../d.csv,d.csv"], True))
    outside = str((repository / "../d.csv").resolve())
    assert [cell.settings.data.path for cell in cells] == [outside, "d.csv"]
    assert [yaml.safe_load(cell.params)["data"]["path"] for cell in cells] == [outside, "d.csv"]


def test_only_the_path_of_params_yaml_changes(repository: Path) -> None:
    text = (repository / "params.yaml").read_text().replace("path: tasks/datasets", "path: ../d.csv")
    raw = yaml.safe_load(text)
    changed = yaml.safe_load(raw_data.placed(repository, text, parse(raw))[0])
    raw["data"]["path"] = changed["data"]["path"]
    assert changed == raw
    # 1 and 1.0 are two keys of the run-cache.
    assert repr(changed) == repr(raw)


@pytest.mark.parametrize("path", ["list.csv", "sub/list.csv"])
def test_a_run_finds_the_images_beside_their_csv(path: str, repository: Path) -> None:
    from PIL import Image

    folder = (repository / path).parent
    (folder / "pics").mkdir()
    for number in range(60):
        Image.new("L", (4, 4), number).save(folder / "pics" / f"{number}.png")
    rows = "".join(f"pics/{number}.png,{number % 3}\n" for number in range(60))
    (repository / path).write_text(f"path,label\n{rows}")
    params = repository / "params.yaml"
    text = params.read_text().replace("path: tasks/datasets", f"path: {path}").replace("kind: table", "kind: images")
    params.write_text(text)
    text, settings = raw_data.placed(repository, text, load(params))
    workspace = Workspace.open(repository, "run", text, settings.data.path)
    partition(load(params), repository)
    partition(settings, workspace.folder)
    assert dvc_hash(workspace.folder / "data/partition") == dvc_hash(repository / "data/partition")
