"""`python -m flows.pipeline` in a copy of the repository, with a real Prefect server, DVC and MLflow."""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mlflow import MlflowClient

from flows.mlflow_store import data_versions
from tasks import files
from tasks.settings import STEPS

TASKS = (*STEPS, "track")
ROUNDS, PRUNE_ROUNDS = 3, 2


@dataclass(frozen=True)
class Done:
    """A command that ended: exit status and output."""

    status: int
    said: str

    def states(self) -> dict[str, str]:
        """Returns task → final state, from Prefect's lines `Task run 'x' - Finished in state Cached(...)`."""
        found = {}
        for line in self.said.splitlines():
            if "Task run '" in line and "Finished in state " in line:
                task, state = line.split("Task run '")[1].split("' - Finished in state ")
                found[task] = state.split("(")[0]
        return found


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def run(shell: dict[str, str], prefect_server: str) -> Run:
    """(folder, *arguments of python -m, **environment) → Done."""

    def call(folder: Path, *arguments: str, **environment: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env={**shell, "PREFECT_API_URL": prefect_server, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        return Done(done.returncode, done.stdout)

    return call


@pytest.fixture(scope="module")
def repository(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def first(repository: Path, run: Run) -> Done:
    """The first flow run in the repository, when the cache is empty."""
    done = run(repository, "flows.pipeline")
    assert done.status == 0, done.said
    return done


def mlflow_of(repository: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")


def mlflow_run(repository: Path, workspace: Path) -> str:
    return str(files.read_json(workspace / "reports/mlflow.json")["run_id"])


def only_workspace(repository: Path) -> Path:
    return max((repository / ".runs").glob("[!.]*"), key=lambda folder: folder.stat().st_mtime)


def run_in_prefect(api: str, workspace: Path) -> dict[str, Any]:
    """Returns the flow run of a workspace."""
    return dict(httpx.get(f"{api}/flow_runs/{workspace.name}", trust_env=False).json())


def event_of(api: str, workspace: Path) -> dict[str, Any]:
    """Returns the one event that Undrift emitted about a flow run; a busy server stores it after the run has ended."""
    asked = {"event": {"prefix": ["undrift."]}, "resource": {"id": [f"prefect.flow-run.{workspace.name}"]}}
    until = time.monotonic() + 60
    while not (found := httpx.post(f"{api}/events/filter", json={"filter": asked}, trust_env=False).json()["events"]):
        assert time.monotonic() < until, "there is no event"
        time.sleep(0.5)
    (event,) = found
    return dict(event)


def test_first_run_does_every_step_and_says_nothing_else(first: Done) -> None:
    assert first.states() == dict.fromkeys(TASKS, "Completed")
    assert "Traceback" not in first.said
    assert not [line for line in first.said.splitlines() if " | " not in line]  # no lines of DVC, MLflow or TensorFlow


def test_a_task_of_a_run_follows_the_one_before_it(first: Done, repository: Path, prefect_server: str) -> None:
    graph = httpx.get(f"{prefect_server}/flow_runs/{only_workspace(repository).name}/graph-v2", trust_env=False).json()
    nodes = dict(graph["nodes"])
    arrows = {(nodes[parent["id"]]["label"], node["label"]) for node in nodes.values() for parent in node["parents"]}
    assert arrows == {*pairwise(TASKS)}


def test_the_last_line_of_a_run_is_where_its_report_is(first: Done, repository: Path) -> None:
    last = first.said.strip().splitlines()[-1]
    report = re.search(r"report (\S+\.html), MLflow run [0-9a-f]{32}", last)
    assert report, last
    assert (repository / report[1]).samefile(only_workspace(repository) / "reports/diagnosis.html")


def test_mlflow_has_a_point_per_round_the_scores_and_the_way_back(first: Done, repository: Path) -> None:
    workspace, client = only_workspace(repository), mlflow_of(repository)
    logged = client.get_run(mlflow_run(repository, workspace))
    assert (logged.info.status, logged.data.tags["prefect.flow_run_id"]) == ("FINISHED", workspace.name)
    rows = files.read_rows(workspace / "reports/rounds.csv")
    points = client.get_metric_history(logged.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in points] == [
        (int(row["round"]), float(row["val_loss"])) for row in rows
    ]
    assert len(rows) == ROUNDS + PRUNE_ROUNDS
    assert logged.data.metrics["accuracy"] == files.read_json(workspace / "reports/metrics.json")["accuracy"]


def test_a_second_run_is_cached_and_then_dvc_repro_runs_nothing(first: Done, repository: Path, run: Run) -> None:
    second = run(repository, "flows.pipeline")
    assert (second.status, second.states()) == (0, dict.fromkeys(TASKS, "Cached")), second.said
    reproduced = run(repository, "dvc", "repro")
    assert reproduced.status == 0, reproduced.said
    assert "Running stage" not in reproduced.said
    assert re.findall(r"Stage '(\w+)' is cached", reproduced.said) == [*TASKS]
    (only,) = mlflow_of(repository).search_runs(["1"])
    # Nothing ran, so nothing named the run: the command does, and logs no second one.
    assert run(repository, "flows.tracking").status == 0
    assert mlflow_run(repository, repository) == only.info.run_id
    assert len(mlflow_of(repository).search_runs(["1"])) == 1


@pytest.mark.slow
def test_after_dvc_repro_a_flow_run_runs_nothing(
    repository: Path, run: Run, copy_repository: Callable[..., Path], tmp_path: Path
) -> None:
    clone = copy_repository(tmp_path / "clone", {"seed": 7, "federate.model": "logistic"})
    reproduced = run(clone, "dvc", "repro")
    assert reproduced.said.count("Running stage") == len(TASKS), reproduced.said
    after = run(clone, "flows.pipeline")
    assert (after.status, after.states()) == (0, dict.fromkeys(TASKS, "Cached")), after.said
    told = files.read_json(clone / "reports/mlflow.json")["run_id"]
    assert f"MLflow run {told}" in after.said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-S", "federate.rondes=3"], "federate.rondes"),
        (["-S", "federate.rounds"], "-S takes name=value"),
        (["-S", "prune.end_round=20"], "prune.end_round must be <= prune.rounds (2), got 20"),
        (["--params", "nowhere.yaml"], "nowhere.yaml"),
        (["--params", "dvc.yaml"], "is not a setting"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], says: str, repository: Path, run: Run, first: Done
) -> None:
    before = {*repository.rglob(".runs/*")}
    done = run(repository, "flows.pipeline", *arguments)
    (line,) = done.said.splitlines()
    assert (done.status, line.startswith("error: "), says in line) == (2, True, True), line
    assert {*repository.rglob(".runs/*")} == before


@pytest.mark.slow
def test_a_run_that_fails_says_why_once_and_prefect_has_it(
    repository: Path, run: Run, prefect_server: str, first: Done
) -> None:
    done = run(repository, "flows.pipeline", "-S", "data.kind=npz", "-S", "data.path=nowhere.npz")
    why = "partition: nowhere.npz must be an .npz file, got nothing there (data.kind npz, data.path 'nowhere.npz')"
    assert (done.status, done.said.splitlines()[-1]) == (2, f"error: {why}")
    assert "Traceback" not in done.said
    ours = {"flows": {"name": {"any_": ["pipeline"]}}, "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
    asked = {**ours, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    (failed,) = httpx.post(f"{prefect_server}/flow_runs/filter", json=asked, trust_env=False).json()
    assert failed["state"]["message"] == why


@pytest.mark.slow
def test_a_run_that_dies_explains_itself_to_the_user_prefect_and_mlflow(
    repository: Path, run: Run, prefect_server: str, first: Done
) -> None:
    done = run(repository, "flows.pipeline", "-S", "federate.client.learning_rate=3.0", "-S", "federate.rounds=6")
    last = done.said.splitlines()[-1]
    assert (done.status, last.startswith("error: federate: round ")) == (1, True), done.said
    helps = re.search(r"\. The cause: the clients' learning rate is too high; (-S federate\S+=\S+) helps$", last)
    assert helps, last
    assert "Traceback" not in done.said
    for begin in ("why: The run ended in round ", "since: round ", f"remedy: {helps[1]} (", "report: .runs/"):
        assert begin in done.said
    workspace = only_workspace(repository)
    assert files.read_json(workspace / "reports/diagnosis.json")["question"] == "ended"
    asked = {"artifacts": {"key": {"any_": ["report"]}, "flow_run_id": {"any_": [workspace.name]}}}
    (artifact,) = httpx.post(f"{prefect_server}/artifacts/filter", json=asked, trust_env=False).json()
    assert artifact["data"].startswith("# Why did the run end?")
    shown = run_in_prefect(prefect_server, workspace)
    assert (shown["state_name"], shown["tags"]) == ("Failed", ["RunEnded"])
    report = f". Report .runs/{workspace.name}/reports/diagnosis.html"
    assert shown["state"]["message"] == last.removeprefix("error: ") + report
    event = event_of(prefect_server, workspace)
    assert (event["event"], event["payload"]["cause"]) == ("undrift.run.ended", "client_learning_rate")
    run_id = (workspace / ".mlflow-run").read_text().split()[0]
    logged = {file.path for file in mlflow_of(repository).list_artifacts(run_id, "reports")}
    assert {"reports/diagnosis.json", "reports/rounds.csv"} <= logged
    # Other settings run afterwards as if nothing had been.
    assert run(repository, "flows.pipeline").states() == dict.fromkeys(TASKS, "Cached")


@pytest.mark.slow
def test_a_step_that_ends_early_is_shown_whole_and_pruning_goes_on_from_there(
    repository: Path, run: Run, prefect_server: str, first: Done
) -> None:
    # No loss falls by 5 nats: after the first round, `patience` rounds go by without a lower one.
    early = {"federate.rounds": 20, "federate.early_stopping.patience": 3, "federate.early_stopping.min_delta": 5}
    done = run(repository, "flows.pipeline", *(part for name in early for part in ("-S", f"{name}={early[name]}")))
    assert done.status == 0, done.said
    workspace, client = only_workspace(repository), mlflow_of(repository)
    rows = files.read_rows(workspace / "reports/rounds.csv")
    assert [(row["round"], row["phase"]) for row in rows] == [
        *((str(number), "federate") for number in range(1, 5)),
        *((str(number), "prune") for number in range(5, 5 + PRUNE_ROUNDS)),
    ]
    run_id = mlflow_run(repository, workspace)
    assert [point.step for point in client.get_metric_history(run_id, "num_clients")] == [*range(1, 5 + PRUNE_ROUNDS)]
    told = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert f"4 federated and {PRUNE_ROUNDS} pruning rounds" in told
    for step in ("federate", "prune"):
        asked = {"artifacts": {"key": {"any_": [f"{step}-rounds"]}, "flow_run_id": {"any_": [workspace.name]}}}
        (artifact,) = httpx.post(f"{prefect_server}/artifacts/filter", json=asked, trust_env=False).json()
        assert float(artifact["data"]) == 100.0


@pytest.mark.slow
def test_without_a_server_it_starts_one_and_leaves_no_traceback(repository: Path, run: Run, first: Done) -> None:
    done = run(repository, "flows.pipeline", PREFECT_API_URL="")
    assert (done.status, done.states()) == (0, dict.fromkeys(TASKS, "Cached")), done.said
    assert "Starting temporary server" in done.said
    assert "Traceback" not in done.said


@pytest.mark.slow
def test_eight_runs_at_once_share_the_cache_and_nothing_else(
    copy_repository: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    repository = copy_repository(tmp_path / "repository")
    seeds = [0, 0, 0, 0, 1, 2, 3, 4]
    with ThreadPoolExecutor(len(seeds)) as pool:
        done = list(pool.map(lambda seed: run(repository, "flows.pipeline", "-S", f"seed={seed}"), seeds))
    assert [each.status for each in done] == [0] * len(seeds), [each.said for each in done if each.status]
    workspaces = list((repository / ".runs").glob("[!.]*"))
    assert len(workspaces) == len(seeds)
    cache = repository / ".dvc/cache/files/md5"
    objects = {path.parent.name + path.name: path for path in cache.glob("*/*")}
    for name, path in objects.items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == name.removesuffix(".dir")
    wanted = {digest for workspace in workspaces for digest in data_versions.locked(workspace / "dvc.lock").values()}
    for digest in [*wanted]:
        if digest.endswith(".dir"):
            wanted |= {entry["md5"] for entry in json.loads(objects[digest].read_text())}
    assert wanted <= {*objects}
    # Equal settings give equal bytes. A flow run has its own MLflow run, or another's if `track` came from the cache.
    locks = [data_versions.locked(workspace / "dvc.lock") for workspace in workspaces]
    assert len({lock["models/global.h5"] for lock in locks}) == len({*seeds})
    runs = mlflow_of(repository).search_runs(["1"])
    assert {logged.info.status for logged in runs} == {"FINISHED"}
    assert len({*seeds}) <= len(runs) <= len(seeds)


@pytest.mark.slow
def test_what_a_run_pushed_comes_back_in_a_fresh_clone_by_its_mlflow_artifacts(
    repository: Path, run: Run, first: Done, copy_repository: Callable[..., Path], tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    for folder in (repository, copy_repository(tmp_path / "clone")):
        assert run(folder, "dvc", "remote", "add", "--default", "--force", "store", str(remote)).status == 0
    pushed = run(repository, "flows.pipeline", "--push")
    assert (pushed.status, "files pushed to DVC's remote" in pushed.said) == (0, True), pushed.said
    workspace, client = only_workspace(repository), mlflow_of(repository)
    for name in ("dvc.lock", "params.yaml"):
        client.download_artifacts(mlflow_run(repository, workspace), name, str(tmp_path / "clone"))
    pulled = run(tmp_path / "clone", "dvc", "pull", "--allow-missing")
    assert pulled.status == 0, pulled.said
    for path in ("models/global.h5", "data/clients/clients_000.npz", "reports/rounds.csv"):
        assert (tmp_path / "clone" / path).read_bytes() == (workspace / path).read_bytes()


@pytest.mark.slow
def test_the_remedy_of_a_diagnosis_is_applied(
    copy_repository: Callable[..., Path], run: Run, prefect_server: str, tmp_path: Path
) -> None:
    folder = copy_repository(tmp_path / "repository")
    changed = {
        "federate.rounds": "24",
        "federate.guard": "continue",
        "federate.faults.kind": "flipped_labels",
        "federate.faults.clients": "[03,07]",
        "federate.faults.from_round": "13",
    }
    drill = run(folder, "flows.pipeline", *(part for name in changed for part in ("-S", f"{name}={changed[name]}")))
    assert drill.status == 0, drill.said
    first = only_workspace(folder)
    (cause,) = files.read_json(first / "reports/diagnosis.json")["causes"]
    assert (cause["cause"], cause["clients"]) == ("faulty_clients", ["03", "07"])
    (remedy,) = cause["remedy"]["settings"].items()  # to leave the clients out, or a rule that ignores them
    shown = run_in_prefect(prefect_server, first)
    assert (shown["state_type"], shown["state_name"], shown["tags"]) == ("COMPLETED", "LossRose", ["LossRose"])
    assert shown["state"]["message"].startswith("The loss of ")
    assert f"Report .runs/{first.name}/reports/diagnosis.html, MLflow run " in shown["state"]["message"]
    event = event_of(prefect_server, first)
    assert event["event"] == "undrift.loss.rose"
    told = {name: event["payload"][name] for name in ("cause", "clients", "round")}
    assert told == {"cause": "faulty_clients", "clients": ["03", "07"], "round": 13}
    applied = run(folder, "flows.diagnose", mlflow_run(folder, first), "--apply")
    assert applied.status == 0, applied.said
    (second,) = [each for each in (folder / ".runs").glob("[!.]*") if each != first]
    params = mlflow_of(folder).get_run(mlflow_run(folder, second)).data.params
    assert yaml.safe_load(params[remedy[0]]) == remedy[1]
    assert params["federate.faults.from_round"] == "13"  # all other settings are unchanged
    before, after = (files.read_json(each / "reports/metrics.json") for each in (first, second))
    assert after["loss"] < before["loss"]
