"""`python -m flows.compare` in a copy of the repository, with a real Prefect server, DVC and MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.mlflow_store import run_names
from tasks import files
from tasks.settings import load
from tests.servers import free_port

RATE = "federate.client.learning_rate"
# With this learning rate, no update is finite: every client fails in the first round.
GRID = ("--grid", f"{RATE}=0.05,1000000.0", "--grid", "seed=0,1")
LONG = ("--grid", "federate.local_work.epochs=1,20", "--grid", "seed=0,1", "-S", "federate.model=cnn")
PNG = b"\x89PNG"


@dataclass(frozen=True)
class Done:
    """A comparison that ended: exit status, output, and folder."""

    status: int
    said: str
    folder: Path


@dataclass(frozen=True)
class Shell:
    """Starts comparisons in a repository as a user does."""

    repository: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "flows.compare", *arguments],
            cwd=self.repository,
            env={**self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> Done:
        started = self.start(*arguments)
        said, _ = started.communicate(timeout=900)
        folders = sorted((self.repository / ".runs").glob("[!.]*"), key=lambda folder: folder.stat().st_mtime)
        return Done(started.returncode, said, folders[-1] if folders else self.repository)

    def mlflow(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.repository / 'mlflow.db'}")

    def rows(self) -> list[dict[str, str]]:
        return files.read_rows(self.repository / "reports/compare.csv")


@pytest.fixture(scope="module")
def compare(
    copy_repository: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    shell: dict[str, str],
    prefect_server: str,
) -> Shell:
    return Shell(copy_repository(tmp_path_factory.mktemp("repository")), {**shell, "PREFECT_API_URL": prefect_server})


@pytest.fixture(scope="module")
def compared(compare: Shell) -> Done:
    """A comparison of two learning rates with two seeds each, in two processes; the cells of one rate fail."""
    return compare.run(*GRID, "--jobs", "2")


@pytest.fixture(scope="module")
def parent(compare: Shell, compared: Done) -> Run:
    return compare.mlflow().get_run((compared.folder / ".mlflow-run").read_text().split()[0])


@pytest.fixture(scope="module")
def children(compare: Shell, parent: Run) -> dict[str, Run]:
    """Returns name → MLflow run, for the runs of the cells."""
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    found = compare.mlflow().search_runs([parent.info.experiment_id], query)
    return {run.info.run_name: run for run in found}


def label(rate: str, seed: int) -> str:
    return f"client.learning_rate={rate}, seed={seed}"


def test_failed_cells_are_reported_and_the_others_finish(compare: Shell, compared: Done) -> None:
    assert compared.status == 1, compared.said
    last = compared.said.splitlines()[-1]
    assert last.startswith(f"error: 2 of 4 cells failed: {label('1000000.0', 0)}: round 1: every client failed")
    assert "Traceback" not in compared.said
    rows = compare.rows()
    assert [(row[RATE], row["seed"], row["status"]) for row in rows] == [
        ("0.05", "0", "finished"),
        ("0.05", "1", "finished"),
        ("1000000.0", "0", "failed"),
        ("1000000.0", "1", "failed"),
    ]
    assert [row["reason"].startswith("round 1: every client failed") for row in rows] == [False, False, True, True]


def test_the_numbers_are_those_of_the_cells_own_reports(compare: Shell, compared: Done) -> None:
    for at, row in enumerate(compare.rows()[:2]):
        scores = files.read_json(compared.folder / f"cell-0{at}/reports/metrics.json")
        assert {key: float(row[key]) for key in scores} == scores
        rounds = files.read_rows(compared.folder / f"cell-0{at}/reports/rounds.csv")
        drifts = [float(round_["drift"]) for round_ in rounds if round_["phase"] == "federate"]
        assert float(row["drift_mean"]) == pytest.approx(sum(drifts) / len(drifts))


def test_all_cells_have_the_same_clients_and_each_its_seed(compared: Done) -> None:
    cells = sorted(compared.folder.glob("cell-*"))
    partitions = [files.read_json(cell / "data/partition/partition.json") for cell in cells]
    assert len(cells) == 4
    assert all(one["clients"] == partitions[0]["clients"] for one in partitions)
    assert [load(cell / "params.yaml").seed for cell in cells] == [0, 1, 0, 1]
    assert {load(cell / "params.yaml").partition.seed for cell in cells} == {0}


def test_the_report_says_how_it_was_compared(compare: Shell, compared: Done) -> None:
    told = (compare.repository / "reports/compare.md").read_text()
    assert "2 of 4 cells finished: 2 groups × 2 seeds (0, 1). Every cell has the same clients" in told
    assert "| 1000000.0 | 0 | – |" in told
    assert f"- {label('1000000.0', 1)}: round 1: every client failed" in told
    assert (compare.repository / "reports/compare.png").read_bytes().startswith(PNG)


def test_every_cell_is_a_child_with_all_settings_and_a_tag_for_each_of_the_grid(
    compare: Shell, compared: Done, children: dict[str, Run]
) -> None:
    assert {*children} == {label(rate, seed) for rate in ("0.05", "1000000.0") for seed in (0, 1)}
    for at, row in enumerate(compare.rows()):
        run = children[label(row[RATE], int(row["seed"]))]
        assert run.info.run_id == row["mlflow_run_id"]
        assert run.info.status == {"finished": "FINISHED", "failed": "FAILED"}[row["status"]]
        assert (run.data.tags[RATE], run.data.tags["seed"]) == (row[RATE], row["seed"])
        assert run.data.params == run_names.spelled_settings(load(compared.folder / f"cell-0{at}/params.yaml"))
        assert run.data.tags.get("failure", "") == row["reason"]


def test_the_parent_holds_the_grid_the_table_and_the_reports(compare: Shell, compared: Done, parent: Run) -> None:
    client, run_id = compare.mlflow(), parent.info.run_id
    assert (parent.info.status, parent.info.run_name) == ("FAILED", "compare client.learning_rate × seed")
    assert parent.data.tags["prefect.flow_run_id"] == compared.folder.name
    assert parent.data.tags["grid"] == f"{RATE}=0.05,1000000.0 seed=0,1"
    assert (parent.data.params[RATE], parent.data.params["seed"]) == ("0.05,1000000.0", "0,1")
    assert parent.data.params["partition.seed"] == "0"
    assert (parent.data.metrics["cells"], parent.data.metrics["cells_finished"]) == (4, 2)
    told = (compare.repository / "reports/compare.md").read_text()
    assert parent.data.tags["mlflow.note.content"] == told[:5000]
    logged = {entry.path for entry in client.list_artifacts(run_id, "reports")}
    assert logged == {f"reports/compare.{kind}" for kind in ("csv", "md", "png")}
    table = json.loads(Path(client.download_artifacts(run_id, "compare.json")).read_text())
    assert (len(table["data"]), table["columns"][:2]) == (4, [RATE, "seed"])


def test_prefect_has_a_task_run_a_cell_and_the_table(prefect_server: str, compared: Done) -> None:
    flow_run = {"flow_runs": {"id": {"any_": [compared.folder.name]}}}
    tasks = httpx.post(f"{prefect_server}/task_runs/filter", json=flow_run, trust_env=False).json()
    assert {task["name"]: task["state"]["type"] for task in tasks} == {
        label(rate, seed): state for rate, state in (("0.05", "COMPLETED"), ("1000000.0", "FAILED")) for seed in (0, 1)
    }
    made = httpx.post(f"{prefect_server}/artifacts/filter", json=flow_run, trust_env=False).json()
    by_key = {artifact["key"]: artifact for artifact in made}
    assert {"compare", "cells", "mlflow"} <= {*by_key}
    assert by_key["cells"]["data"] == 100
    assert by_key["compare"]["data"].startswith("# Comparison: client.learning_rate × seed")


ON_DASK = ("-S", "federate.runtime.kind=dask", "-S", "federate.runtime.address=tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--grid", "federate.server_optimizer.beta_1=0.8,0.9"), "cell beta_1=0.8: "),
        (("--grid", "seed=0,1", "--dask", "nowhere"), "got 'nowhere'"),
        (
            ("--grid", "seed=0,1", "--dask", "tcp://127.0.0.1:1", *ON_DASK),
            "federate.runtime.kind must be in_process with --dask",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], says: str, compare: Shell, compared: Done
) -> None:
    before = {*(compare.repository / ".runs").iterdir()}
    done = compare.run(*arguments)
    (line,) = done.said.splitlines()
    assert (done.status, line.startswith("error: "), says in line) == (2, True, True), line
    assert {*(compare.repository / ".runs").iterdir()} == before


@pytest.mark.slow
def test_finished_cells_come_from_the_cache_whole_in_mlflow_too(compare: Shell, compared: Done) -> None:
    """This comparison runs in one process, and another seed is new. The rows of the cached cells must be identical."""
    before = {(row[RATE], row["seed"]): row for row in compare.rows()}
    again = compare.run("--grid", f"{RATE}=0.05", "--grid", "seed=1,2", "--jobs", "1")
    assert again.status == 0, again.said
    assert states(again.said) == {label("0.05", 1): "Cached", label("0.05", 2): "Completed"}
    cached, _ = compare.rows()
    same = {key: value for key, value in cached.items() if key not in ("mlflow_run_id", "rounds_to_target")}
    assert same.items() <= before["0.05", "1"].items()
    client = compare.mlflow()
    points = client.get_metric_history(cached["mlflow_run_id"], "val_loss")
    rounds = files.read_rows(again.folder / "cell-00/reports/rounds.csv")
    assert [(point.step, point.value) for point in points] == [
        (int(row["round"]), float(row["val_loss"])) for row in rounds
    ]


def states(said: str) -> dict[str, str]:
    return dict(re.findall(r"Task run '(.+)' - Finished in state (\w+)\(", said))


def wait_for_line(process: "subprocess.Popen[str]", pattern: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(said)


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def statuses(compare: Shell) -> dict[str, str]:
    """Returns run name → status in MLflow, for the newest run of each name."""
    found = compare.mlflow().search_runs(["1"], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run.info.status for run in found}


def rounds_of(cell: Path) -> int:
    log = cell / "models/checkpoints/federate/log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def wait_until_they_train(compare: Shell, *names: str) -> None:
    until = time.monotonic() + 60
    while {statuses(compare).get(name) for name in names} != {"RUNNING"}:
        assert time.monotonic() < until, statuses(compare)
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_comparison_leaves_nothing_alive_and_goes_on_in_its_runs(compare: Shell, prefect_server: str) -> None:
    killed = compare.start(*LONG, "--jobs", "2", "-S", "federate.rounds=20")
    # The cells with one epoch end long before the cells with twenty.
    wait_for_line(killed, r"flows\.prefect_flows\.comparison_flow - 2/4 ")
    wait_until_they_train(compare, "epochs=20, seed=0", "epochs=20, seed=1")
    folder = max((compare.repository / ".runs").glob("[!.]*"), key=lambda each: each.stat().st_mtime)
    every, until = load(folder / "cell-02/params.yaml").federate.checkpoint_every, time.monotonic() + 120
    while min(rounds_of(folder / name) for name in ("cell-02", "cell-03")) <= every:
        assert time.monotonic() < until
        time.sleep(0.1)
    processes = below(killed.pid)
    assert len(processes) >= 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    gone, alive = psutil.wait_procs(processes, timeout=15)
    assert (len(gone), alive) == (len(processes), [])
    left = [name for name, status in statuses(compare).items() if status == "RUNNING"]
    assert sorted(left) == ["compare epochs × seed", *(f"epochs=20, seed={seed}" for seed in (0, 1))]
    reached = {cell.name: rounds_of(cell) for cell in folder.glob("cell-*")}
    again = compare.run(*LONG, "--jobs", "2", "-S", "federate.rounds=20")
    assert again.status == 0, again.said
    assert f"continues flow run {folder.name}" in again.said
    assert not folder.exists()
    ended = states(again.said)
    assert [ended[f"epochs=1, seed={seed}"] for seed in (0, 1)] == ["Cached", "Cached"]
    assert [row["status"] for row in compare.rows()] == ["finished"] * 4
    # MLflow has the same five runs, each with every round once.
    client = compare.mlflow()
    parent = (again.folder / ".mlflow-run").read_text().split()[0]
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted(run.info.run_name for run in children) == sorted(
        f"epochs={epochs}, seed={seed}" for epochs in (1, 20) for seed in (0, 1)
    )
    assert {run.info.status for run in (*children, client.get_run(parent))} == {"FINISHED"}
    assert client.get_run(parent).data.tags["prefect.flow_run_id"] == again.folder.name
    for row in compare.rows():
        points = client.get_metric_history(row["mlflow_run_id"], "num_clients")
        assert sorted(point.step for point in points) == list(range(1, 20 + 2 + 1))
    # The killed cells continued from their checkpoints: timings.csv has only the rounds after the checkpoints.
    for name in ("cell-02", "cell-03"):
        seconds = files.read_rows(again.folder / name / "reports/timings.csv")
        first = min(int(row["round"]) for row in seconds if row["step"] == "federate" and row["round"])
        assert 1 < first <= reached[name] + 1
    killed_run = httpx.get(f"{prefect_server}/flow_runs/{folder.name}", trust_env=False).json()
    assert killed_run["state"]["type"] == "CRASHED"


@pytest.mark.slow
def test_a_terminated_comparison_ends_at_once_and_mlflow_says_killed(compare: Shell, prefect_server: str) -> None:
    begun = compare.start(*LONG, "--jobs", "2", "-S", "federate.rounds=21")
    wait_for_line(begun, r"flows\.prefect_flows\.comparison_flow - 2/4 ")
    wait_until_they_train(compare, "epochs=20, seed=0", "epochs=20, seed=1")
    processes, at = below(begun.pid), time.monotonic()
    begun.terminate()
    rest, _ = begun.communicate(timeout=60)
    _, alive = psutil.wait_procs(processes, timeout=max(0.0, 15 - (time.monotonic() - at)))
    assert (begun.returncode, alive) == (143, []), rest
    found = statuses(compare)
    assert {found[f"epochs=20, seed={seed}"] for seed in (0, 1)} == {"KILLED"}
    assert found["compare epochs × seed"] == "KILLED"
    folder = max((compare.repository / ".runs").glob("[!.]*"), key=lambda each: each.stat().st_mtime)
    flow_run = {"flow_runs": {"id": {"any_": [folder.name]}}}
    tasks = httpx.post(f"{prefect_server}/task_runs/filter", json=flow_run, trust_env=False).json()
    assert sorted(task["state"]["type"] for task in tasks) == ["COMPLETED", "COMPLETED", "CRASHED", "CRASHED"]


@pytest.mark.slow
def test_a_cell_whose_process_dies_is_tried_again_and_costs_no_other(compare: Shell) -> None:
    begun = compare.start(*LONG, "--jobs", "2", "-S", "federate.rounds=22")
    said = wait_for_line(begun, r"flows\.prefect_flows\.comparison_flow - 2/4 ")
    victim = next(each for each in below(begun.pid) if "spawn_main" in " ".join(each.cmdline()))
    time.sleep(3)
    victim.kill()
    rest, _ = begun.communicate(timeout=600)
    assert begun.returncode == 0, said + rest
    assert "a process of its pool died; the cell runs once more, alone" in rest
    assert [row["status"] for row in compare.rows()] == ["finished"] * 4
    for row in compare.rows():
        points = compare.mlflow().get_metric_history(row["mlflow_run_id"], "val_loss")
        assert sorted(point.step for point in points) == list(range(1, 22 + 2 + 1))


@contextmanager
def running(command: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        everyone = [*below(process.pid), psutil.Process(process.pid)] if process.poll() is None else []
        process.terminate()
        _, alive = psutil.wait_procs(everyone, timeout=20)
        for each in alive:
            each.kill()
        process.wait()


@pytest.fixture
def cluster(compare: Shell, tmp_path: Path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers outside the repository. Each is a process with one thread.

    Scheduler and workers have no Prefect server in their environment.
    """
    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = "127.0.0.1", address.rpartition(":")[2]
    options: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {name: value for name, value in compare.environment.items() if name != "PREFECT_API_URL"}
        | {"PYTHONPATH": str(compare.repository)},
    }
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", host, "--port", port, "--no-dashboard"]
    workers = [*dask, "worker", address, "--host", host, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    with running(scheduler, **options), running(workers, **options):
        yield address


def children_that_serve() -> set[int]:
    """Returns the ids of the processes below this one that are Prefect servers."""
    everyone = psutil.Process().children(recursive=True)
    return {each.pid for each in everyone if "prefect.server.api.server:create_app" in " ".join(each.cmdline())}


@pytest.mark.slow
def test_cells_run_on_a_dask_cluster(compare: Shell, cluster: str, prefect_server: str) -> None:
    before, until = children_that_serve(), time.monotonic() + 60
    while True:
        done = compare.run("--grid", "seed=40,41,42", "-S", "federate.model=logistic", "--dask", cluster)
        if done.status != 2 or time.monotonic() > until:  # the workers can still be starting
            break
    assert done.status == 0, done.said
    rows = compare.rows()
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert len({compare.mlflow().get_run(row["mlflow_run_id"]).data.tags["mlflow.parentRunId"] for row in rows}) == 1
    flow_run = {"flow_runs": {"id": {"any_": [done.folder.name]}}}
    tasks = httpx.post(f"{prefect_server}/task_runs/filter", json=flow_run, trust_env=False).json()
    assert [task["state"]["type"] for task in tasks] == ["COMPLETED"] * 3
    assert children_that_serve() == before  # no worker has started a server of its own
    local = compare.run("--grid", "seed=40,41,42", "-S", "federate.model=logistic", "--jobs", "1")
    assert {*states(local.said).values()} == {"Cached"}


@pytest.mark.slow
def test_a_cluster_without_workers_is_refused(compare: Shell, compared: Done, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with running(command, cwd=tmp_path, env={**os.environ}):
        done = compare.run("--grid", "seed=0,1", "--dask", f"tcp://127.0.0.1:{port}")
    (line,) = done.said.splitlines()
    assert (done.status, f"tcp://127.0.0.1:{port} has no worker" in line) == (2, True), line


@pytest.mark.slow
def test_workers_elsewhere_need_a_server_that_they_reach(compare: Shell, tmp_path: Path) -> None:
    """A local worker pretends to be on another machine, with an address of 192.0.2.0/24 (reserved for examples)."""
    address, at = f"tcp://127.0.0.1:{free_port()}", free_port()
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    worker = [*dask, "worker", address, "--listen-address", f"tcp://127.0.0.1:{at}", "--no-nanny", "--no-dashboard"]
    worker += ["--contact-address", f"tcp://192.0.2.1:{at}"]
    alone = {name: value for name, value in compare.environment.items() if name != "PREFECT_API_URL"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": alone}
    until = time.monotonic() + 120
    with running(scheduler, **options), running(worker, **options):
        while True:
            done = Shell(compare.repository, alone).run("--grid", "seed=0,1", "--dask", address)
            if "has no worker" not in done.said and "no Dask scheduler" not in done.said:  # both can still be starting
                break
            assert time.monotonic() < until, done.said
    (line,) = done.said.splitlines()
    assert done.status == 2
    assert "192.0.2.1 cannot reach this command's temporary Prefect server: set PREFECT_API_URL" in line
