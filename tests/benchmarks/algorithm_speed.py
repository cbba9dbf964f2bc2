"""Seconds of a whole round of each client update and aggregator, compared with a round of FedAvg in the same process.

    .venv/bin/python tests/benchmarks/algorithm_speed.py

100 clients of 100 images 28x28 train a perceptron of 227,670 parameters for one epoch in batches of 20. These are the
rounds of the step `federate` in its default runtime, with every statistic and log line. Each kind has its own run, and
the runs take turns, one round each. The first round of a run compiles, and the last one validates and saves: neither is
timed. `scaffold I` and `mimelite` compute every gradient twice, by their definition: in the local steps, and over all
data at the global model. The table goes to stdout, everything else to stderr. The status is 1 if a kind did not train.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `tasks` does, which comes after TensorFlow here
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from tensorflow.keras import Model, Sequential, layers

from tasks.federate import loop, runner
from tasks.federate.aggregators import RULES
from tasks.federate.cohort import Cohort, cohort_of
from tasks.models import build, num_params
from tasks.round_log.columns import RoundRow
from tasks.settings import Settings, parse
from tests.benchmarks.round_speed import NEVER, SHAPE, write_data
from tests.benchmarks.round_variants import BATCH, LEARNING_RATE

NUM_CLIENTS, CLASSES = 100, 10
GOAL, ROBUST_GOAL = 1.3, 1.5
"""Most seconds of a round, as a multiple of FedAvg's: of any kind, and of the rules in robust.py."""
FEDAVG = "FedAvg"
CLIENTS: dict[str, dict[str, Any]] = {
    "fedprox": {"kind": "fedprox"},
    "scaffold": {"kind": "scaffold"},
    "scaffold I": {"kind": "scaffold", "option": "I"},
    "fednova": {"kind": "fednova"},
    "feddyn": {"kind": "feddyn"},
    "mimelite": {"kind": "mimelite", "momentum": 0.9},
}
AGGREGATORS: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {"trim": 0.1},
    "geometric_median": {},
    "krum": {"num_faulty": 20},
    "multi_krum": {"num_faulty": 20},
    "clipped_mean": {"clipping": "adaptive", "zeroing": True},
    "dp_mean": {},
    "compressed_mean": {},
}
KINDS = [FEDAVG, *CLIENTS, *AGGREGATORS]


def perceptron(input_shape: tuple[int, ...], num_classes: int) -> Model:
    """784-256-100-10."""
    hidden = [layers.Dense(256, "relu", name="hidden_1"), layers.Dense(100, "relu", name="hidden_2")]
    return Sequential([layers.Input(input_shape), layers.Flatten(), *hidden, layers.Dense(num_classes, name="logits")])


@dataclass
class Turns:
    """Lets one thread run at a time, in the order of their names."""

    waiting: list[str]
    error: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, name: str) -> None:
        """Waits until it is the turn of `name`."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting[0] == name or self.error is not None)
            if self.error is not None:
                raise SystemExit

    def end(self, name: str, leave: bool = False) -> None:
        """Passes the turn on; with `leave`, `name` gets no further turn."""
        with self.changed:
            self.waiting.remove(name)
            self.waiting += [] if leave else [name]
            self.changed.notify_all()

    @contextmanager
    def taking_part(self, name: str) -> Iterator[None]:
        """Holds the block from the first turn of `name` to its last; an error ends all turns."""
        self.wait(name)
        try:
            yield
        except BaseException as exc:
            self.error = exc
            raise
        finally:
            self.end(name, leave=True)


def settings_of(kind: str, num_rounds: int) -> Settings:
    """Returns the settings of one run."""
    # MimeLite's momentum makes its steps up to ten times as long, so its rate is a tenth.
    rate = LEARNING_RATE / 10 if kind == "mimelite" else LEARNING_RATE
    client = {"learning_rate": rate, "batch_size": BATCH, **CLIENTS.get(kind, {})}
    aggregator = {"kind": kind, **AGGREGATORS[kind]} if kind in AGGREGATORS else {}
    never = {"evaluate_every": NEVER, "checkpoint_every": NEVER, "rounds": num_rounds}
    return parse({"federate": {**never, "client": client, "aggregator": aggregator}})


Seconds = dict[str, list[tuple[float, float]]]
"""By kind, (clock, processor) seconds of each timed round. Other work on the machine changes the second one less."""


def now() -> tuple[float, float]:
    """Returns the clock and this process's processor seconds; only one kind runs at a time."""
    return time.perf_counter(), time.process_time()


def run(kind: str, num_rounds: int, cohort: Cohort, folder: Path, turns: Turns, seconds: Seconds) -> None:
    """Trains with `kind`, one round a turn, and records the seconds of each round."""
    settings = settings_of(kind, num_rounds)
    resumed = now()

    def watch(row: RoundRow, done: int, total: int) -> None:
        nonlocal resumed
        if 1 < done < total:
            clock, processor = now()
            seconds[kind].append((clock - resumed[0], processor - resumed[1]))
        if done < total:
            turns.end(kind)
            turns.wait(kind)
        resumed = now()

    with turns.taking_part(kind):
        model = build("tests.benchmarks.algorithm_speed:perceptron", SHAPE, CLASSES, settings.seed)
        phase = runner.Phase(kind, 1, num_rounds)
        lines = loop.run_rounds(settings, folder, cohort, model, phase, lambda lines: None, watch)
        first, last = lines[0].row, lines[-1].row
        steps = {row["num_steps"] for row in lines[-1].clients}
        say(f"{kind}: {num_params(model):,} parameters, loss {first['train_loss']} to {last['train_loss']}")
        # With dp_mean the loss need not fall: the default noise is as large as what 100 clients learn in a few rounds.
        if steps != {100 // BATCH} or not (kind == "dp_mean" or last["train_loss"] < first["train_loss"]):
            raise SystemExit(f"{kind} did not train: steps {steps}")


def say(text: str) -> None:
    """Prints to stderr, so that stdout holds only the table."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each kind (default 9)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS[1:], default=KINDS[1:], help="kinds to compare with FedAvg")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be >= 1")
    seconds: Seconds = {kind: [] for kind in (FEDAVG, *options.kinds)}
    turns = Turns(list(seconds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, NUM_CLIENTS)
        cohort = cohort_of(settings_of(FEDAVG, 1), folder)
        given = (options.rounds + 2, cohort, folder, turns, seconds)
        threads = [threading.Thread(target=run, args=(kind, *given)) for kind in seconds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if turns.error is not None:
        sys.exit(f"{turns.error}")
    print("| kind | round, s | quartiles | round / FedAvg's | the same, processor |\n|---|---|---|---|---|")
    fedavg = np.median(seconds[FEDAVG], axis=0)
    for kind, taken in seconds.items():
        low, (middle, processor), high = np.quantile(taken, [0.25, 0.5, 0.75], axis=0)
        goal = "" if kind == FEDAVG else f" (goal ≤ {ROBUST_GOAL if kind in RULES else GOAL})"
        ratios = f"{middle / fedavg[0]:.2f}{goal} | {processor / fedavg[1]:.2f}"
        print(f"| {kind} | {middle:.2f} | {low[0]:.2f}, {high[0]:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
