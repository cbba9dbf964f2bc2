"""What peers_speed.py and the processes that it starts share: the case on disk, and the turns.

`speed_ours.py` writes the case: the clients' examples, the initial parameters, and the order in which every client
visits its examples in each of the first rounds. Every `speed_<package>.py` reads it in an environment of its own. This
module needs only NumPy.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

BATCH, RATE, EXAMPLES = 20, 0.05, 100
"""Batch size, learning rate, examples of a client."""
SIDE, CLASSES = 28, 62
ORDERS = 5
"""Rounds whose orders are in the case. Later rounds of the peers repeat them, in turn; ours draws new ones."""
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "linear": [(784, 62), (62,)],
    "cnn": [(3, 3, 1, 32), (32,), (3, 3, 32, 64), (64,), (1600, 128), (128,), (128, 62), (62,)],
}
"""Shapes of the parameters in Keras's layout: 48,670 parameters, and 231,742."""


@dataclass(frozen=True)
class Case:
    """One model and number of clients K, each with N examples."""

    model: str
    cores: int
    x: NDArray[np.float32]
    """(K, N, 28, 28, 1), pixels between 0 and 1. All processes share its memory."""
    y: NDArray[np.int64]
    """(K, N)"""
    orders: NDArray[np.int32]
    """(ORDERS, K, N) by round."""
    initial: Vector
    """(P,) in Keras's layout."""

    @property
    def num_clients(self) -> int:
        """Returns K."""
        return len(self.y)

    def batches(self, client: int, round_num: int) -> Iterator[NDArray[np.int32]]:
        """Yields the indices of each batch of a client's round; rounds count from 1."""
        order = self.orders[(round_num - 1) % ORDERS, client]
        for begin in range(0, len(order), BATCH):
            yield order[begin : begin + BATCH]

    def tensors(self) -> list[Vector]:
        """Returns the initial parameters by tensor."""
        shapes = SHAPES[self.model]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(self.initial, ends), shapes, strict=True)]


def write(folder: Path, case: Case) -> None:
    """Writes the case into `folder`."""
    for name in ("x", "y", "orders", "initial"):
        np.save(folder / f"{name}.npy", getattr(case, name))
    (folder / "case.json").write_text(json.dumps({"model": case.model, "cores": case.cores}))


def read(folder: Path) -> Case:
    """Returns the case of `write`."""
    # "c": the pages are shared, and the array counts as writable, which PyTorch wants.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("x", "y", "orders", "initial")}
    return Case(**json.loads((folder / "case.json").read_text()), **arrays)


ANSWER = "turns: "
"""The begin of an answer. Other lines on stdout are of the packages."""


class Turns:
    """A process's side of the turns.

    The driver writes a line to stdin: `round`, or `save PATH` for the global parameters of this moment. An answer is a
    line on stdout that begins with ANSWER: `ready`, the seconds of the round, or `saved`. At the end of stdin the
    process ends.
    """

    def __init__(self) -> None:
        self._answer, self._began = "ready", 0.0
        self.round_num = 0
        """The round of this turn; rounds count from 1."""

    def done(self) -> None:
        """Stops the watch of the round, if it runs."""
        if self._began:
            self._answer, self._began = repr(time.perf_counter() - self._began), 0.0

    def wait(self, params: Callable[[], Vector]) -> bool:
        """Ends a turn and waits for the next one; returns False if there is none.

        Args:
            params: returns the global parameters (P,) in Keras's layout.
        """
        self.done()
        while True:
            print(f"\n{ANSWER}{self._answer}", flush=True)
            command, _, path = sys.stdin.readline().strip().partition(" ")
            if command != "save":
                break
            np.save(path, params())
            self._answer = "saved"
        if command == "round":
            self.round_num += 1
            self._began = time.perf_counter()
        return command == "round"


def flat(tensors: list[NDArray[np.float32]]) -> Vector:
    """Returns tensors as one vector (P,)."""
    return np.concatenate([np.ravel(tensor) for tensor in tensors])
