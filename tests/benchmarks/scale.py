"""Seconds, memory and files with many clients and with many images, and the goals for them.

    .venv/bin/python tests/benchmarks/scale.py --against CHECKOUT

Every case is a process of its own (scale_child.py), which calls a step as `python -m tasks STEP` does. Memory is its
largest resident set, and the seconds of a step are the process's, with the start of Python and the imports. The parts:

- rounds: `federate` with 10 to 10,000 clients of 20 images 28x28, one epoch of SGD in batches of 20, the aggregator
  `mean`, three models. The seconds of a round run from the end of the round before, without the first round, which
  compiles, and the last, which validates and saves. The cases take turns, so that other work on the machine meets all
  of them; a cell is the median over the turns, and a ratio the median of each turn's ratio.
- steps: every step for 10,000 clients, and all but `prune` and `diagnose` for 20,000 JPEG files of 224x224 pixels that
  are resized to 64x64. Every tenth of these files is another image, and nine links to the same bytes follow it.
- dask: rounds of 100 and 1,000 clients with two Dask workers and in one process with two threads, and of 100 clients
  with one worker and in one process with one thread, in turns. Only with --only dask. Scheduler and workers run on this
  machine, over TLS.
- against: rounds of 10 and 100 clients here and in another checkout, in turns. The other checkout makes its own
  data/clients from the same raw data. Only with --against; both use this Python.

A case that would take longer than --most-seconds is left out, by the seconds of the case with a tenth of its clients;
a case that does take longer is stopped. The tables go to stdout, everything else to stderr. All files are in a folder
that is removed at the end.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.dask_cluster import cluster

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("scale_child.py")

MODELS = {"logistic": 7_850, "scale_child:perceptron_55k": 55_660, "scale_child:perceptron_1m": 1_200_460}
"""Parameters by `federate.model`, for 28x28 pixels and 10 classes."""
COMPARED = ("logistic", "cnn")
"""The models of the parts *against* and *dask*, with 7,850 and 44,426 parameters."""
EXAMPLES, PIXELS, HELD_OUT = 20, 28 * 28, 1000
START = 15.0
"""Seconds of a process before its first round, for the guess of how long a case takes."""
NEVER = 10**6
"""More rounds than any run has, for settings that name every n-th round."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: by number of clients, the rounds of a process of the part *rounds*.
        clients: number of clients of the part *steps*.
        images: number of JPEG files; each ten are one image.
        side: of an image, in pixels.
        resized: side after `preprocess.resize`.
        turns: of the part *rounds*.
        against: by number of clients, the rounds of a process of the part *against*.
        against_turns: of the part *against*.
        dask: by number of clients, the rounds of a process of the part *dask*.
    """

    rounds: Mapping[int, int]
    clients: int
    images: int
    side: int
    resized: int
    turns: int
    against: Mapping[int, int]
    against_turns: int
    dask: Mapping[int, int]


WHOLE = Sizes(
    {10: 60, 100: 30, 1000: 8, 10_000: 4}, 10_000, 20_000, 224, 64, 3, {10: 400, 100: 80}, 5, {100: 30, 1000: 10}
)
QUICK = Sizes({10: 6, 100: 4}, 100, 200, 64, 32, 1, {10: 6}, 1, {20: 6})


@dataclass(frozen=True)
class Run:
    """The measurements of one process: its seconds, its largest memory in bytes, and the seconds of its timed rounds.

    `failure` says why there are none.
    """

    seconds: float = 0.0
    memory: int = 0
    rounds: tuple[float, ...] = ()
    failure: str = ""

    @property
    def round(self) -> float:
        """The median seconds of a round."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals; no value if its part was not run."""

    figure: str
    most: float
    value: float | None = None
    unit: str = ""

    def row(self) -> str:
        """Returns the row as Markdown."""
        if self.value is None:
            return f"| {self.figure} | not measured | ≤ {self.most:g}{self.unit} | |"
        met = "yes" if self.value <= self.most else "**no**"
        return f"| {self.figure} | {self.value:.3g}{self.unit} | ≤ {self.most:g}{self.unit} | {met} |"


