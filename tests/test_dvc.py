"""dvc.yaml matches the steps, and DVC itself runs the first two stages as expected."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.mlflow_store import run_files
from flows.workspace.dvc_hashes import dvc_hash
from tasks import clients, files
from tasks.errors import DataError
from tasks.outputs import OUTPUTS
from tasks.settings import STEPS, FederateSettings, Settings

ROOT = Path(__file__).parents[1]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
WITHOUT_EFFECT = {
    "tasks/__init__.py",
    "tasks/command.py",
    "tasks/lock.py",
    "tasks/outputs.py",
    "tasks/signals.py",
    "tasks/timings.py",
    "flows/__init__.py",
}
"""Code that runs a step, or writes files that are no outputs: a change of it is no reason to run a stage again."""


def paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(stage: str) -> list[str]:
    return paths([*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])])


def module_files(name: str) -> list[Path]:
    """Returns the files that run when a dotted name is imported: `tasks.files.read_json` → tasks/files.py."""
    parts = name.split(".")
    found = []
    for end in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:end])
        found += [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found


def used_by(begin: list[Path]) -> set[str]:
    """Returns these files and all files of the project that they import, as paths in the repository."""
    seen, todo = set(), list(begin)
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                todo += [file for alias in node.names for file in module_files(alias.name)]
            elif isinstance(node, ast.ImportFrom):
                todo += [file for alias in node.names for file in module_files(f"{node.module}.{alias.name}")]
    return {path.relative_to(ROOT).as_posix() for path in seen}


def code(stage: str) -> set[str]:
    begin = [ROOT / "flows/tracking.py"] if stage == "track" else sorted((ROOT / "tasks" / stage).rglob("*.py"))
    # Without the code of the settings: it only checks the values of params.yaml, on which a stage depends anyway.
    return {file for file in used_by(begin) if not file.startswith("tasks/settings/")} - WITHOUT_EFFECT


def test_one_stage_a_step_in_their_order_then_track() -> None:
    assert tuple(STAGES) == (*STEPS, "track")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_step(stage: str) -> None:
    expected = "python -m flows.tracking" if stage == "track" else f"python -m tasks {stage}"
    assert STAGES[stage]["cmd"] == expected


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_runs_and_no_other(stage: str) -> None:
    deps = [dep for dep in paths(STAGES[stage]["deps"]) if dep.startswith(("tasks/", "flows/"))]
    covered = {file for file in code(stage) if any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    assert code(stage) == covered
    assert [dep for dep in deps if not any(file == dep or file.startswith(f"{dep}/") for file in covered)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_dependencies_exist_or_are_made_by_an_earlier_one(stage: str) -> None:
    made = [out for earlier in STAGES if earlier != stage for out in outputs(earlier)]
    for dep in paths(STAGES[stage]["deps"]):
        if dep == "${data.path}":
            dep = Settings().data.path
        assert (ROOT / dep).exists() or any(dep == out or dep.startswith(f"{out}/") for out in made), dep


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_parameters_are_settings(stage: str) -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in STAGES[stage]["params"]:
        section = settings
        for part in name.split("."):
            section = section[part]


@pytest.mark.parametrize("stage", STEPS)
def test_a_stage_depends_on_the_settings_that_its_code_reads(stage: str) -> None:
    """The test reads `settings.<section>` in the code of a step and in all files of the project that it imports."""
    names = {name.split(".")[0] for name in STAGES[stage]["params"]}
    read: set[str] = set()
    for file in code(stage):
        read |= set(re.findall(r"\bsettings\.(\w+)", (ROOT / file).read_text())) & set(Settings.model_fields)
    # Before training, privacy.py refuses settings with which pruning would spend too much privacy; `prune` refuses them
    # too. No output of `federate` depends on `prune`, so a change of `prune` must not train again.
    read -= {"prune"} if stage == "federate" else set()
    assert read <= names


@pytest.mark.parametrize("stage", ["federate", "prune", "evaluate", "diagnose"])
def test_a_stage_depends_on_all_of_federate_but_the_runtime(stage: str) -> None:
    """Each runtime gives the same results, so a run on another one takes them from the cache."""
    names = {name for name in STAGES[stage]["params"] if name.startswith("federate")}
    assert names == {f"federate.{name}" for name in FederateSettings.model_fields if name != "runtime"}


def test_track_depends_on_all_settings() -> None:
    assert set(STAGES["track"]["params"]) == set(Settings.model_fields)


def test_track_depends_on_all_that_it_logs() -> None:
    deps = paths(STAGES["track"]["deps"])
    logged = {*run_files.FILES, *run_files.MODEL_FILES.values()} - {"params.yaml"}
    assert {path for path in logged if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)} == set()
    assert set(run_files.DATA) <= set(deps)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_removes_what_its_stage_makes(stage: str) -> None:
    more = {
        "federate": {"reports/clients.csv", "reports/rounds.csv"},  # outputs of `prune`, until it runs
        "track": {"reports/mlflow.json"},  # differs from run to run, so it is no output of DVC
    }
    assert set(OUTPUTS[stage]) == {*outputs(stage)} | more.get(stage, set())


NAMES = [".git", ".dvc", ".hg", ".dvcignore", "__pycache__", "x.pyc", ".runs", ".venv", ".mypy_cache", ".hypothesis"]


def test_dvc_ignores_no_client_that_may_have_its_id() -> None:
    """DVC ignores names by its defaults and by .dvcignore. `dvc checkout` loses an ignored folder without a message."""
    from dvc.repo import Repo

    lines = [line.strip("/*") for line in (ROOT / ".dvcignore").read_text().split()]
    held = [ROOT / "data" / name / client for name in ("partition", "clients") for client in [*NAMES, *lines]]
    with Repo(str(ROOT)) as repo:
        lost = {path.name for path in held if repo.dvcignore.is_ignored_dir(str(path))}
        files_lost = [path for path in held if repo.dvcignore.is_ignored_file(str(path.with_name("x.npy")))]
    assert {".git", ".dvc", ".hg", "__pycache__", "x.pyc"} <= lost
    assert files_lost == []
    for client in lost:
        with pytest.raises(DataError, match="a client id must"):
            clients.check_client_id(client)


def test_the_timings_are_no_output() -> None:
    assert "reports/timings.csv" not in [out for stage in STAGES for out in outputs(stage)]


def test_every_output_is_cached_and_removed_before_a_run() -> None:
    """With `cache: false` or `persist: true`, a stage would not be in the run-cache."""
    for stage in STAGES.values():
        assert all(isinstance(out, str) for out in [*stage.get("outs", []), *stage.get("metrics", [])])


def test_telemetry_is_off_in_the_repository() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config


def dvc(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new clone in which `dvc repro` has run partition and preprocess once."""
    folder = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tasks", "flows"):
        shutil.copytree(ROOT / name, folder / name)
    assert "Running stage 'partition'" in dvc(folder, "repro", "preprocess")
    return folder


