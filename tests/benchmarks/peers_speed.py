"""Seconds per federated round: ours beside Flower, FedJAX, pfl-research, stock TFF and a loop in PyTorch, in turns.

    python tests/benchmarks/peers_speed.py

A linear model and a CNN, with 10, 100 and 1,000 clients. Every client holds 100 images 28x28 of 62 classes and makes
one epoch of SGD in batches of 20. Every variant is a process of its own (speed_<package>.py says what it runs), the
peers in environments that uv makes for them. The first time, this needs the network and, for PyTorch, some gigabytes
(UV_FIND_LINKS can name a folder with a smaller wheel).

- *Same work*: all read the same examples, initial parameters and orders of visits. After the first round, no parameter
  may differ from ours by more than 1e-4, nor by more than a hundredth of the largest change. After the fifth, the
  parameters must have moved as far from the start as ours, within 5 %. By then those of the CNN cannot be compared one
  by one: in early training, a change of 1e-7 at the start became 4 % of the way in three rounds, even in float64. The
  status is 1 if a variant does other work.
- *Same processor*: all are bound to the same two cores. Flower and `pfl, 2 processes` have a process for each, with one
  thread; ours, TFF and FedJAX use both in their own ways; PyTorch is run with one thread and with two.
- *Turns*: the first two rounds of each variant are not timed. Then the variants take turns, one round each, in rotating
  order. Meanwhile the others are stopped (SIGSTOP), because Ray's processes and Flower's threads never rest. A variant
  whose rounds are slow takes part in fewer turns, spread evenly, at least in --rounds.

What differs:

- Ours writes every number of the round log and draws the orders of visits itself; the peers find them in memory. FedJAX
  computes the norm of each update. The loop in PyTorch has no statistics, not even a loss.
- Flower serialises the model for each client, and its answer, as in a real federation.
- Nobody validates or saves.

A variant that cannot be installed or run, takes too long, or does other work is a cell that says so. A cell has the
median, the quartiles and the number of timed rounds; the ratio is that of the medians. The table goes to stdout,
everything else to stderr.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from speed_case import ORDERS, SHAPES
from speed_child import OURS, VARIANTS, Child, Failed, start

CORES = 2
WARM, LEAST, MOST = 2, 3, 100
"""Rounds that are not timed; least and most timed rounds of a variant."""
FIRST, FAR = 1e-4, 0.05
"""Largest difference of a parameter after round 1; largest relative difference of the way after round ORDERS."""
HEADER = ("model", "parameters", "clients", *(f"{name}, s" for name in VARIANTS), "fastest peer / ours (goal ≥ 1)")


class Comparison:
    """All variants with one model and number of clients; those that fail are dropped, with the reason."""

    def __init__(self, children: list[Child]) -> None:
        self.children = children
        self.failed: dict[str, str] = {}

    def each(self, do: Callable[[Child], None], children: Iterable[Child]) -> None:
        """Calls `do` for one child after the other."""
        for child in children:
            try:
                do(child)
            except Failed as exc:
                self._drop(child, str(exc))

    def check(self, round_num: int, initial: NDArray[np.float32]) -> None:
        """Drops the variants whose parameters after a round are not ours."""
        ours = self.children[0].saved[round_num]
        way, moved = float(np.linalg.norm(ours - initial)), float(np.abs(ours - initial).max())
        for child in self.children[1:]:
            params = child.saved[round_num]
            most, apart = float(np.abs(params - ours).max()), float(np.linalg.norm(params - initial)) / way - 1
            text = f"after round {round_num}: largest difference {most:.1e}, way {100 * apart:+.2f} %"
            say(f"    {child.name}, {text}")
            same = most <= min(FIRST, 0.01 * moved) if round_num == 1 else abs(apart) <= FAR
            if not same:
                self._drop(child, f"other work: {text}")

    def _drop(self, child: Child, why: str) -> None:
        if child.name == OURS:
            sys.exit(f"error: ours: {why}")
        say(f"    {child.name}: {why}")
        self.failed[child.name] = why
        self.children = [each for each in self.children if each is not child]
        child.close()


def measure(model: str, num_clients: int, options: argparse.Namespace, folder: Path) -> Comparison:
    """Times the rounds of all variants."""
    say(f"{model}, {num_clients:,} clients:")
    with ExitStack() as stack:
        comparison = Comparison([])

        def begin(name: str, *arguments: str) -> None:
            child = start(name, folder, options.most_seconds, arguments)
            comparison.children.append(child)
            stack.callback(child.close)
            comparison.each(Child.ready, [child])

        begin(OURS, model, str(num_clients))  # it writes what the others read
        for name in options.variants:
            begin(name)
        for _ in range(WARM):
            comparison.each(Child.round, [*comparison.children])
        initial = np.load(folder / "initial.npy")
        comparison.check(1, initial)
        take_turns(comparison, options)
        comparison.check(ORDERS, initial)
    return comparison


def take_turns(comparison: Comparison, options: argparse.Namespace) -> None:
    """Runs the timed rounds."""
    share = options.seconds / len(comparison.children)
    rounds = {
        child.name: max(options.rounds, min(MOST, int(share / child.seconds[-1]))) for child in comparison.children
    }
    say("    " + ", ".join(f"{child.name} {child.seconds[-1]:.3g} s" for child in comparison.children))
    turns = max(rounds.values())
    for turn in range(turns):
        first = turn % len(comparison.children)
        order = comparison.children[first:] + comparison.children[:first]
        due = [c for c in order if (turn + 1) * rounds[c.name] // turns > turn * rounds[c.name] // turns]
        comparison.each(Child.round, due)


def row(model: str, num_clients: int, comparison: Comparison, asked: list[str]) -> list[str]:
    """Returns a row of the table."""
    times = {child.name: child.seconds[WARM:] for child in comparison.children}
    medians = {name: float(np.median(each)) for name, each in times.items()}
    peers = {name: median for name, median in medians.items() if name != OURS}
    ratio = "no peer ran"
    if peers:
        fastest = min(peers, key=peers.__getitem__)
        ratio = f"{peers[fastest] / medians[OURS]:.2f} ({fastest})"
    cells = [
        spread(times[name]) if name in times else comparison.failed.get(name, "left out" if name not in asked else "")
        for name in VARIANTS
    ]
    num_params = sum(int(np.prod(shape)) for shape in SHAPES[model])
    return [model, f"{num_params:,}", f"{num_clients:,}", *cells, ratio]


def spread(times: list[float]) -> str:
    """Returns the median with its quartiles, and the number of rounds."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}], {len(times)}"


def say(text: str) -> None:
    """Writes progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Prints the table as Markdown; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100, 1000])
    peers = [name for name in VARIANTS if name != OURS]
    parser.add_argument("--variants", nargs="+", choices=peers, default=peers, help="the peers (default: all)")
    parser.add_argument("--rounds", type=int, default=LEAST, help=f"timed rounds of each, at least (default {LEAST})")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help=f"of a case: more rounds, to {MOST}, until then (default 60)"
    )
    parser.add_argument("--most-seconds", type=float, default=600.0, help="of a round (default 600)")
    options = parser.parse_args()
    if options.rounds < LEAST or min(options.clients) < 2:
        parser.error(f"--rounds must be >= {LEAST} and --clients >= 2")
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    if len(cores) < CORES:
        parser.error(f"needs {CORES} cores, got {len(cores)}")
    os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes, too
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    all_ran = True
    for model in options.models:
        for num_clients in options.clients:
            with tempfile.TemporaryDirectory() as folder:
                comparison = measure(model, num_clients, options, Path(folder))
            all_ran &= not comparison.failed
            print(f"| {' | '.join(row(model, num_clients, comparison, options.variants))} |", flush=True)
    return int(not all_ran)


if __name__ == "__main__":
    sys.exit(main())