def child(kind: str, *arguments: object) -> None:
    """Runs scale_child.py to make data."""
    subprocess.run([sys.executable, str(CHILD), kind, *map(str, arguments)], check=True, stdout=sys.stderr)


def run(step: str, folder: Path, most: float, checkout: Path = ROOT) -> Run:
    """Runs `step` of `checkout` in the workspace `folder` for at most `most` seconds."""
    report = folder.with_name(f"{folder.name}.json")
    report.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.perf_counter()
    with report.with_suffix(".log").open("w+") as log:
        try:
            command = [sys.executable, str(CHILD), "step", step, str(report)]
            subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=log, timeout=most, check=True)
        except subprocess.TimeoutExpired:
            return failed(step, f"stopped after {most:.0f} s")
        except subprocess.CalledProcessError as exc:
            log.seek(0)
            lines = log.read().strip().splitlines() or [""]
            return failed(step, f"status {exc.returncode}: {lines[-1]}")
    seconds, found = time.perf_counter() - began, json.loads(report.read_text())
    ends = list(found["ends"].values())
    rounds = tuple(end - before for before, end in itertools.pairwise(ends[:-1]))
    timed = f", {len(ends)} rounds of {statistics.median(rounds):.3g} s" if rounds else ""
    say(f"    {step}: {seconds:.1f} s, {found['memory'] / 1e6:.0f} MB{timed}")
    return Run(seconds, found["memory"], rounds)


def failed(step: str, reason: str) -> Run:
    """Returns the `Run` of a step without measurements."""
    say(f"    {step}: {reason}")
    return Run(failure=reason)


def say(text: str) -> None:
    """Writes progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def workspace(folder: Path, **sections: Mapping[str, Any]) -> Path:
    """Writes params.yaml into `folder` (JSON is YAML), with the settings that differ from the defaults."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(json.dumps(sections))
    return folder


def settings_of_clients(raw: Path, num_clients: int) -> dict[str, Any]:
    """Returns the sections `data` and `partition` for clients of equal size."""
    return {
        "data": {"kind": "npz", "path": str(raw)},
        "partition": {"kind": "iid", "num_clients": num_clients, "min_examples": 1},
    }


def settings_of_rounds(model: str, rounds: int) -> dict[str, Any]:
    """Returns the section `federate` for rounds that validate and save only at the end."""
    return {"model": model, "rounds": rounds, "evaluate_every": NEVER, "checkpoint_every": NEVER}


class Clients:
    """Workspaces with data/clients, made when they are first needed."""

    def __init__(self, folder: Path, most: float) -> None:
        self._folder, self._most = folder, most
        self._made: set[Path] = set()

    def raw(self, num_clients: int) -> Path:
        """Returns the raw data of `num_clients`."""
        path = self._folder / f"{num_clients}.npz"
        if path not in self._made:
            child("clients", path, num_clients, EXAMPLES, HELD_OUT)
            self._made.add(path)
        return path

    def federate(
        self,
        num_clients: int,
        model: str,
        rounds: int,
        checkout: Path = ROOT,
        side: str = "here",
        runtime: Mapping[str, Any] | None = None,
    ) -> Run:
        """Runs `rounds` of `model` with the code of `checkout`, in its own workspace of the name `side`.

        `runtime` has the settings of federate.runtime that differ from the defaults.
        """
        sections = settings_of_clients(self.raw(num_clients), num_clients)
        folder = self._folder / f"{side}_{num_clients}"
        where = {"runtime": runtime} if runtime else {}
        workspace(folder, **sections, federate={**settings_of_rounds(model, rounds), **where})
        if folder not in self._made:
            for step in ("partition", "preprocess"):
                prepared = run(step, folder, self._most, checkout)
                if prepared.failure:
                    return prepared
            self._made.add(folder)
        return run("federate", folder, self._most, checkout)


