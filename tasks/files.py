"""How steps exchange files: whole or not at all, and the same bytes for the same values."""

import csv
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, reading

TEST = "test"
"""The folder of the hold-out data beside the clients' folders; no client may have this id."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


def check_client_id(client: str) -> str:
    """Returns `client` if it can name a folder: letters, digits and `._-`, not `.`, `..`, `test` or `*.json`.

    Raises:
        DataError: otherwise.
    """
    if not _CLIENT_ID.fullmatch(client) or client.strip(".") == "" or client == TEST or client.endswith(".json"):
        raise DataError(
            f"a client id must be letters, digits and ._- (at most 100, not {TEST!r} or *.json), got {client!r}"
        )
    return client


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends, what was written there takes `path`'s place.

    A file is replaced in one step, a folder in two renames. If the block raises, `path` stays as it was. Readers and
    DVC never see half a file, and a link into DVC's cache is replaced, never written through.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fresh = holder / path.name
        yield fresh
        if fresh.is_file():
            with fresh.open("rb+") as written:
                os.fsync(written.fileno())
        if fresh.is_dir() and path.exists():
            path.rename(holder / "old")
        try:
            os.replace(fresh, path)
        except OSError:
            if (holder / "old").exists():
                (holder / "old").rename(path)
            raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` with sorted keys, two spaces and a final newline. NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the value in `path`.

    Raises:
        DataError: there is no such file, or it is not JSON.
    """
    with reading(f"{path} must be JSON"), _existing(path) as opened:
        return json.load(opened)


@contextmanager
def _existing(path: Path) -> Iterator[TextIO]:
    """Opens the text of a file that an earlier step made."""
    try:
        opened = path.open(encoding="utf-8", newline="")
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing: run the step that makes it first") from exc
    with opened:
        yield opened


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV; floats with the shortest digits that read back the same, None as an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as fresh:
        fresh.write_text(text.getvalue(), encoding="utf-8")


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Returns the rows of a CSV as text by column.

    Raises:
        DataError: there is no such file; it is no CSV in UTF-8 with a header; a column stands there twice; a row has
            not as many cells as the header; or one of `columns` is missing.
    """
    with reading(f"{path} must be a CSV file in UTF-8"), _existing(path) as opened:
        reader = csv.DictReader(opened)
        header, rows = reader.fieldnames, list(reader)
    if header is None:
        raise DataError(f"{path} is empty: run the step that makes it again")
    if len(set(header)) < len(header):
        raise DataError(f"{path} must have each column once, got {', '.join(header)[:300]}")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise DataError(f"{path}: row {number} has not as many cells as the header")
    for name in columns:
        if name not in header:
            raise DataError(f"{path} has no column {name}, got {', '.join(header)[:300]}")
    return rows


def write_client(folder: Path, x: NDArray[np.float32], y: NDArray[np.int32]) -> None:
    """Writes one client's `x.npy` (N, ...) float32 and `y.npy` (N,) int32, C order, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", np.ascontiguousarray(x, dtype=np.float32), allow_pickle=False)
    np.save(folder / "y.npy", np.ascontiguousarray(y, dtype=np.int32), allow_pickle=False)


def read_client(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns one client's x (N, ...) float32 and y (N,) int32.

    Raises:
        DataError: a file is missing, cut short, pickled, or not of these types and lengths.
    """
    try:
        x = np.load(folder / "x.npy", allow_pickle=False)
        y = np.load(folder / "y.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, MemoryError) as exc:  # a damaged header raises any
        raise DataError(f"client {folder.name}: cannot read {folder}: {exc}") from exc
    if x.dtype != np.float32 or y.dtype != np.int32 or x.ndim < 1 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"client {folder.name}: x must be float32 (N, ...) and y int32 (N,), "
            f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    return x, y


def client_ids(folder: Path) -> list[str]:
    """Returns the ids of the clients that have a folder in `data/partition` or `data/clients`, sorted.

    Raises:
        DataError: there is none.
    """
    ids = (
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name != TEST)
        if folder.is_dir()
        else []
    )
    if not ids:
        raise DataError(f"{folder} holds no client: run the step that makes it first")
    return ids
