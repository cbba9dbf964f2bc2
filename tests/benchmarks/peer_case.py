"""The common start of our rounds and of a public implementation of the same algorithm, and the table of both.

`peer_ours.py` writes a file with the clients' data, the initial parameters, the order in which every client visits its
examples in every round, the settings, and our final parameters. Each `peer_<package>.py` has its own environment. It
reads the file, runs the same rounds with its package, and prints one row per algorithm. `peers.py` runs all of them.
This module needs only NumPy.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]

TOLERANCE = 1e-5
"""Largest absolute difference of any parameter that counts as equal. In float32, after three rounds, 1e-7 is usual."""

COLUMNS = ("algorithm", "with", "largest difference", "relative to the update", "verdict")


@dataclass(frozen=True)
class Case:
    """One algorithm with its settings, and our result."""

    name: str
    settings: dict[str, Any]
    """By dotted name."""
    shapes: list[tuple[int, ...]]
    """Shapes of the parameter tensors, W and b of each layer, in the order of the flat vector (P,)."""
    data: dict[str, Batch]
    """Client id -> x (N, D), y (N,)."""
    orders: list[dict[str, NDArray[np.int32]]]
    """By round: client id -> visits (E·N,), only for the clients of the round."""
    initial: Vector
    ours: Vector
    """(P,) our parameters after the last round."""

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    @property
    def clients(self) -> list[str]:
        return sorted(self.data)

    def batches(self, client: str, order: NDArray[np.int32]) -> list[Batch]:
        """Returns all batches of a client's round; the last batch of an epoch can be smaller."""
        (x, y), size = self.data[client], self["federate.client.batch_size"]
        epochs = order.reshape(-1, len(y))
        parts = [visits[begin : begin + size] for visits in epochs for begin in range(0, len(y), size)]
        return [(x[part], y[part]) for part in parts]

    def tensors(self, flat: Vector) -> list[Vector]:
        """Returns the flat parameters cut into their tensors."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), self.shapes, strict=True)]


def flat(tensors: Sequence[Any]) -> Vector:
    """Returns tensors as one vector (P,)."""
    return np.concatenate([np.asarray(tensor).ravel() for tensor in tensors])


def write(path: Path, cases: Sequence[Case]) -> None:
    """Writes the cases, which share clients, shapes and initial parameters."""
    first = cases[0]
    arrays: dict[str, NDArray[Any]] = {"initial": first.initial}
    for client, (x, y) in first.data.items():
        arrays |= {f"x/{client}": x, f"y/{client}": y}
    for case in cases:
        arrays[f"ours/{case.name}"] = case.ours
        for r, orders in enumerate(case.orders):
            arrays |= {f"order/{case.name}/{r}/{client}": order for client, order in orders.items()}
    described = {
        "shapes": first.shapes,
        "cases": {case.name: {"settings": case.settings, "rounds": [sorted(o) for o in case.orders]} for case in cases},
    }
    np.savez(path, described=json.dumps(described), **arrays)  # type: ignore[arg-type]


def read(path: Path) -> dict[str, Case]:
    """Returns the cases of `write` by name."""
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    described = json.loads(str(arrays["described"]))
    clients = sorted(name.removeprefix("x/") for name in arrays if name.startswith("x/"))
    data = {client: (arrays[f"x/{client}"], arrays[f"y/{client}"].astype(np.int64)) for client in clients}
    return {
        name: Case(
            name=name,
            settings=entry["settings"],
            shapes=[tuple(shape) for shape in described["shapes"]],
            data=data,
            orders=[{c: arrays[f"order/{name}/{r}/{c}"] for c in chosen} for r, chosen in enumerate(entry["rounds"])],
            initial=arrays["initial"],
            ours=arrays[f"ours/{name}"],
        )
        for name, entry in described["cases"].items()
    }


@dataclass(frozen=True)
class Row:
    """The result of a peer."""

    case: Case
    params: NDArray[Any]
    note: str = ""
    """How the peer was mended, or how it departs from the paper."""
    agrees: bool = True
    """The expected verdict: a peer that departs from its paper must differ."""


def compare(package: str, rows: Iterator[Row]) -> int:
    """Prints the rows as a Markdown table; returns 0, or 1 if a row's verdict is not the expected one."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    unexpected = []
    for row in rows:
        difference = float(np.abs(row.params - row.case.ours).max())
        update = float(np.abs(row.case.ours - row.case.initial).max())
        agrees = difference <= TOLERANCE
        verdict = "agrees" if agrees else "differs"
        if agrees != row.agrees:
            verdict += " (unexpected)"
            unexpected.append(f"{row.case.name}, {row.note}" if row.note else row.case.name)
        described = f"{package}: {row.note}" if row.note else package
        cells = (row.case.name, described, f"{difference:.1e}", f"{difference / update:.1e}", verdict)
        print(f"| {' | '.join(cells)} |", flush=True)
    if unexpected:
        print(f"{package}, tolerance {TOLERANCE:g}: not as expected: {'; '.join(unexpected)}", file=sys.stderr)
    return int(bool(unexpected))


def arguments(doc: str) -> dict[str, Case]:
    """Returns the cases of the file that the command line names."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("file", type=Path, help="what peer_ours.py wrote")
    return read(parser.parse_args().file)
