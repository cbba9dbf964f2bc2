"""The clients' data on disk: their ids, how their arrays are written, read and checked.

In data/partition and data/clients each client has a folder with `x.npy` and `y.npy`, and so have the hold-out data.
partition.json or preprocess.json beside the folders says which clients there must be. Nothing else in the project
reads or checks these arrays, but for the graph of a client's local training (local/graph_files.py).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, reading
from tasks.files import as_size, check_regular, read_json, read_npy, write_npy

CLIENTS = Path("data/clients")
"""Where the preprocessed data are, in a workspace."""

TEST = "test"
"""The folder of the hold-out data beside the clients' folders; no client may have this id."""

Examples = tuple[NDArray[np.float32], NDArray[np.int32]]
"""x (N, ...) and labels y (N,)."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_TAKEN = re.compile(
    r"test|__pycache__|dvc\.yaml|dvc\.lock|dvcfile|.*\.(json|dvc|pyc)|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.I
)
"""Names that mean something else, in capitals too: a file system may take these for the same. DVC leaves out what
.dvcignore and its own defaults say, Windows has devices of these names, and *.json stands beside the clients."""


@dataclass(frozen=True)
class Form:
    """What every client's arrays must be.

    Attributes:
        input_shape: of an example.
        num_classes: C; labels are 0 to C − 1.
        record: name of the file that says so, for messages.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    record: str = "preprocess.json"


@dataclass(frozen=True)
class Preprocessed:
    """What data/clients/preprocess.json says.

    Attributes:
        root: the folder data/clients.
        form: of every client's arrays.
        sizes: number of examples by client, sorted by id.
        content: all of the file.
    """

    root: Path
    form: Form
    sizes: Mapping[str, int]
    content: Mapping[str, Any]


def check_client_id(client: str) -> str:
    """Returns `client` if it can name a folder that neither DVC nor git nor a file system loses or takes for another.

    Raises:
        DataError: it holds other characters than letters, digits and `._-`, begins or ends with a dot (DVC leaves
            `.git` out, Windows drops a last dot), or is a name that means something else.
    """
    if not _CLIENT_ID.fullmatch(client):
        raise DataError(
            "a client id must be letters, digits and ._- (at most 100, no dot at the beginning or end, where DVC or a "
            f"file system would lose it), got {client!r}: rename the client"
        )
    if _TAKEN.fullmatch(client):
        raise DataError(
            "a client id must not be test, __pycache__, *.json, *.pyc, *.dvc, dvc.yaml, dvc.lock, dvcfile or a device "
            f"(con, nul, com1, ...), in capitals neither, got {client!r}: rename the client"
        )
    return client


def client_sizes(record: Any, path: Path, step: str) -> dict[str, int]:
    """Returns the clients that partition.json or preprocess.json names, sorted by id, with their numbers of examples.

    What these files name is what the next step must find: a folder's content cannot say which client is missing.

    Args:
        record: the content of the file.
        path: the file; the clients' folders stand beside it.
        step: the step that writes it.

    Raises:
        DataError: the file does not name them, or names no client, or a folder stands there that it does not name.
    """
    with reading(f"{path} must name the clients with their numbers of examples (run the step {step} again)"):
        named = {client: _size(of_client) for client, of_client in sorted(record["clients"].items())}
    for client in named:
        try:
            check_client_id(client)
        except DataError as exc:
            raise DataError(f"{path}: {exc}") from exc
    if not named:
        raise DataError(f"{path} names no client: run the step {step} again")
    others = [
        entry.name
        for entry in path.parent.iterdir()
        if entry.name not in named and entry.name != TEST and entry.is_dir()
    ]
    if others:
        raise DataError(
            f"{path.parent} must hold the clients that {path.name} names, got {len(others)} more "
            f"({', '.join(sorted(others)[:5])}): run the step {step} again"
        )
    return named


def _size(of_client: Any) -> int:
    size = of_client["num_examples"] if isinstance(of_client, dict) else of_client
    return as_size(size)