def measure_rounds(sizes: Sizes, folder: Path, most: float) -> list[Goal]:
    """Prints the table of the part *rounds*; returns its goals."""
    clients = Clients(folder, most)
    found: dict[tuple[str, int], list[Run]] = {(model, num): [] for model in MODELS for num in sizes.rounds}
    for turn in range(sizes.turns):
        for model in MODELS:
            smaller: Run | None = None
            for num, rounds in sizes.rounds.items():
                say(f"turn {turn + 1}: {model}, {num} clients")
                smaller = guarded(clients, model, num, rounds, smaller, most)
                found[model, num].append(smaller)
    print("\n| model | parameters | clients | seconds a round | memory, MB |\n|---|---|---|---|---|")
    for (model, num), runs in found.items():
        done = [each for each in runs if not each.failure]
        cells = (
            f"{spread([each.round for each in done])} | {spread([each.memory / 1e6 for each in done], '.0f')}"
            if done
            else f"{runs[0].failure} | "
        )
        print(f"| {model.rpartition(':')[2]} | {MODELS[model]:,} | {num:,} | {cells} |", flush=True)
    return [goal for model in MODELS for goal in growth(model, found)]


def guarded(clients: Clients, model: str, num: int, rounds: int, smaller: Run | None, most: float) -> Run:
    """Runs a case, unless the case `smaller`, with a tenth of the clients, says that it takes too long."""
    if smaller is not None:
        if smaller.failure:
            return failed("federate", "left out, as the case before it")
        guess = START + 10 * smaller.round * rounds
        if guess > most:
            return failed("federate", f"left out: about {guess:.0f} s")
    return clients.federate(num, model, rounds)


def growth(model: str, found: Mapping[tuple[str, int], list[Run]]) -> Iterator[Goal]:
    """Yields the goals that compare 10,000 clients of a model with 100."""
    name = model.rpartition(":")[2]
    pairs = [
        (large, small)
        for large, small in zip(found.get((model, 10_000), []), found.get((model, 100), []), strict=False)
        if not large.failure and not small.failure
    ]
    memory = median([large.memory / small.memory for large, small in pairs])
    seconds = median([large.round / (100 * small.round) for large, small in pairs])
    yield Goal(f"memory of `federate`, 10,000 clients over 100, {name}", 1.25, memory)
    yield Goal(f"seconds a round, 10,000 clients over 100 × those of 100, {name}", 1.1, seconds)


def median(values: list[float]) -> float | None:
    """Returns the median; None of nothing."""
    return statistics.median(values) if values else None


def spread(values: list[float], form: str = ".3g") -> str:
    """Returns the median, and the least and the largest value of several."""
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} [{min(values):{form}}, {max(values):{form}}]"


