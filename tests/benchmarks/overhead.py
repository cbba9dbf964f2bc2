"""What Prefect, DVC and MLflow add to the bare steps: seconds of a whole run, and of one round.

    .venv/bin/python tests/benchmarks/overhead.py

Each variant runs the six steps with the same settings and a seed that was never run before, in a repository of its own:

- *bare*: the six step functions, one after the other in one process, without Prefect, DVC and MLflow.
- *processes*: `python -m tasks STEP` six times, what DVC calls, but without DVC.
- *dvc*: `dvc repro` of the whole pipeline, which also logs the run to MLflow.
- *flow*: `python -m flows.pipeline` against a running Prefect server, with MLflow in a SQLite file.

The variants take turns, in rotating order, and must end with the same bytes of rounds.csv. A whole run is timed from the
start of the command to its end. The second table is of many short rounds (the default model on the default data): the
seconds between the lines of rounds 2 and last, as they arrive here. The Prefect server's start, and the first run of
each variant, which makes MLflow's database and finds the number of rounds, are not counted. Tables go to stdout, all
else to stderr; status 1 if the variants did not do the same work.
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from flows import overrides  # noqa: E402
from tasks.files import read_rows  # noqa: E402
from tasks.settings import STEPS  # noqa: E402

BARE = "from pathlib import Path; from tasks import command; from tasks.__main__ import run_step; command.prepare(); "
BARE += f"[run_step(step, Path()) for step in {STEPS}]"
PROCESSES = " && ".join(f"{sys.executable} -m tasks {step}" for step in STEPS)
COMMANDS = {
    "bare": [sys.executable, "-c", BARE],
    "processes": ["sh", "-c", PROCESSES],
    "dvc": ["dvc", "repro"],
    "flow": [sys.executable, "-m", "flows.pipeline"],
}
LONG = ["federate.model=cnn", "preprocess.resize=28", "partition.num_clients=20"]
SHORT = ["prune.rounds=2", "prune.begin_round=1", "prune.end_round=2"]
RUN_GOAL, ROUND_GOAL = 0.10, 0.020
TRIAL_ROUNDS = 8
_ROUND = re.compile(r"federate (\d+)/\d+ ")


@dataclass(frozen=True)
class Done:
    """One run: seconds of the command, of what its steps recorded, and of one round; and what it computed."""

    seconds: float
    steps: float
    round: float
    rounds_csv: str


def copy_repository(folder: Path) -> None:
    """Makes a git and DVC repository of this one's code."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tasks", "flows"):
        shutil.copytree(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org", "-C", str(folder)]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "copy"], check=True)


@contextmanager
def prefect_server(environment: dict[str, str], log: Path) -> Iterator[str]:
    """Yields the address of a Prefect server that answers, and ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as said:
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        address, until = f"http://127.0.0.1:{port}/api", time.monotonic() + 180
        while not _answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"the Prefect server did not start: {log.read_text()[-1000:]}")
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


class Bench:
    """The variants' repositories, and how to run one."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._environment = environment
        self._folders = {variant: folder / variant for variant in COMMANDS}
        for each in self._folders.values():
            copy_repository(each)

    def run(self, variant: str, settings: Sequence[str]) -> Done:
        """Runs the variant's command with the settings, `name=value`, in its params.yaml."""
        folder = self._folders[variant]
        (folder / "params.yaml").write_text(overrides.overridden(ROOT / "params.yaml", settings))
        began, stamps, said = time.perf_counter(), {}, []
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        with subprocess.Popen(
            COMMANDS[variant], cwd=folder, env=self._environment, stdout=pipe, stderr=both, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if found := _ROUND.search(line):
                    stamps[int(found[1])] = time.perf_counter()
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(f"{variant}: exit status {process.returncode}\n{''.join(said[-20:])}")
        reports = self._workspace(variant) / "reports"
        steps = sum(float(row["seconds"]) for row in read_rows(reports / "timings.csv") if not row["round"])
        digest = hashlib.md5((reports / "rounds.csv").read_bytes()).hexdigest()
        done = Done(seconds, steps, (stamps[max(stamps)] - stamps[2]) / (max(stamps) - 2), digest)
        _say(f"  {variant}: {seconds:.1f} s, its steps {steps:.1f} s, a round {1000 * done.round:.1f} ms")
        return done

    def _workspace(self, variant: str) -> Path:
        if variant != "flow":
            return self._folders[variant]
        return max((self._folders[variant] / ".runs").iterdir(), key=lambda path: path.stat().st_mtime)

    def interleave(self, variants: Sequence[str], settings: Sequence[str], repeats: int) -> dict[str, list[Done]]:
        """Runs each variant `repeats` times in turn, the seed being the number of the turn."""
        runs: dict[str, list[Done]] = {variant: [] for variant in variants}
        for turn in range(repeats):
            _say(f"turn {turn + 1} of {repeats}, load {os.getloadavg()[0]:.1f}")
            for number in range(len(variants)):
                variant = variants[(number + turn) % len(variants)]
                runs[variant].append(self.run(variant, [*settings, f"seed={turn + 1}"]))
            if len({runs[variant][-1].rounds_csv for variant in variants}) > 1:
                sys.exit("the variants did not do the same work: their rounds.csv differ")
        return runs


def rounds_for(bench: Bench, seconds: float) -> int:
    """Returns how many rounds make the bare run take `seconds`, after a trial of every variant."""
    _say(f"trial, {TRIAL_ROUNDS} rounds")
    trials = {variant: bench.run(variant, [*LONG, f"federate.rounds={TRIAL_ROUNDS}"]) for variant in COMMANDS}
    bare = trials["bare"]
    return max(TRIAL_ROUNDS, TRIAL_ROUNDS + round((seconds - bare.seconds) / bare.round))


def print_runs(runs: dict[str, list[Done]], rounds: int) -> None:
    """Prints the table of whole runs: medians, and the ratio of each turn to the bare run of that turn."""
    print(f"\n{' '.join(LONG)} federate.rounds={rounds}, {len(runs['bare'])} turns, medians\n")
    print("| | run, s | its steps, s | run / bare |\n|---|---|---|---|")
    for variant, done in runs.items():
        pairs = zip(done, runs["bare"], strict=True)
        ratio = median(each.seconds / bare.seconds for each, bare in pairs)
        goal = f" (goal ≤ {1 + RUN_GOAL:.2f})" if variant == "flow" else ""
        seconds, steps = median(each.seconds for each in done), median(each.steps for each in done)
        print(f"| {variant} | {seconds:.1f} | {steps:.1f} | {ratio:.3f}{goal} |")


def print_rounds(runs: dict[str, list[Done]], rounds: int) -> None:
    """Prints the table of short rounds: medians, and what each variant adds to the bare round of that turn."""
    print(f"\n{rounds} short rounds, {len(runs['bare'])} turns, medians\n")
    print("| | a round, ms | added, ms |\n|---|---|---|")
    for variant, done in runs.items():
        added = median(each.round - bare.round for each, bare in zip(done, runs["bare"], strict=True))
        goal = f" (goal ≤ {1000 * ROUND_GOAL:.0f})" if variant == "flow" else ""
        print(
            f"| {variant} | {1000 * median(each.round for each in done):.1f} | {1000 * added:.1f}{goal} |", flush=True
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the bare run, about (default 120)")
    parser.add_argument("--turns", type=int, default=3, help="runs of each variant (default 3)")
    parser.add_argument("--rounds", type=int, default=400, help="short rounds (default 400)")
    parser.add_argument("--variants", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="for the first table")
    options = parser.parse_args()
    if options.turns < 1 or options.rounds < 3 or "bare" not in options.variants:
        parser.error("--turns must be >= 1, --rounds >= 3, and bare one of --variants")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept |= {"PATH": path, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        with prefect_server(kept, folder / "prefect.log") as address:
            bench = Bench(folder, {**kept, "PREFECT_API_URL": address})
            rounds = rounds_for(bench, options.seconds)
            runs = bench.interleave(options.variants, [*LONG, f"federate.rounds={rounds}"], options.turns)
            print_runs(runs, rounds)
            short = [*SHORT, f"federate.rounds={options.rounds}"]
            print_rounds(bench.interleave(["bare", "flow"], short, options.turns), options.rounds)
        _say(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
