"""Seconds per federated round: ours, stock TFF's, and a hand-written TensorFlow loop's, in turns in one process.

    .venv/bin/python tests/benchmarks/round_speed.py

Every client holds 100 images 28x28 of 10 classes and makes one epoch of SGD in batches of 20. The variants:

- *ours*: a round of the step `federate` in its default runtime, with every statistic, row and log line. The rounds with
  a validation or a checkpoint are not counted.
- *unrecorded*: the same clients' orders of visits and the same TFF computation, called only for its next state.
- *hand-written*: one Keras model, one `tf.function` for a batch, data in tensors, loops over clients and batches, an
  average in NumPy. It has no federation and no statistics, not even a loss.
- *stock*: `tff.learning.algorithms.build_weighted_fed_avg` in TFF's worker. It gets a functional model (a quarter
  faster than a model with variables) and shuffled and batched `tf.data` that were made before.

All variants start from the same parameters. In round 1 all visit the examples in the same order and must end with the
same parameters. Then they take turns, one round each, in rotating order. *Recording* is the part of our round for the
rows of clients.csv and rounds.csv, with the Gram matrix, and for the log; with more than 128 clients also for writing
down and sketching their updates, which one thread does while others train. The table goes to stdout, everything else to
stderr. The status is 1 if the variants did not do the same work. With thousands of clients, leave variants out.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `tasks` does, which comes after TensorFlow here
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from numpy.typing import NDArray
from tensorflow.keras import Model

from tasks.clients import CLIENTS, TEST, writing
from tasks.federate import loop, runner
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.run_log import RunLog
from tasks.federate.updates import ManyUpdates
from tasks.federate.validation import build_validation
from tasks.files import write_json
from tasks.models import BUILDERS, build, num_params
from tasks.parameters import flatten
from tasks.round_log.columns import ClientRow, RoundRow
from tasks.runtime.in_process import in_process
from tasks.settings import Settings, parse
from tests.benchmarks import round_variants
from tests.benchmarks.round_variants import BATCH, LEARNING_RATE, HandWritten, Stock, Unrecorded, Variant, flat
from tests.oracle import oracle

SHAPE, CLASSES, EXAMPLES = (28, 28, 1), 10, 100
NEVER = 10**6
"""More rounds than any run has, for settings that name every n-th round."""
MAX_ROUNDS = 200
"""Most timed rounds of a variant."""


@dataclass(frozen=True)
class Goal:
    """Our seconds: at most `hand` times the hand-written loop's (by number of clients), 1/`stock` of stock TFF's."""

    hand: dict[int, float]
    stock: float


MODELS = {
    "logistic": Goal({10: 2.5, 100: 1.3}, 4.0),
    "cnn": Goal({10: 1.0, 100: 1.0}, 2.5),
    "emnist_cnn": Goal({10: 1.0, 100: 1.0}, 2.5),
}
VARIANTS = ("unrecorded", "hand-written", "stock")
RECORDING_GOAL = 0.05
"""Largest fraction of our round that recording may take."""


def write_data(folder: Path, num_clients: int) -> None:
    """Writes clients whose images are a noisy picture of their class, in the layout of the step `preprocess`."""
    rng = np.random.default_rng(0)
    prototypes = rng.random((CLASSES, *SHAPE), np.float32)
    width = max(2, len(str(num_clients - 1)))
    clients = [f"{k:0{width}}" for k in range(num_clients)]
    with writing(folder / CLIENTS, clients) as write:
        for client in [*clients, TEST]:
            y = rng.integers(0, CLASSES, EXAMPLES * (10 if client == TEST else 1), np.int32)
            x = 0.3 * prototypes[y] + 0.7 * rng.random((len(y), *SHAPE), np.float32)
            write(client, x, y)
    sizes = dict.fromkeys(clients, EXAMPLES)
    write_json(
        folder / CLIENTS / "preprocess.json", {"input_shape": list(SHAPE), "num_classes": CLASSES, "clients": sizes}
    )


class Stopwatch:
    """Adds up the seconds spent in the product's functions that record a round."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds += time.perf_counter() - began

        return call

    @contextmanager
    def on_recording(self) -> Iterator[None]:
        with (
            mock.patch.object(runner, "client_rows", self.timed(runner.client_rows)),
            mock.patch.object(runner, "round_row", self.timed(runner.round_row)),
            mock.patch.object(RunLog, "append", self.timed(RunLog.append)),
            mock.patch.object(ManyUpdates, "add", self.timed(ManyUpdates.add)),
        ):
            yield


