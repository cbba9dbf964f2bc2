"""A command without a Prefect server starts exactly one. It serves this machine only, and ends with the command."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
START = """
import sys
from flows.serving.temporary_server import TemporaryServer
server = TemporaryServer()
print("started", flush=True)
sys.stdin.read()
"""


def servers(shell: dict[str, str]) -> set[int]:
    """Returns the processes of temporary servers of this Prefect home: ours, and servers that Prefect itself starts."""
    found = set()
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        if (process.info["environ"] or {}).get("PREFECT_HOME") == shell["PREFECT_HOME"] and (
            "-m flows.serving.temporary_server" in line or "prefect.server.api.server:create_app" in line
        ):
            found.add(process.pid)
    return found


def all_gone(pids: set[int], seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(psutil.pid_exists, pids))


def start(shell: dict[str, str]) -> "tuple[subprocess.Popen[str], set[int]]":
    """Returns a process that has started a temporary server, and the server's process."""
    before = servers(shell)
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        cwd=ROOT,
        env=shell,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    mine = servers(shell) - before
    assert len(mine) == 1
    return process, mine


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_ends_with_a_process_that_is_killed(signum: signal.Signals, shell: dict[str, str]) -> None:
    process, mine = start(shell)
    process.send_signal(signum)
    process.wait()
    assert all_gone(mine)


@pytest.mark.slow
def test_it_has_ended_when_its_process_ends(shell: dict[str, str]) -> None:
    process, mine = start(shell)
    assert process.stdin
    process.stdin.close()
    assert process.wait(30) == 0
    assert all_gone(mine, 0)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_one_line(
    copy_repository: Callable[..., Path], shell: dict[str, str], tmp_path: Path
) -> None:
    repository = copy_repository(tmp_path / "repository")
    nowhere = "sqlite+aiosqlite:////nowhere/at/all.db"
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=repository,
        env={**shell, "PREFECT_SERVER_DATABASE_CONNECTION_URL": nowhere},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        timeout=200,
    )
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last.startswith("error: the temporary Prefect server ended while it started: ")) == (
        1,
        True,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_comparison_starts_one_server_and_goes_on_after_a_kill_with_another(
    copy_repository: Callable[..., Path], shell: dict[str, str], tmp_path: Path
) -> None:
    changed = {"federate.rounds": 300, "federate.model": "logistic", "diagnose.budget": 0.5}
    repository = copy_repository(tmp_path / "repository", changed)

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "flows.compare", "--grid", "seed=0,1", "--jobs", "2"],
            cwd=repository,
            env=shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def rounds() -> list[int]:
        found = repository.glob(".runs/*/cell-*/models/checkpoints/federate/log.jsonl")
        return [len(log.read_text().splitlines()) for log in found]

    before, killed, until = servers(shell), begin(), time.monotonic() + 180
    while len(rounds()) < 2 or min(rounds()) < 10:
        assert killed.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    mine = servers(shell) - before
    assert len(mine) == 1
    listening = [each.laddr.ip for pid in mine for each in psutil.Process(pid).net_connections("inet")]
    assert {*listening} == {"127.0.0.1"}
    everyone = {each.pid for each in psutil.Process(killed.pid).children(recursive=True)}
    killed.kill()
    killed.wait()
    assert all_gone(everyone)

    again = begin()
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert said.count("Starting temporary server on http://127.0.0.1:") == 1
    assert said.count("continues flow run") == 1
    assert "View at" not in said
    assert servers(shell) == before
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    found = client.search_runs(["1"])
    assert [run.info.status for run in found] == ["FINISHED"] * 3
    assert not [run for run in found if "prefect.url" in run.data.tags]
    for run in found:
        points = [point.step for point in client.get_metric_history(run.info.run_id, "num_clients")]
        assert sorted(points) == (list(range(1, 300 + 2 + 1)) if "mlflow.parentRunId" in run.data.tags else [])