def test_a_second_reproduction_runs_nothing(clone: Path) -> None:
    said = dvc(clone, "repro", "preprocess")
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == 2


def test_other_settings_and_back_are_restored_not_run(clone: Path) -> None:
    params = clone / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("normalize: global", "normalize: none"))
    assert dvc(clone, "repro", "preprocess").count("Running stage") == 1
    params.write_text(original)
    said = dvc(clone, "repro", "preprocess")
    assert "Running stage" not in said
    assert "Stage 'preprocess' is cached" in said


def test_another_size_of_images_is_another_partition(clone: Path) -> None:
    params = clone / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("resize: []", "resize: [4, 6]"))
    changed = json.loads(dvc(clone, "status", "--json", "partition", "preprocess"))
    params.write_text(original)
    assert changed == {"partition": [{"changed deps": {"params.yaml": {"preprocess.resize": "modified"}}}]}


def test_our_hash_of_a_folder_or_file_is_dvc_s(clone: Path) -> None:
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    assert {out["path"]: out["md5"] for out in outs} == {
        path: dvc_hash(clone / path) for path in ("data/partition", "data/clients", "reports/labels.png")
    }


def test_git_sees_only_the_lock(clone: Path) -> None:
    status = subprocess.run(
        ["git", "-C", str(clone), "status", "--porcelain", "--untracked-files=all"],
        capture_output=True,
        text=True,
        check=True,
    )
    made = {line[3:] for line in status.stdout.splitlines() if not line[3:].startswith(("tasks/", "flows/"))}
    copied = {".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"}
    assert made == copied | {"dvc.lock"}
    assert not [path for name in ("data", "reports") for path in (clone / name).rglob(".gitignore")]


def test_the_data_s_path_is_a_dependency_of_its_own(clone: Path, tmp_path: Path) -> None:
    """With raw data at another path, another version of them makes the partition out of date."""
    raw = tmp_path / "raw.npz"
    raw.write_bytes(b"one")
    fresh = tmp_path / "clone"
    shutil.copytree(clone, fresh)
    params = fresh / "params.yaml"
    params.write_text(
        params.read_text().replace("kind: digits", "kind: npz").replace("path: tasks/datasets", f"path: {raw}")
    )
    assert str(raw) in dvc(fresh, "status", "partition")


def test_the_stages_made_the_files_of_the_contract(clone: Path) -> None:
    for name in ("partition/partition.json", "clients/preprocess.json"):
        assert len(files.read_json(clone / "data" / name)["clients"]) == Settings().partition.num_clients
