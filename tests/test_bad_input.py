"""Wrong input to every command: one line that names it, exit status 2, and nothing changed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.workspace.dvc_hashes import dvc_hash
from flows.workspace.run_folder import Workspace
from tasks import lock
from tasks.errors import RunError
from tasks.partition import partition
from tasks.settings import load

ROOT = Path(__file__).parents[1]
NOBODY = "http://127.0.0.1:9"
RUN_ID = "0123456789abcdef" * 2
PIPELINE, COMPARE, DIAGNOSE = "flows.pipeline", "flows.compare", "flows.diagnose"
PATIENCE = 90.0
"""Most seconds until a command gives up a server, on a busy machine: 15 s and the time of its imports."""


@dataclass(frozen=True)
class Refused:
    """The end of a command: status, output, seconds."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def line(self) -> str:
        (line,) = self.err.splitlines()
        return line


Run = Callable[..., Refused]


@pytest.fixture(scope="module")
def run(shell: dict[str, str]) -> Run:
    """(folder, *arguments of python -m, **environment) -> Refused. The environment names the servers."""

    def call(folder: Path, *arguments: str, **environment: str) -> Refused:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env={**shell, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=400,
        )
        return Refused(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    return call


@pytest.fixture(scope="module")
def repository(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    params = (folder / "params.yaml").read_text()
    (folder / "list.yaml").write_text("- seed\n- 0\n")
    (folder / "half.yaml").write_text("seed: [0\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.yaml").write_text("")
    (folder / "twice.yaml").write_text(f"seed: 1\n{params}")
    (folder / "part.yaml").write_text("seed: 1\n")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """{file: (size, time of change)}, without Python's bytecode."""
    found = {path: path.lstat() for path in folder.rglob("*") if "__pycache__" not in path.parts and path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def options(*overrides: str) -> tuple[str, ...]:
    return tuple(part for override in overrides for part in ("-S", override))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # not name=value
        ((PIPELINE, "-S", "seed"), "-S takes name=value, got 'seed'"),
        ((PIPELINE, "-S", "=3"), "-S takes name=value, got '=3'"),
        ((PIPELINE, "-S", "~seed=0"), "-S takes name=value, got '~seed=0'"),
        ((PIPELINE, "-S", "seed=1,2"), "-S seed=1,2: -S takes one value; python -m flows.compare --grid takes several"),
        ((PIPELINE, "seed=1"), "unrecognized arguments: seed=1 (see python -m flows.pipeline --help)"),
        # unknown keys
        ((PIPELINE, *options("federate.rondes=3")), "federate.rondes is not a setting: did you mean federate.rounds?"),
        ((PIPELINE, *options("+new.key=3")), "new is not a setting"),
        # accepted by Hydra, but not by a run
        ((PIPELINE, *options("seed=range(1,5)")), "-S takes one value; python -m flows.compare --grid takes several"),
        ((PIPELINE, *options("seed=shuffle(range(1,3))")), "-S takes one value"),
        ((PIPELINE, *options("seed=interval(0,1)")), "-S takes one value"),
        ((PIPELINE, *options("seed=glob(*)")), "-S takes one value"),
        ((PIPELINE, *options("seed=${seed}")), "Recursive interpolation"),
        ((PIPELINE, *options("seed=${nope.x}")), "Interpolation key 'nope.x' not found"),
        ((PIPELINE, *options("seed=${oc.env:NOPE_AT_ALL}")), "Environment variable 'NOPE_AT_ALL' not found"),
        ((PIPELINE, *options("data.path=???")), "-S data.path=???: "),
        ((PIPELINE, *options(f"seed={'9' * 5000}")), "Exceeds the limit"),
        ((COMPARE, "--grid", f"seed={'9' * 5000},1"), "Exceeds the limit"),
        ((COMPARE, "--grid", "seed=range(1,1000000000)"), "a grid may have at most 1000 cells"),
        # wrong types
        ((PIPELINE, *options("federate.rounds=many")), "federate.rounds must be a number, got 'many'"),
        ((PIPELINE, *options("federate.rounds=2.5")), "federate.rounds: input should be a valid integer, got 2.5"),
        ((PIPELINE, *options("seed=null")), "seed: input should be a valid integer, got None"),
        ((PIPELINE, *options("federate=3")), "federate must be a section of settings, got 3"),
        ((PIPELINE, *options("data.kind=csv")), "data.kind must be one of 'digits', 'npz', "),
        # out of range, or not possible with another setting
        ((PIPELINE, *options("federate.rounds=0")), "federate.rounds must be >= 1, got 0"),
        ((PIPELINE, *options("federate.client.momentum=nan")), "federate.client.momentum: input should be a finite"),
        ((PIPELINE, *options("prune.end_round=20")), "prune.end_round must be <= prune.rounds (2), got 20"),
        (
            (PIPELINE, *options("partition.kind=iid", "partition.alpha=2")),
            "partition.alpha has no effect with kind",
        ),
        ((PIPELINE, *options("track.register_as=a/b")), "track.register_as must hold no / or : and no space around it"),
        # files with settings
        ((PIPELINE, "--params", "nowhere.yaml"), "cannot read nowhere.yaml: "),
        ((PIPELINE, "--params", "tasks"), "cannot read tasks: "),
        ((PIPELINE, "--params", "binary.yaml"), "cannot read binary.yaml: "),
        ((PIPELINE, "--params", "list.yaml"), "list.yaml must hold a mapping of settings, got ['seed', 0]"),
        ((PIPELINE, "--params", "empty.yaml"), "empty.yaml must hold a mapping of settings, got nothing"),
        ((PIPELINE, "--params", "half.yaml"), "half.yaml is not YAML: "),
        ((PIPELINE, "--params", "twice.yaml"), "seed occurs twice"),
        ((PIPELINE, "--params", "part.yaml"), "part.yaml lacks data, partition, "),
        # arguments of a comparison
        ((COMPARE,), "a comparison needs a grid: --grid name=value,value"),
        ((COMPARE, "--grid", "seed"), "--grid takes name=value,value, got 'seed'"),
        ((COMPARE, "--grid", "federate.rondes=1,2"), "federate.rondes is not a setting: did you mean federate.rounds?"),
        ((COMPARE, "--grid", "federate.rounds=0,2"), "cell federate.rounds=0: federate.rounds must be >= 1, got 0"),
        ((COMPARE, "--grid", "seed=1,1"), "cells seed=1 and seed=1 have the same settings"),
        ((COMPARE, "--grid", "seed=0,1", "--jobs", "-1"), "--jobs must be >= 0, got -1"),
        ((COMPARE, "--grid", "seed=0,1", "--params", "list.yaml"), "list.yaml must hold a mapping of settings"),
    ],
    ids=lambda value: " ".join(value)[6:] if isinstance(value, tuple) else None,
)
def test_wrong_settings_are_one_line_and_nothing_is_done(
    arguments: tuple[str, ...], says: str, repository: Path, run: Run
) -> None:
    before = tree(repository)
    # No server is there: with accepted settings, the error would be about the server.
    done = run(repository, *arguments, PREFECT_API_URL=f"{NOBODY}/api")
    assert (done.status, done.out) == (2, ""), done.err
    assert done.line.startswith("error: ")
    assert says in done.line
    assert tree(repository) == before


UNREADABLE = [
    ("PREFECT_API_URL", "http://[::1/api"),
    ("PREFECT_API_URL", "127.0.0.1:4200/api"),
    ("PREFECT_API_URL", "http://me:s3c/ret77@127.0.0.1:1/api"),
    ("MLFLOW_TRACKING_URI", "localhost:5000"),
    ("MLFLOW_TRACKING_URI", "http://[::1"),
]
# One function reads the addresses for all commands: so each is given once, and each command gets one of each variable.
QUICK = {(PIPELINE, each) for each in UNREADABLE} | {(c, UNREADABLE[i]) for c in (COMPARE, DIAGNOSE) for i in (2, 3)}


@pytest.mark.parametrize(
    ("command", "variable", "address"),
    [
        pytest.param(command, *each, marks=[pytest.mark.slow] * ((command[0], each) not in QUICK))
        for command in ((PIPELINE,), (COMPARE, "--grid", "seed=0,1"), (DIAGNOSE, RUN_ID))
        for each in UNREADABLE
    ],
)
def test_an_address_that_cannot_be_read_is_one_line(
    command: tuple[str, ...], variable: str, address: str, repository: Path, run: Run
) -> None:
    before = tree(repository)
    done = run(repository, *command, **{variable: address})
    assert (done.status, done.out) == (2, ""), done.err
    assert done.line.startswith(f"error: {variable} must be an address like http://127.0.0.1:")
    assert "ret77" not in done.err
    assert tree(repository) == before


@pytest.mark.parametrize("module", ["flows.tracking", "tasks federate"])
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("half.yaml", "params.yaml is not YAML: "),
        ("list.yaml", "params.yaml must hold a mapping of settings, got ['seed', 0]"),
        ("nowhere.yaml", "cannot read params.yaml: "),
    ],
)
def test_a_step_refuses_its_params_yaml(
    module: str, params: str, says: str, repository: Path, run: Run, tmp_path: Path
) -> None:
    if (repository / params).exists():
        shutil.copy(repository / params, tmp_path / "params.yaml")
    before = tree(tmp_path)
    done = run(tmp_path, *module.split())
    assert (done.status, done.out) == (2, ""), done.err
    assert done.line.startswith(f"error: {says}")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("module", [PIPELINE, "flows.compare --grid seed=0,1"])
