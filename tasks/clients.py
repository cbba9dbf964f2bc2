"""The clients' data on disk: the ids, and how the arrays are written, read and checked.

In data/partition and data/clients each client has a folder with `x.npy` and `y.npy`. The hold-out data have one too.
partition.json or preprocess.json, next to the folders, names the clients that must be there. Only this module reads and
checks these arrays; the one exception is the graph of a client's local training (local/graph_files.py).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Features, as_float32
from tasks.errors import DataError, reading
from tasks.files import as_size, check_regular, read_json, read_npy, write_npy

CLIENTS = Path("data/clients")
"""The folder of the preprocessed data in a workspace."""

TEST = "test"
"""The folder of the hold-out data, next to the clients' folders; no client can have this id."""

Examples = tuple[NDArray[np.float32], NDArray[np.int32]]
"""x (N, ...) and labels y (N,)."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_TAKEN = re.compile(
    r"test|__pycache__|dvc\.yaml|dvc\.lock|dvcfile|.*\.(json|dvc|pyc)|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.I
)
"""Names that no client's folder can have, in any case of letters, because some file systems ignore the case.

DVC leaves out the names in .dvcignore and in its own defaults. con, prn, … are devices on Windows. *.json is the name
of files next to the clients' folders.
"""


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
class Preprocessed:
    """The content of data/clients/preprocess.json.

    Attributes:
        root: the folder data/clients.
        form: form of every client's arrays.
        sizes: number of examples by client, sorted by id.
        content: the whole file.
    """

    root: Path
    form: Form
    sizes: Mapping[str, int]
    content: Mapping[str, Any]


def check_client_id(client: str) -> str:
    """Returns `client` if DVC, git and every file system keep a folder of this name.

    Raises:
        DataError: the id (1) has characters other than letters, digits and `._-`, or more than 100, (2) begins with a
            dot (DVC leaves out `.git`), (3) ends with a dot (Windows drops it), or (4) has another meaning.
    """
    if not _CLIENT_ID.fullmatch(client):
        raise DataError(
            "a client id must be 1 to 100 letters, digits and ._-, without a dot at the beginning or end (DVC or a "
            f"file system would lose it), got {client!r}: rename the client"
        )
    if _TAKEN.fullmatch(client):
        raise DataError(
            "a client id must not be test, __pycache__, *.json, *.pyc, *.dvc, dvc.yaml, dvc.lock, dvcfile or a device "
            f"(con, nul, com1, ...), in small or capital letters, got {client!r}: rename the client"
        )
    return client


def client_sizes(record: Any, path: Path, step: str) -> dict[str, int]:
    """Returns the clients in partition.json or preprocess.json, sorted by id, with their numbers of examples.

    The next step must find exactly these clients: the folders alone do not show which client is missing.

    Args:
        record: the content of the file.
        path: the file; the clients' folders are next to it.
        step: the step that writes it.

    Raises:
        DataError: (1) the file has no clients with numbers of examples, (2) a client's id is not allowed, or (3) there
            is a folder of another name.
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
    """Returns the content of preprocess.json in the folder `root`.

    Raises:
        DataError: the file is missing or incomplete, or there is a folder that it does not name.
    """
    path = root / "preprocess.json"
    content = read_json(path)
    form = form_of(content, path)
    return Preprocessed(root, form, client_sizes(content, path, "preprocess"), content)


def form_of(content: Any, path: Path) -> Form:
    """Returns the form of the clients' arrays, from `content`, the content of the preprocess.json at `path`.

    Raises:
        DataError: `content` has no input_shape or no num_classes.
    """
    with reading(f"{path} must say input_shape and num_classes (run the step preprocess again)"):
        return Form(tuple(map(as_size, content["input_shape"])), as_size(content["num_classes"]))


def write_client(folder: Path, x: Features, y: NDArray[np.int32]) -> None:
    """Writes one client's `x.npy` (N, ...) uint8 or float32 and `y.npy` (N,) int32, C order, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_npy(folder / "x.npy", x if x.dtype == np.uint8 else np.ascontiguousarray(x, dtype=np.float32))
    write_npy(folder / "y.npy", np.ascontiguousarray(y, dtype=np.int32))


def read_client(folder: Path) -> Examples:
    """Returns one client's x (N, ...) float32 and y (N,) int32; a stored uint8 value v becomes v / 255.

    Raises:
        DataError: a file is missing, cut short, pickled, or not of these types and lengths.
    """
    x, y = _read_array(folder, "x.npy"), _read_array(folder, "y.npy")
    if x.dtype not in (np.float32, np.uint8) or y.dtype != np.int32 or x.ndim < 1 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"client {folder.name}: x must be float32 or uint8 (N, ...) and y int32 (N,), "
            f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    return as_float32(x), y


def read_checked(folder: Path, form: Form, num_examples: int | None = None) -> Examples:
    """Returns the examples in a client's `folder`.

    Raises:
        DataError: (1) a file is missing, damaged or empty, (2) the arrays do not have the `form`, (3) they do not have
            `num_examples` examples (None: any number), or (4) a feature is not finite.
    """
    examples = read_client(folder)
    check_arrays(folder.name, examples, form, num_examples)
    check_values(folder.name, examples, form)
    return examples


def read_hold_out(preprocessed: Preprocessed) -> Examples:
    """Returns the hold-out examples, which only the server has.

    Raises:
        DataError: see `read_checked`.
    """
    return read_checked(preprocessed.root / TEST, preprocessed.form)


def check_arrays(client: str, examples: Examples, form: Form, num_examples: int | None = None) -> None:
    """Refuses arrays with a wrong shape, memory order or number of examples; see `read_checked`.

    Raises:
        DataError: with the client's id.
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
    """Refuses labels outside 0 … C − 1 and features that are not finite; see `read_checked`.

    Raises:
        DataError: with the client's id.
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
