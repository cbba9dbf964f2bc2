"""`python tests/benchmarks/detection.py`: false alarms and power of `find_increase` on simulated loss curves.

The curves have 8 to 100 rounds, flat or falling, with noise of 5 % of the loss: Gaussian, Student's t(5), or AR(1) with
a correlation of 0.5. The table of false alarms has the percentage of the curves without a rise that are claimed. The
table of power has the percentage of the planted rises that are found: anywhere on the curve, and in a round that is
known (`onsets`).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.arrays import Floats
from tasks.detection import find_increase

NOISE = 0.05
LENGTHS = (8, 12, 30, 100)
LAWS = ("gauss", "t5", "ar0.5")
SHAPES: dict[str, Callable[[int], Floats]] = {
    "flat": lambda n: np.zeros(n),
    "exponential": lambda n: -0.8 * np.arange(n) / (n - 1),
    "power": lambda n: -np.log(1 + 0.5 * np.arange(n)),
    "kink": lambda n: -np.minimum(0.5 * np.arange(n), n / 6),
}
"""Log loss by round, of N rounds: `kink` falls by 39 % a round for a third of the run, and is flat from then on."""
RISES: dict[str, Callable[[int, int, np.random.Generator], Floats]] = {
    "0.42 to 0.60, lasting": lambda n, at, _: np.where(np.arange(n) >= at, np.log(0.60 / 0.42), 0),
    "0.28 to 0.39-0.66, 8 rounds": lambda n, at, rng: np.where(
        (np.arange(n) >= at) & (np.arange(n) < at + 8), np.log(rng.uniform(0.39, 0.66, n) / 0.28), 0
    ),
    "twice, one round": lambda n, at, _: np.where(np.arange(n) == at, np.log(2), 0),
    "0.39, 0.81, 2.1 at the end": lambda n, _, __: np.concatenate([np.zeros(n - 2), np.log([0.81 / 0.39, 2.1 / 0.39])]),
}


def noise(rng: np.random.Generator, law: str, n: int) -> Floats:
    """Returns noise (n,) with an sd of 1."""
    if law == "gauss":
        return rng.standard_normal(n)
    if law == "t5":
        return np.asarray(rng.standard_t(5, n) / np.sqrt(5 / 3))
    shocks = rng.standard_normal(n + 50)
    for t in range(1, n + 50):
        shocks[t] += 0.5 * shocks[t - 1]
    return np.asarray(shocks[50:] * np.sqrt(0.75))


def _share(claims: list[bool]) -> str:
    return f"{100 * np.mean(claims):.1f}"


def _false_alarms(curves: int, significance: float) -> None:
    print(f"\nfalse alarms in percent at significance {significance}, {curves} curves a case")
    print("| N | noise | " + " | ".join(SHAPES) + " |")
    for n in LENGTHS:
        for law in LAWS:
            cells = []
            for shape in SHAPES.values():
                draws = [np.random.default_rng([k, n, 1]) for k in range(curves)]
                losses = [np.exp(shape(n) + NOISE * noise(rng, law, n)) for rng in draws]
                cells.append(_share([find_increase(range(n), loss, significance).detected for loss in losses]))
            print(f"| {n} | {law} | " + " | ".join(cells) + " |", flush=True)


def _power(curves: int, significance: float) -> None:
    print(f"\nrises found in percent at significance {significance}, {curves} curves a case: anywhere, known round")
    print("| N | curve | noise | " + " | ".join(RISES) + " |")
    for n in LENGTHS:
        for name in ("exponential", "power"):
            for law in ("gauss", "ar0.5"):
                cells = []
                for title, rise in RISES.items():
                    found: tuple[list[bool], list[bool]] = [], []
                    for k in range(curves):
                        rng = np.random.default_rng([k, n, 2])
                        onset = n - 2 if title.endswith("end") else int(rng.integers(3, n - 1))
                        z = SHAPES[name](n) + NOISE * noise(rng, law, n) + rise(n, onset, rng)
                        for claims, onsets in zip(found, (None, [onset]), strict=True):
                            claims.append(find_increase(range(n), np.exp(z), significance, onsets).detected)
                    cells.append(", ".join(map(_share, found)))
                print(f"| {n} | {name} | {law} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=500)
    parser.add_argument("--significance", type=float, default=0.01)
    parser.add_argument("--only", choices=("alarms", "power"))
    given = parser.parse_args()
    if given.only != "power":
        _false_alarms(given.curves, given.significance)
    if given.only != "alarms":
        _power(given.curves // 5, given.significance)


if __name__ == "__main__":
    main()