def test_outside_a_repository_is_one_line(module: str, run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, *module.split())
    assert done.status == 2
    assert done.line.endswith("is not inside a DVC repository with a dvc.yaml: run this in the repository")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", "RUN must be an MLflow run id or a folder that holds reports/rounds.csv, got 'nowhere'"),
        ("tasks", "tasks holds neither reports/rounds.csv nor rounds.csv"),
        (RUN_ID, f"MLflow at sqlite:///mlflow.db has no run {RUN_ID}"),
    ],
)
def test_a_run_that_does_not_exist_is_one_line(given: str, says: str, repository: Path, run: Run) -> None:
    before = tree(repository)
    done = run(repository, DIAGNOSE, given)
    assert (done.status, done.out) == (2, ""), done.err
    assert says in done.line
    assert tree(repository) == before


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


UNANSWERED = [
    (PIPELINE, "PREFECT_API_URL", "http://me:secret@{silent}/api"),
    (PIPELINE, "PREFECT_API_URL", f"{NOBODY}/api"),
    ("flows.deployments", "PREFECT_API_URL", "http://me:secret@{silent}/api"),
    ("flows.compare --grid seed=0,1", "PREFECT_API_URL", f"{NOBODY}/api"),
    (PIPELINE, "MLFLOW_TRACKING_URI", "http://me:secret@{silent}"),
    ("flows.compare --grid seed=0,1", "MLFLOW_TRACKING_URI", NOBODY),
    (f"{DIAGNOSE} {RUN_ID}", "MLFLOW_TRACKING_URI", "http://me:secret@{silent}"),
]