@dataclass(frozen=True)
class Result:
    """The measurements for one model and number of clients."""

    model: str
    num_params: int
    num_clients: int
    seconds: dict[str, list[float]]
    """By variant, the seconds of each timed round."""
    recording: list[float]
    """The fraction of each of our rounds that recording takes."""


def measure(name: str, num_clients: int, least: int, seconds: float, without: Collection[str], folder: Path) -> Result:
    """Times at least `least` rounds of all variants but `without`, and as many more as fit into `seconds`."""
    write_data(folder, num_clients)
    client = {"learning_rate": LEARNING_RATE, "batch_size": BATCH}
    settings = parse({"federate": {"evaluate_every": NEVER, "checkpoint_every": NEVER, "client": client}})
    cohort = cohort_of(settings, folder)
    model = build(name if name in BUILDERS else f"{round_variants.__name__}:{name}", SHAPE, CLASSES, settings.seed)
    initial, threads = [v.numpy() for v in model.trainable_weights], len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        makers: dict[str, Callable[[], Variant]] = {
            "unrecorded": lambda: Unrecorded(settings, cohort, model, stack.enter_context(in_process(threads))),
            "hand-written": lambda: HandWritten(settings, cohort, model),
            "stock": lambda: Stock(settings, cohort, model, stack.enter_context(oracle(threads))),
        }
        others = {each: make() for each, make in makers.items() if each not in without}
        _say(f"{name}, {num_clients} clients:")
        _check_first_round(others, settings, folder, cohort, model, initial)
        turn = _warm_up(others, initial)
        num_timed = max(least, min(MAX_ROUNDS, int(seconds / turn)))
        timed, recording, num_steps = _interleave(others, settings, folder, cohort, model, num_timed)
        _check_last_round({"ours": flatten(model)} | {k: v.params for k, v in others.items()}, cohort, model, initial)
    expected = num_clients * -(-EXAMPLES // BATCH)
    of_hand = [each.num_steps for each in others.values() if isinstance(each, HandWritten)]
    _check({num_steps, *of_hand} == {expected}, f"steps: {num_steps}, {of_hand}, not {expected}")
    return Result(name, num_params(model), num_clients, timed, recording)


def _check_first_round(
    others: dict[str, Variant], settings: Settings, folder: Path, cohort: Cohort, model: Model, initial: Any
) -> None:
    loop.run_rounds(settings, folder / "check", cohort, model, runner.Phase("check", 1, 1), lambda *logs: None)
    ours = flatten(model)
    model.set_weights(initial)
    for variant in others.values():
        variant.start(initial)
        variant.round(1)
    moved = float(np.abs(ours - flatten(model)).max())
    apart = {name: float(np.abs(variant.params - ours).max()) for name, variant in others.items()}
    _say(f"  round 1: largest change of a parameter {moved:.1e}, largest difference to ours {max(apart.values()):.1e}")
    _check(max(apart.values()) < min(1e-4, 1e-2 * moved), f"parameters after round 1, moved by {moved}: {apart}")


def _warm_up(others: dict[str, Variant], initial: Any) -> float:
    """Returns the seconds of one turn of all variants, and sets the variants back to the start."""
    turn = 0.0
    for name, variant in others.items():
        began = time.perf_counter()
        variant.round(2)
        turn += (time.perf_counter() - began) * (2 if name == "unrecorded" else 1)  # ours takes about as long as it
        variant.start(initial)
    return turn


def _interleave(
    others: dict[str, Variant], settings: Settings, folder: Path, cohort: Cohort, model: Model, num_timed: int
) -> tuple[dict[str, list[float]], list[float], int]:
    """Returns the seconds of each timed round by variant, our recording's shares, and our steps in a round.

    After each of our rounds, each of the other variants makes one. The first round compiles, and the last one validates
    and saves: neither is timed.
    """
    timed: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    recording: list[float] = []
    stopwatch, order, last = Stopwatch(), list(others), num_timed + 2
    resumed = time.perf_counter()

    def watch(row: RoundRow, done: int, total: int) -> None:
        nonlocal resumed
        seconds = time.perf_counter() - resumed
        if counted := 1 < done < total:
            timed["ours"].append(seconds)
            recording.append(stopwatch.seconds / seconds)
        for name in order:
            began = time.perf_counter()
            others[name].round(row["round"])
            if counted:
                timed[name].append(time.perf_counter() - began)
        order.append(order.pop(0))
        stopwatch.seconds = 0.0
        resumed = time.perf_counter()

    with stopwatch.on_recording():
        phase = runner.Phase("federate", 1, last)
        steps: dict[int, int] = {}

        def report(rounds: object, clients: Iterable[ClientRow]) -> None:
            for row in clients:
                steps[row["round"]] = steps.get(row["round"], 0) + (row["num_steps"] or 0)

        loop.run_rounds(settings, folder, cohort, model, phase, report, watch)
    return timed, recording, steps[last]


def _check_last_round(found: dict[str, NDArray[np.float32]], cohort: Cohort, model: Model, initial: Any) -> None:
    """Checks the losses after the last round.

    Our rounds and the hand-written loop had the same batches, stock TFF the same examples in other orders. The
    parameters of CNNs still drift apart: a last bit that switches a ReLU or a max-pool becomes a large difference. So
    the losses are compared, not the parameters.
    """
    validate = build_validation(model, cohort.test_x, cohort.test_y)
    losses = {name: validate(params)[0] for name, params in found.items()}
    start = validate(flat(initial))[0]
    _say(f"  loss at first {start:.4f}, at last: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    for name, loss in losses.items():
        allowed = losses["ours"] * (0.3 if name == "stock" else 0.03)
        _check(loss < start and abs(loss - losses["ours"]) < allowed, f"losses after training: {losses}")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"the variants did not do the same work: {otherwise}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


HEADER = (
    *("model", "parameters", "clients", "rounds", "ours, s", "unrecorded, s", "hand-written, s", "stock TFF, s"),
    *("ours / hand-written", "stock / ours", "recording"),
)


def row(result: Result) -> list[str]:
    """Returns a row of the table: medians with their quartiles, ratios of medians with their goals."""
    goal, median = MODELS[result.model], {name: float(np.median(times)) for name, times in result.seconds.items()}
    most = goal.hand.get(result.num_clients)
    return [
        result.model,
        f"{result.num_params:,}",
        str(result.num_clients),
        str(len(result.recording)),
        *[_spread(result.seconds[name]) if name in result.seconds else "" for name in ("ours", *VARIANTS)],
        f"{median['ours'] / median['hand-written']:.2f}" + (f" (goal ≤ {most})" if most else "")
        if "hand-written" in median
        else "",
        f"{median['stock'] / median['ours']:.1f} (goal ≥ {goal.stock})" if "stock" in median else "",
        f"{100 * np.median(result.recording):.1f} % (goal ≤ {100 * RECORDING_GOAL:.0f} %)",
    ]


def _spread(times: list[float]) -> str:
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds of each variant, at least (default 11)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help=f"more rounds, to {MAX_ROUNDS}, until they have passed (default 20)"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--without", nargs="+", choices=VARIANTS, default=[], help="variants to leave out")
    options = parser.parse_args()
    if min(options.rounds, *options.clients) < 1:
        parser.error("--rounds and --clients must be >= 1")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in options.models:
        for num_clients in options.clients:
            with tempfile.TemporaryDirectory() as folder:
                result = measure(name, num_clients, options.rounds, options.seconds, options.without, Path(folder))
            print(f"| {' | '.join(row(result))} |", flush=True)


if __name__ == "__main__":
    main()