def files_of(folder: Path) -> dict[Path, int]:
    """Returns the size of each file in `folder`."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}


def measure_steps(sizes: Sizes, folder: Path, most: float) -> list[Goal]:
    """Prints the tables of the part *steps*; returns its goals."""
    raw = folder / "clients.npz"
    child("clients", raw, sizes.clients, EXAMPLES, HELD_OUT)
    federate = {"model": "scale_child:perceptron_55k", "rounds": 5}
    prune = {"rounds": 2, "begin_round": 1, "end_round": 2}
    made = workspace(folder / "clients", **settings_of_clients(raw, sizes.clients), federate=federate, prune=prune)
    steps = ("partition", "preprocess", "federate", "prune", "evaluate", "diagnose")
    title = f"{sizes.clients:,} clients of {EXAMPLES} images 28×28, 5 rounds, 2 of pruning, 55,660 parameters"
    runs = steps_table(title, made, steps, most)
    stored = stored_table(made, (EXAMPLES * sizes.clients + HELD_OUT) * PIXELS)
    both = [runs[step] for step in ("partition", "preprocess")]
    seconds = None if any(each.failure for each in both) else sum(each.seconds for each in both)

    pictures = folder / "images"
    child("images", pictures, sizes.images, sizes.side, 10)
    made = workspace(
        folder / "of_images",
        data={"kind": "images", "path": str(pictures)},
        partition={"kind": "iid", "num_clients": 10},
        preprocess={"resize": [sizes.resized, sizes.resized]},
        federate={"model": "cnn", "rounds": 3},
        prune=prune,
    )
    title = f"{sizes.images:,} JPEG files of {sizes.side}×{sizes.side}, resized to {sizes.resized}×{sizes.resized}"
    # `evaluate` needs the pruned model.
    of_images = steps_table(f"{title}, 10 clients, 3 rounds of cnn", made, steps[:-1], most)
    ratios = stored_table(made, sizes.images * sizes.resized**2 * 3)
    whole = sizes.clients == WHOLE.clients
    memory = None if any(each.failure for each in of_images.values()) else max(r.memory for r in of_images.values())
    return [
        Goal("`partition` and `preprocess` of 10,000 clients, together", 30, seconds if whole else None, " s"),
        Goal("files of 10,000 clients", 300, float(sum(num for num, _ in stored)) if whole else None),
        Goal("memory of the largest step, 20,000 images", 1.5, memory / 1e9 if memory and whole else None, " GB"),
        Goal("bytes of data/partition over the pixels, 20,000 images", 1.15, ratios[0][1] if whole else None),
        Goal("bytes of data/clients over the pixels, 20,000 images", 1.15, ratios[1][1] if whole else None),
    ]


def steps_table(title: str, folder: Path, steps: tuple[str, ...], most: float) -> dict[str, Run]:
    """Runs `steps` and prints a row for each; a step after one that failed is not run."""
    say(title)
    print(f"\n{title}:\n\n| step | seconds | memory, MB | files written |\n|---|---|---|---|", flush=True)
    runs: dict[str, Run] = {}
    for step in steps:
        began = time.time()
        runs[step] = each = run(step, folder, most)
        if each.failure:
            print(f"| {step} | {each.failure} | | |", flush=True)
            # The other steps would find nothing to read.
            runs |= {later: Run(failure="not run") for later in steps if later not in runs}
            break
        written = sum(path.stat().st_mtime >= began for path in files_of(folder))
        print(f"| {step} | {each.seconds:.1f} | {each.memory / 1e6:.0f} | {written} |", flush=True)
    return runs


def stored_table(folder: Path, pixels: int) -> list[tuple[int, float]]:
    """Prints the files and bytes of data/partition and data/clients; returns them, the bytes over those of `pixels`."""
    print("\n| folder | files | MB | bytes over the pixels |\n|---|---|---|---|")
    found = []
    for name in ("partition", "clients"):
        each = files_of(folder / "data" / name)
        found.append((len(each), sum(each.values()) / pixels))
        print(f"| data/{name} | {len(each)} | {sum(each.values()) / 1e6:.1f} | {found[-1][1]:.3f} |", flush=True)
    return found


def measure_dask(sizes: Sizes, folder: Path, most: float) -> list[Goal]:
    """Prints the table of the part *dask*; returns its goals."""
    clients, few = Clients(folder, most), min(sizes.dask)
    print(
        "\n| model | clients | workers, threads | on Dask, s | in process, s | Dask / in process |\n"
        "|---|---|---|---|---|---|"
    )
    goals = []
    cases = [(model, num, 2) for model in COMPARED for num in sizes.dask] + [("scale_child:perceptron_55k", few, 1)]
    for model, num, workers in cases:
        (at := folder / f"cluster_{model.rpartition(':')[2]}_{num}").mkdir()
        with cluster(at) as started, patch.dict(os.environ, started.config):
            for _ in range(workers):
                started.work()
            pairs = []
            for turn in range(sizes.turns):
                say(f"turn {turn + 1}: {model}, {num} clients, {workers} workers")
                on_dask = {"kind": "dask", "address": started.address}
                there = clients.federate(num, model, sizes.dask[num], runtime=on_dask)
                here = clients.federate(num, model, sizes.dask[num], runtime={"threads": workers})
                if here.failure or there.failure:
                    sys.exit(f"error: in process: {here.failure or 'done'}; Dask: {there.failure or 'done'}")
                pairs.append((there.round, here.round))
        ratios = [there / here for there, here in pairs]
        cells = [spread([there for there, _ in pairs]), spread([here for _, here in pairs]), spread(ratios)]
        print(f"| {model.rpartition(':')[2]} | {num} | {workers} | {' | '.join(cells)} |", flush=True)
        if num == 1000:
            goals.append(Goal(f"two Dask workers over two threads, 1,000 clients, {model}", 1.15, median(ratios)))
        if workers == 1:
            beyond = median([there - here for there, here in pairs])
            goals.append(Goal("a Dask round beyond the work, 100 clients, 55,660 parameters", 0.2, beyond, " s"))
    return goals


def measure_against(sizes: Sizes, folder: Path, most: float, other: Path) -> list[Goal]:
    """Prints the table of the part *against*; returns its goals."""
    clients = Clients(folder, most)
    print("\n| model | clients | turns | here, s | other, s | here / other, of each turn |\n|---|---|---|---|---|---|")
    goals = []
    for model in COMPARED:
        for num, rounds in sizes.against.items():
            say(f"{model}, {num} clients, in turns with {other}")
            pairs = []
            for _ in range(sizes.against_turns):
                here = clients.federate(num, model, rounds)
                there = clients.federate(num, model, rounds, other, "other")
                if here.failure or there.failure:
                    sys.exit(f"error: here: {here.failure or 'done'}; {other}: {there.failure or 'done'}")
                pairs.append((here.round, there.round))
            ratios = [here / there for here, there in pairs]
            cells = [spread([here for here, _ in pairs]), spread([there for _, there in pairs]), spread(ratios)]
            print(f"| {model} | {num} | {len(pairs)} | {' | '.join(cells)} |", flush=True)
            goals.append(Goal(f"a round over the other checkout's, {model}, {num} clients", 1.03, median(ratios)))
    return goals


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clients, images and rounds, to test this script")
    parser.add_argument(
        "--only", nargs="+", choices=("rounds", "steps", "dask", "against"), help="parts (default: all but dask)"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout to compare the rounds with")
    parser.add_argument("--most-seconds", type=float, default=900.0, help="most seconds of a process (default 900)")
    parser.add_argument("--turns", type=int, help="turns of the parts rounds and dask, and against (default 3 and 5)")
    options = parser.parse_args()
    if options.turns is not None and options.turns < 1:
        parser.error(f"--turns must be >= 1, got {options.turns}")
    parts = options.only or ["rounds", "steps", *(["against"] if options.against else [])]
    if "against" in parts and (options.against is None or not (options.against / "tasks").is_dir()):
        parser.error("the part against needs --against FOLDER, a checkout with a folder tasks")
    sizes, goals = QUICK if options.quick else WHOLE, []
    if options.turns is not None:
        sizes = replace(sizes, turns=options.turns, against_turns=options.turns)
    with tempfile.TemporaryDirectory() as made:
        for part in parts:
            folder = Path(made) / part
            folder.mkdir()
            if part == "rounds":
                goals += measure_rounds(sizes, folder, options.most_seconds)
            elif part == "steps":
                goals += measure_steps(sizes, folder, options.most_seconds)
            elif part == "dask":
                goals += measure_dask(sizes, folder, options.most_seconds)
            else:
                goals += measure_against(sizes, folder, options.most_seconds, options.against.resolve())
    print("\n| figure | value | goal | met |\n|---|---|---|---|")
    print("\n".join(goal.row() for goal in goals))


if __name__ == "__main__":
    main()