@pytest.fixture(scope="module")
def given_up(repository: Path, run: Run, silent: str) -> dict[tuple[str, str, str], Refused]:
    """{case of UNANSWERED: its end}. The commands run at the same time, because they mostly wait."""
    before = tree(repository)
    with ThreadPoolExecutor(len(UNANSWERED)) as pool:
        ended = pool.map(
            lambda case: run(repository, *case[0].split(), **{case[1]: case[2].format(silent=silent)}), UNANSWERED
        )
        found = dict(zip(UNANSWERED, ended, strict=True))
    assert tree(repository) == before
    return found


def test_a_diagnosis_waits_for_no_step_that_runs_in_the_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "reports/rounds.csv").write_text("round,val_loss\n1,1.0\n")
    (tmp_path / "reports/clients.csv").write_text("round,client,update_norm\n1,00,1.0\n")
    with lock.held(tmp_path, "federate"):
        refused = run(tmp_path, DIAGNOSE, str(tmp_path))
    assert (refused.status, refused.out) == (2, "")
    assert f"federate (process {os.getpid()}) runs in this folder" in refused.line
    assert not (tmp_path / "reports/diagnosis.json").exists()


@pytest.mark.parametrize("case", UNANSWERED, ids=" ".join)
def test_a_server_that_does_not_answer_is_given_up_in_time(
    case: tuple[str, str, str], given_up: dict[tuple[str, str, str], Refused]
) -> None:
    done, variable = given_up[case], case[1]
    assert (done.status, done.out) == (2, ""), done.err
    assert variable in done.line
    assert "does not answer" in done.line
    assert "secret" not in done.err
    assert done.seconds < PATIENCE


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB. The digits over ten clients need 462 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def with_cache(repository: Path, cache: Path) -> Path:
    with (repository / ".dvc/config").open("a") as config:
        config.write(f"[cache]\n    dir = {cache}\n")
    return repository


def assert_whole(cache: Path) -> None:
    """Checks that each file in the cache has the hash in its name, so that none is incomplete."""
    for path in (cache / "files").rglob("*"):
        if path.is_file():
            assert dvc_hash(path) == f"{path.parent.name}{path.name}".removesuffix(".dir")


def test_a_full_disk_while_committing_leaves_the_cache_whole(
    copy_repository: Callable[..., Path], tiny_disk: Path, tmp_path: Path
) -> None:
    repository = with_cache(copy_repository(tmp_path / "repository"), tiny_disk / "cache")
    params = (repository / "params.yaml").read_text()
    workspace = Workspace.open(repository, "some-run", params, "tasks/datasets")
    partition(load(workspace.folder / "params.yaml"), workspace.folder)
    with pytest.raises(RunError, match=r"the outputs of partition could not be put into DVC's cache: .*No space left"):
        workspace.commit("partition")
    assert_whole(tiny_disk / "cache")
    assert not (tiny_disk / "cache/runs").exists()  # no other run finds these outputs
    assert "partition" not in workspace.hashes()
    assert (workspace.folder / "data/partition/clients_000.npz").exists()  # the computed files are not lost


@pytest.mark.slow
def test_a_flow_run_on_a_full_disk_fails_with_one_line(
    copy_repository: Callable[..., Path], tiny_disk: Path, tmp_path: Path, run: Run, prefect_server: str
) -> None:
    repository = with_cache(copy_repository(tmp_path / "repository"), tiny_disk / "cache")
    done = run(repository, PIPELINE, PREFECT_API_URL=prefect_server)
    assert done.status == 1, done.err
    assert "Traceback" not in done.err + done.out
    last = done.err.splitlines()[-1]
    assert last.startswith("error: partition: the outputs of partition could not be put into DVC's cache: ")
    assert "No space left on device" in last
    assert_whole(tiny_disk / "cache")
    assert not (repository / "mlflow.db").exists()  # no training step ran
