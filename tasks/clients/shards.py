"""The shards: files that hold the examples of many clients each.

data/partition and data/clients have at most 128 shards (`clients_000.npz`, ...), whatever the number of clients, and
`test.npz` for the hold-out data. The clients are sorted by id, each shard holds consecutive ones, and the numbers of
clients of two shards differ by at most one. A client's arrays are the members `<id>/x.npy` and `<id>/y.npy`.

The format is an uncompressed .npz:

1. NumPy reads it: `numpy.load("data/clients/clients_000.npz")["03/x"]`.
2. The archive's directory says where each client is, so the others need not be read.
3. Equal data give equal bytes, which DVC stores once.

Rejected: Arrow and Parquet, whose bytes depend on the version of the library that writes them, and TFRecord, in which
no client can be found without reading those before it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, reading
from tasks.npz import Member, NpzWriter, members, writing_npz

TEST = "test"
"""Stands for the hold-out data among the clients' ids; no client can have this id."""
TEST_SHARD = "test.npz"
MOST_SHARDS = 128

Raw = tuple[NDArray[np.float32] | NDArray[np.uint8], NDArray[np.int32]]
"""x (N, ...) and labels y (N,) as they are stored. In uint8, v stands for the brightness v / 255."""


@dataclass(frozen=True)
class Form:
    """The form that every client's arrays must have.

    Attributes:
        input_shape: shape of an example.
        num_classes: C; labels are 0 to C − 1.
        record: name of the file with these two values, for messages.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    record: str = "preprocess.json"


@dataclass(frozen=True)
class Stored:
    """The stored examples of one client, or the hold-out data: everything that is needed to read them.

    Attributes:
        client: the id, or `test`.
        shard: the file that holds the examples.
        x: where x is in it; None if it is missing.
        y: where y is in it; None if it is missing.
        form: what the arrays must be.
        num_examples: how many examples there must be; None: any number.
        statistics: {"mean": (C,), "sd": (C,)} of preprocess.json, with which the reader normalises x if it is uint8.
        missing: why x or y is missing.
    """

    client: str
    shard: Path
    x: Member | None
    y: Member | None
    form: Form
    num_examples: int | None = None
    statistics: Any = None
    missing: str = ""


def shards(clients: Sequence[str]) -> dict[str, list[str]]:
    """Returns the clients of each shard by the shard's file name: K clients in min(K, 128) shards."""
    ids, number = sorted(clients), min(len(clients), MOST_SHARDS)
    ends = [len(ids) * (shard + 1) // number for shard in range(number)]
    return {
        f"clients_{shard:03}.npz": ids[begin:end]
        for shard, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
    }


Write = Callable[[str, NDArray[Any], NDArray[Any]], None]
"""(client or `test`, x (N, ...), y (N,)) -> None; appends them to their shard. x is stored as uint8 or float32."""


@contextmanager
def writing(root: Path, clients: Sequence[str]) -> Iterator[Write]:
    """Yields the function that writes one client's examples into the folder `root`.

    The clients are written in sorted order, and then `test`, so that one shard is open at a time.

    Args:
        root: data/partition or data/clients; it may exist.
        clients: the ids of all clients, which decide who is in which shard. A client may be left out.

    Raises:
        ValueError: the clients are not written in order.
        OSError: a shard cannot be written, for example because the disk is full.
    """
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        yield _Writer(root, clients, opened).write


class _Writer:
    def __init__(self, root: Path, clients: Sequence[str], opened: ExitStack) -> None:
        self._root, self._opened = root, opened
        self._place = {
            client: (shard, number)
            for number, (shard, client) in enumerate(
                [*((shard, client) for shard, its in shards(clients).items() for client in its), (TEST_SHARD, TEST)]
            )
        }
        self._shard, self._last = "", -1
        self._npz: NpzWriter

    def write(self, client: str, x: NDArray[Any], y: NDArray[Any]) -> None:
        shard, number = self._place[client]
        if number <= self._last:
            raise ValueError(f"client {client} must be written before the clients after it")
        if shard != self._shard:
            self._opened.close()
            self._npz = self._opened.enter_context(writing_npz(self._root / shard))
        self._shard, self._last = shard, number
        self._npz.write(f"{client}/x", x if x.dtype == np.uint8 else np.asarray(x, np.float32))
        self._npz.write(f"{client}/y", np.asarray(y, np.int32))


def find(
    root: Path, sizes: Mapping[str, int], form: Form, statistics: Callable[[str], Any], step: str
) -> dict[str, Stored]:
    """Returns where each client's examples are in `root`, in the order of `sizes`, and `test` last.

    A client that is not there, or whose shard cannot be read, is in the result: whoever reads it gets the reason.

    Args:
        root: data/partition or data/clients.
        sizes: number of examples by client, for all clients.
        form: of their arrays.
        statistics: of a client; see `Stored`.
        step: the step that writes `root`.

    Raises:
        DataError: a shard has further members.
    """
    found: dict[str, Stored] = {}
    for name, clients in {**shards(list(sizes)), TEST_SHARD: [TEST]}.items():
        path, missing, at = root / name, "", {}
        try:
            with reading(f"cannot read {path}"):
                at = members(path)
        except DataError as exc:
            missing = _reason(path, exc)
        others = sorted(set(at) - {f"{client}/{array}.npy" for client in clients for array in "xy"})
        if others:
            raise DataError(
                f"{path} must hold the clients that {form.record} names, got {len(others)} more members "
                f"({', '.join(others[:4])}): run the step {step} again"
            )
        for client in clients:
            x, y = at.get(f"{client}/x.npy"), at.get(f"{client}/y.npy")
            lost = [array for array, place in (("x.npy", x), ("y.npy", y)) if place is None]
            reason = missing or (f"{path} has no {client}/{lost[0]}" if lost else "")
            found[client] = Stored(client, path, x, y, form, sizes.get(client), statistics(client), reason)
    return {client: found[client] for client in (*sizes, TEST)}


def _reason(path: Path, exc: DataError) -> str:
    cause = exc.__cause__
    return f"cannot read {path}: {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else str(exc)