def read_preprocessed(root: Path) -> Preprocessed:
    """Returns what preprocess.json in the folder `root` says.

    Raises:
        DataError: the file is missing or does not say what there must be, or a folder stands there that it does not
            name.
    """
    path = root / "preprocess.json"
    content = read_json(path)
    form = form_of(content, path)
    return Preprocessed(root, form, client_sizes(content, path, "preprocess"), content)


def form_of(content: Any, path: Path) -> Form:
    """Returns the form that `content`, of the preprocess.json `path`, gives the clients' arrays.

    Raises:
        DataError: it does not give one.
    """
    with reading(f"{path} must say input_shape and num_classes (run the step preprocess again)"):
        return Form(tuple(map(as_size, content["input_shape"])), as_size(content["num_classes"]))


def write_client(folder: Path, x: NDArray[np.float32], y: NDArray[np.int32]) -> None:
    """Writes one client's `x.npy` (N, ...) float32 and `y.npy` (N,) int32, C order, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_npy(folder / "x.npy", np.ascontiguousarray(x, dtype=np.float32))
    write_npy(folder / "y.npy", np.ascontiguousarray(y, dtype=np.int32))


def read_client(folder: Path) -> Examples:
    """Returns one client's x (N, ...) float32 and y (N,) int32.

    Raises:
        DataError: a file is missing, cut short, pickled, or not of these types and lengths.
    """
    x, y = _read_array(folder, "x.npy"), _read_array(folder, "y.npy")
    if x.dtype != np.float32 or y.dtype != np.int32 or x.ndim < 1 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"client {folder.name}: x must be float32 (N, ...) and y int32 (N,), "
            f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    return x, y


def read_checked(folder: Path, form: Form, num_examples: int | None = None) -> Examples:
    """Returns the examples in a client's `folder`.

    Raises:
        DataError: its files are missing, damaged, empty, of another form or another number than `num_examples` (None:
            any number), or not finite.
    """
    examples = read_client(folder)
    check_arrays(folder.name, examples, form, num_examples)
    check_values(folder.name, examples, form)
    return examples


def read_hold_out(preprocessed: Preprocessed) -> Examples:
    """Returns the hold-out examples, which are the server's.

    Raises:
        DataError: see `read_checked`.
    """
    return read_checked(preprocessed.root / TEST, preprocessed.form)


def check_arrays(client: str, examples: Examples, form: Form, num_examples: int | None = None) -> None:
    """Refuses arrays of another shape, order or number of examples; see `read_checked`.

    Raises:
        DataError: names the client.
    """
    x, _ = examples
    if num_examples is not None and len(x) != num_examples:
        raise DataError(f"client {client}: must hold the {num_examples} examples of {form.record}, got {len(x)}")
    if x.shape[1:] != form.input_shape or len(x) == 0:
        allowed = f"(N, {', '.join(map(str, form.input_shape))}), N > 0, as {form.record} says"
        raise DataError(f"client {client}: x must be {allowed}, got {x.shape}")
    if not x.flags.c_contiguous:
        raise DataError(f"client {client}: x must be in C order, got Fortran order")


def check_values(client: str, examples: Examples, form: Form) -> None:
    """Refuses labels beyond the classes, and features that are not finite; see `read_checked`.

    Raises:
        DataError: names the client.
    """
    x, y = examples
    outside = int(np.sum((y < 0) | (y >= form.num_classes)))
    if outside:
        allowed = f"0 to {form.num_classes - 1}, as {form.record} says"
        raise DataError(f"client {client}: labels must be {allowed}, got {outside} others")
    if not np.isfinite(x).all():
        raise DataError(f"client {client}: x must be finite, got {np.sum(~np.isfinite(x))} values that are not")


def _read_array(folder: Path, name: str) -> NDArray[Any]:
    path = folder / name
    try:
        check_regular(path)
        opened = path.open("rb")
    except OSError as exc:
        raise DataError(f"client {folder.name}: cannot read {path}: {exc.strerror}") from exc
    with opened, reading(f"client {folder.name}: cannot read {path}"):
        return read_npy(opened, os.fstat(opened.fileno()).st_size)
