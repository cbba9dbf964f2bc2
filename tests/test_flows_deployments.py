"""`python -m flows.deployments`, and how a run ends that is cancelled, killed or retried in Prefect's UI.

These tests send the same requests as the UI's buttons; tests/test_flows_deployments_ui.py presses the buttons.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from flows.serving import registration
from tests.servers import ask

ROUNDS, PRUNE_ROUNDS = 800, 2
"""These rounds take at least 20 s: enough time to cancel the run, and to kill it after a retry."""


def command(folder: Path, shell: dict[str, str], *arguments: str, **environment: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.deployments", *arguments],
        cwd=folder,
        env={**shell, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.fixture(scope="module")
def repository(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("repository"))


def test_without_a_server_it_says_how_to_start_one(repository: Path, shell: dict[str, str]) -> None:
    status, (line,) = command(repository, shell)
    assert (status, "prefect server start" in line) == (2, True), line


def test_an_address_that_is_no_api_is_refused(repository: Path, shell: dict[str, str], prefect_server: str) -> None:
    status, (line,) = command(repository, shell, PREFECT_API_URL=prefect_server.removesuffix("/api"))
    assert (status, "which must end in /api" in line) == (2, True), line


@pytest.mark.parametrize("limit", ["0", "-1", "two"])
def test_the_limit_is_a_positive_number(limit: str, repository: Path, shell: dict[str, str]) -> None:
    status, (line,) = command(repository, shell, f"--limit={limit}")
    assert (status, "must be a whole number >= 1" in line) == (2, True), line


@pytest.mark.slow
def test_registered_again_a_deployment_has_the_new_code_and_keeps_what_was_set_in_the_ui(
    copy_repository: Callable[..., Path], shell: dict[str, str], prefect_server: str, tmp_path: Path
) -> None:
    folder = copy_repository(tmp_path / "repository")
    arguments = (folder, shell, "--pool", "registered", "--register-only")
    status, said = command(*arguments, PREFECT_API_URL=prefect_server)
    assert status == 0, said
    assert [line.split(": ")[0] for line in said] == [
        "work pool registered",
        *(f"deployment {name}/{name}" for name in ("pipeline", "compare", "diagnose")),
    ]
    cores = len(os.sched_getaffinity(0))
    assert 1 <= ask(prefect_server, "GET", "work_pools/registered")["concurrency_limit"] <= cores
    ask(prefect_server, "PATCH", "work_pools/registered", concurrency_limit=7)
    made = ask(prefect_server, "GET", "deployments/name/pipeline/pipeline")
    assert made["parameters"] == {"settings": yaml.safe_load((folder / "params.yaml").read_text())}
    assert made["job_variables"]["env"]["PREFECT_LOGGING_EXTRA_LOGGERS"] == "tasks,flows"

    # The UI sends the same: one form has the schedule, the page "Edit" has the rest.
    daily = {"schedule": {"cron": "0 3 * * *", "timezone": "UTC"}, "active": True, "parameters": {"push": True}}
    answer = httpx.post(f"{prefect_server}/deployments/{made['id']}/schedules", json=[daily], trust_env=False)
    assert answer.status_code == 201, answer.text
    settings = made["parameters"]["settings"]
    edited = settings | {"evaluate": settings["evaluate"] | {"batch_size": 64}}
    env = made["job_variables"]["env"] | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "no"}
    by_hand = {
        "description": "every night",
        "tags": ["nightly"],
        "paused": True,
        "concurrency_limit": 3,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW", "grace_period_seconds": 120},
    }
    wanted = {"parameters": {"settings": edited, "force": True}, "job_variables": {"env": env, "stream_output": False}}
    ask(prefect_server, "PATCH", f"deployments/{made['id']}", **by_hand, **wanted)

    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 5"))
    status, said = command(*arguments, PREFECT_API_URL=prefect_server)
    assert status == 0, said
    assert [line for line in said if "kept" in line] == ["pipeline: kept from the UI: evaluate.batch_size=64"]
    assert ask(prefect_server, "GET", "work_pools/registered")["concurrency_limit"] == 7
    again = ask(prefect_server, "GET", "deployments/name/pipeline/pipeline")
    assert again["id"] == made["id"]
    assert {key: again[key] for key in by_hand if key in again} | {"concurrency_limit": 3} == by_hand
    assert again["global_concurrency_limit"]["limit"] == 3
    (schedule,) = again["schedules"]
    assert (schedule["schedule"]["cron"], schedule["parameters"], schedule["active"]) == (
        "0 3 * * *",
        {"push": True},
        True,
    )
    now = yaml.safe_load(params.read_text())
    assert now["seed"] == 5
    evaluate = now["evaluate"] | {"batch_size": 64}
    assert again["parameters"] == {"settings": now | {"evaluate": evaluate}, "force": True}
    # Variables that the code needs are set again; other variables stay.
    assert again["job_variables"] == {
        "env": made["job_variables"]["env"] | {"OMP_NUM_THREADS": "1"},
        "stream_output": False,
    }


def test_of_a_setting_changed_in_the_ui_and_in_params_yaml_the_ui_s_stays() -> None:
    before = {"seed": 0, "federate": {"rounds": 30, "guard": "continue"}}
    deployed = {"seed": 1, "federate": {"rounds": 50, "guard": "continue"}}
    now = {"seed": 1, "federate": {"rounds": 40, "guard": "stop"}}
    assert registration.kept(before, deployed, now) == {"federate.rounds": 50}
    assert registration.kept(before, before, now) == {}


class Run:
    """A run of the deployment `pipeline`, with many rounds."""

    def __init__(self, deployed: Any, force: bool = False, **settings: Any) -> None:
        self.deployed, self.api = deployed, deployed.api
        made = ask(self.api, "GET", "deployments/name/pipeline/pipeline")
        wanted = made["parameters"]["settings"]
        # The diagnosis of so many losses and rounds takes minutes.
        wanted["federate"] |= {"rounds": ROUNDS, "evaluate_every": 20}
        wanted["diagnose"] |= {"budget": 0.1}
        wanted |= settings
        body = {"parameters": {"settings": wanted, "force": force}, "state": {"type": "SCHEDULED"}}
        self.id = str(ask(self.api, "POST", f"deployments/{made['id']}/create_flow_run", **body)["id"])
        self.workspace = deployed.repository / ".runs" / self.id

    def set_state(self, **state: str) -> None:
        """Sends the request of a button in the UI."""
        answer = ask(self.api, "POST", f"flow_runs/{self.id}/set_state", state=state, force=False)
        assert answer["status"] == "ACCEPT", answer

    def retry(self) -> None:
        self.set_state(type="SCHEDULED", name="AwaitingRetry", message="Retry from the Prefect UI")

    def wait_for(self, state: str, seconds: float = 120) -> dict[str, Any]:
        """Waits until the run has the state. Returns the run."""
        until = time.monotonic() + seconds
        while (run := ask(self.api, "GET", f"flow_runs/{self.id}"))["state_name"] != state:
            assert run["state_type"] not in {"FAILED", "CRASHED"} - {state.upper()}, run["state"]["message"]
            self.deployed.check()
            assert time.monotonic() < until, (run["state_name"], self.deployed.said.read_text()[-3000:])
            time.sleep(0.1)
        return dict(run)

    def wait_for_rounds(self, number: int) -> int:
        """Waits until `number` more rounds have run, counted from the call. Returns the last round."""
        before, until = self.last_round(), time.monotonic() + 180
        while (last := self.last_round()) < before + number:
            self.deployed.check()
            assert time.monotonic() < until, self.deployed.said.read_text()[-3000:]
            time.sleep(0.05)
        return last

    def last_round(self) -> int:
        log = self.workspace / "models/checkpoints/federate/log.jsonl"
        return len(log.read_text().splitlines()) if log.is_file() else 0

    def processes(self) -> list[psutil.Process]:
        """Returns the processes of the run; the flow run's own process is the first."""
        found = psutil.Process(self.deployed.worker.pid).children(recursive=True)
        assert "worker_binary" not in [each.name() for each in found]
        return [psutil.Process(each.pid) for each in found]

    def mlflow(self) -> tuple[str, str]:
        """Returns id and status of the run's MLflow run."""
        run_id = (self.workspace / ".mlflow-run").read_text().split()[0]
        return run_id, str(self.store().get_run(run_id).info.status)

    def store(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.deployed.repository / 'mlflow.db'}")

    def resumed_after(self) -> list[int]:
        """Returns the rounds after which the run's attempts continued, read from its logs on the server."""
        asked = {"logs": {"flow_run_id": {"any_": [self.id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        found: list[int] = []
        offset = 0
        while lines := ask(self.api, "POST", "logs/filter", **asked, offset=offset):
            offset += len(lines)
            for line in lines:
                found += map(int, re.findall(r"goes on after round (\d+)", line["message"]))
        return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], object], seconds: float) -> float:
    """Waits until `condition` is true. Returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.slow
def test_a_cancelled_and_then_a_killed_run_go_on_and_end_as_if_nothing_had_been(deployed: Any) -> None:
    run = Run(deployed)
    run.wait_for_rounds(20)
    processes = run.processes()
    run.set_state(type="CANCELLING", name="Cancelling", message="Cancelled by the user")
    took = wait_until(lambda: not any(map(is_alive, processes)), 15)
    print(f"cancelled, nothing alive after {took:.1f} s")
    run.wait_for("Cancelled")
    assert not psutil.Process(deployed.worker.pid).children(recursive=True)
    run_id, status = run.mlflow()
    assert status == "KILLED"
    *_, newest = sorted((run.workspace / "models/checkpoints/federate").glob("round_*.npz"))
    with np.load(newest) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)

    run.retry()
    run.wait_for("Running")
    run.wait_for_rounds(20)
    assert run.mlflow() == (run_id, "RUNNING")
    wait_until(run.resumed_after, 30)  # Prefect sends logs every 2 s; a killed process loses unsent ones
    processes = run.processes()
    killed = time.monotonic()
    processes[0].kill()
    crashed = run.wait_for("Crashed", 15)
    print(f"killed, Crashed after {time.monotonic() - killed:.1f} s")
    assert "SIGKILL" in crashed["state"]["message"]
    wait_until(lambda: not any(map(is_alive, processes)), 5)
    wait_until(lambda: run.mlflow() == (run_id, "FAILED"), 120)  # a hook ends it, in a process that has to start first

    run.retry()
    run.wait_for("Completed", 300)
    assert run.mlflow() == (run_id, "FINISHED")
    points = run.store().get_metric_history(run_id, "num_clients")  # rounds that were lost by the kill are logged last
    assert sorted(point.step for point in points) == list(range(1, ROUNDS + PRUNE_ROUNDS + 1))
    first, second = run.resumed_after()
    assert 5 <= first < second < ROUNDS

    undisturbed = Run(deployed, force=True)
    undisturbed.wait_for("Completed", 300)
    assert undisturbed.resumed_after() == []
    for path in ("reports/rounds.csv", "reports/clients.csv", "reports/metrics.json", "models/global.h5"):
        assert (run.workspace / path).read_bytes() == (undisturbed.workspace / path).read_bytes(), path


@pytest.mark.slow
def test_a_cancellation_is_one_whenever_it_comes(deployed: Any) -> None:
    """A cancellation in the middle of a round must not count as a failed round, and the MLflow run not as FAILED."""
    run, rng = Run(deployed, seed=2), random.Random(0)
    for attempt in range(6):
        run.wait_for_rounds(2)
        time.sleep(rng.uniform(0, 0.2))
        run.set_state(type="CANCELLING", name="Cancelling", message="Cancelled by the user")
        run.wait_for("Cancelled", 30)
        wait_until(lambda: run.mlflow()[1] == "KILLED", 10)
        if attempt < 5:
            run.retry()
            run.wait_for("Running")


@pytest.mark.slow
def test_a_stopped_worker_ends_its_runs_and_leaves_nothing(deployed: Any) -> None:
    run = Run(deployed, seed=1)
    run.wait_for_rounds(10)
    processes = run.processes()
    deployed.worker.send_signal(signal.SIGTERM)
    assert deployed.worker.wait(30) == 0
    assert not any(map(is_alive, processes))
    assert ask(deployed.api, "GET", f"flow_runs/{run.id}")["state_name"] == "Crashed"
    assert run.mlflow()[1] == "KILLED"
    assert "Traceback" not in deployed.said.read_text()


def ended(api: str, deployment: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Runs a deployment to its end. Returns the final state, and all messages of its logs on the server."""
    made = ask(api, "GET", f"deployments/name/{deployment}/{deployment}")
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": False}
    run_id = ask(api, "POST", f"deployments/{made['id']}/create_flow_run", **body)["id"]
    until = time.monotonic() + 180
    while (state := ask(api, "GET", f"flow_runs/{run_id}")["state"])["type"] not in ("FAILED", "COMPLETED", "CRASHED"):
        assert time.monotonic() < until, state
        time.sleep(0.2)
    time.sleep(5)  # until the process has ended and sent its logs, which it does every 2 s
    found = ask(api, "POST", "logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, limit=200)
    return state, "\n".join(line["message"] for line in found)


@pytest.mark.slow
def test_a_wrong_setting_in_a_form_is_the_run_s_message_and_no_traceback(
    copy_repository: Callable[..., Path], deploy: Callable[..., Any], tmp_path: Path
) -> None:
    with deploy(copy_repository(tmp_path / "repository")) as deployed:
        settings = yaml.safe_load((deployed.repository / "params.yaml").read_text())
        wrong = settings | {"prune": settings["prune"] | {"end_round": 20}}
        why = "prune.end_round must be <= prune.rounds (2), got 20"
        nowhere = "RUN must be an MLflow run id or a folder that holds reports/rounds.csv, got 'nowhere'"
        for deployment, parameters, says in (
            ("pipeline", {"settings": wrong}, why),
            ("pipeline", {"settings": settings | {"seed": "x"}}, "seed must be a number, got 'x'"),
            ("compare", {"settings": wrong, "grid": ["seed=0,1"]}, why),
            ("compare", {"settings": settings, "grid": ["sead=0,1"]}, "sead is not a setting: did you mean seed?"),
            ("diagnose", {"run": "nowhere"}, nowhere),
        ):
            state, logged = ended(deployed.api, deployment, parameters)
            assert (state["type"], says in state["message"]) == ("FAILED", True), state
            assert "\n" not in state["message"]
            assert not [word for word in ("Traceback", "unexpected exception", "Error(") if word in logged], logged
        said = deployed.said.read_text()
        assert "Traceback" not in said, said
