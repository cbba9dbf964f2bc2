"""The seconds that DVC, Prefect and MLflow add to the steps of a whole run.

    .venv/bin/python tests/benchmarks/overhead.py

There are four ways to the same models. Each has its own process (or several), started as a user starts it:

- bare: `python -m tasks STEP`, one step after the other;
- dvc: `dvc repro -f`, which also runs `track`: the finished run goes to MLflow;
- flow: `python -m flows.pipeline --force` with a Prefect server that runs already; the run is logged live to MLflow;
- alone: the same without a server, so the run starts one.

The starts of Python and TensorFlow count: bare has one a step, dvc one a stage, a flow one. MLflow writes to SQLite. A
short flow run comes first and is not timed, because it creates the databases of MLflow and Prefect. The ways take
turns, forwards and then backwards. The table goes to stdout, everything else to stderr. The status is 1 if a run failed
or if the ways ended with different rounds.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.files import read_rows
from tasks.settings import STEPS

ROOT = Path(__file__).parents[2]
WAYS = ("bare", "dvc", "flow", "alone")
QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass
class Measured:
    """The measurements of one way, one entry a turn."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    """The median seconds of its rounds."""


def environment(folder: Path, url: str = "") -> dict[str, str]:
    """Returns a user's environment: this Python first, a Prefect home in `folder`, and the server `url` or none."""
    ours = ("PREFECT_", "MLFLOW_", "DVC_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = folder / ("home-server" if url else "home")
    return {**kept, **QUIET, "PATH": path, "PREFECT_HOME": str(home), **({"PREFECT_API_URL": url} if url else {})}


def repository(folder: Path, rounds: int, model: str, epochs: int) -> Path:
    """Makes `folder` a git and DVC repository with this repository's code, and returns it."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tasks", "flows"):
        shutil.copytree(ROOT / name, folder / name)  # with the bytecode, or the first turn would compile it
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["federate"] |= {"rounds": rounds, "model": model}
    params["federate"]["local_work"]["epochs"] = epochs
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org", "-C", str(folder)]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    return folder


@contextmanager
def server(folder: Path, port: int) -> Iterator[tuple[str, psutil.Process]]:
    """Runs a Prefect server in the block; yields the API's address and the server's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        started = subprocess.Popen(
            command, env=environment(folder, url), stdout=log, stderr=log, start_new_session=True
        )
    try:
        direct, until = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 180
        while True:
            try:
                direct.open(f"{url}/health", timeout=5).close()
                break
            except OSError:
                if started.poll() is not None or time.monotonic() > until:
                    sys.exit((folder / "server.log").read_text())
                time.sleep(0.3)
        yield url, psutil.Process(started.pid)
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(60)


def run(command: Sequence[str], folder: Path, env: dict[str, str]) -> float:
    """Runs a command to its end, with its output on stderr; returns its processor seconds, with its children's."""
    started = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {started.returncode}")
    return used.ru_utime + used.ru_stime


def commands(way: str) -> list[list[str]]:
    """Returns the commands that a user types for `way`."""
    if way == "bare":
        return [["python", "-m", "tasks", step] for step in STEPS]
    if way == "dvc":
        return [["dvc", "repro", "-f"]]
    return [["python", "-m", "flows.pipeline", "--force"]]


def turn(way: str, folder: Path, url: str, serving: psutil.Process, into: Measured) -> Path:
    """Runs `way` once; returns the folder of its results."""
    before = set((folder / ".runs").glob("*"))
    env = environment(folder.parent, url if way == "flow" else "")
    begun, served = time.monotonic(), sum(serving.cpu_times()[:2])
    processor = sum(run(command, folder, env) for command in commands(way))
    into.wall.append(time.monotonic() - begun)
    into.processor.append(processor + (sum(serving.cpu_times()[:2]) - served if way == "flow" else 0))
    made = {each for each in set((folder / ".runs").glob("*")) - before if (each / "dvc.lock").is_file()}
    results = made.pop() if made else folder
    seconds = [
        float(row["seconds"])
        for row in read_rows(results / "reports/timings.csv")
        if row["step"] == "federate" and row["round"] not in ("", "1")  # the first round compiles
    ]
    into.rounds.append(statistics.median(seconds))
    print(
        f"{way}: {into.wall[-1]:.1f} s, processor {into.processor[-1]:.1f} s, a round {1000 * into.rounds[-1]:.1f} ms",
        file=sys.stderr,
        flush=True,
    )
    return results


def table(found: dict[str, Measured]) -> str:
    """Returns the table: medians over the turns, and the median of the ratios to the bare steps of the same turn."""
    lines = [
        "| way | seconds | / bare | processor seconds | / bare | a round, ms | more than bare, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    bare = found["bare"]
    for way, each in found.items():
        turns = range(min(len(each.wall), len(bare.wall)))
        wall = statistics.median(each.wall[i] / bare.wall[i] for i in turns)
        processor = statistics.median(each.processor[i] / bare.processor[i] for i in turns)
        more = statistics.median(each.rounds[i] - bare.rounds[i] for i in turns)
        cells = [
            f"{statistics.median(each.wall):.0f}",
            f"{wall:.2f}",
            f"{statistics.median(each.processor):.0f}",
            f"{processor:.2f}",
            f"{1000 * statistics.median(each.rounds):.1f}",
            f"{1000 * more:+.1f}",
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ways", default=",".join(WAYS), help="which, with bare first (default: all)")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=400, help="federate.rounds")
    parser.add_argument("--model", default="cnn", help="federate.model")
    parser.add_argument("--epochs", type=int, default=1, help="federate.local_work.epochs")
    parser.add_argument("--port", type=int, default=0, help="of the Prefect server (default: a free one)")
    given = parser.parse_args()
    ways = given.ways.split(",")
    if ways[0] != "bare" or not set(ways) <= set(WAYS):
        parser.error(f"--ways must be bare and then some of {', '.join(WAYS[1:])}, got {given.ways}")
    found = {way: Measured() for way in ways}
    ended: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        copy = repository(folder / "copy", given.rounds, given.model, given.epochs)
        with server(folder, given.port) as (url, serving):
            first = ["python", "-m", "flows.pipeline", "-S", "federate.rounds=3"]
            for address in [url, *([""] if "alone" in ways else [])]:
                run([*first, *(["--force"] if not address else [])], copy, environment(folder, address))
            for number in range(given.turns):
                for way in ways if number % 2 == 0 else reversed(ways):
                    results = turn(way, copy, url, serving, found[way])
                    ended[way] = (results / "reports/rounds.csv").read_text()
                    # The outputs of this turn must neither help nor disturb the next one.
                    for name in ("data", "models", "reports"):
                        shutil.rmtree(copy / name, ignore_errors=True)
    print(table(found))
    same = len(set(ended.values())) == 1
    if not same:
        print("error: the ways ended with different rounds", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
