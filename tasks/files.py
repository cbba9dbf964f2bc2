"""How steps exchange files: a file is written as a whole or not at all, and equal values give equal bytes."""

import csv
import errno
import io
import itertools
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, reading, shown

_format: Any = np.lib.format  # NumPy does not annotate it
_BLOCK = 20_000
"""Rows of a CSV that are in memory as text at a time: 20 MB for clients.csv."""


def as_size(value: Any) -> int:
    """Returns `value` if it can be the length of an axis: an integer from 1 to 2^31 − 1.

    Raises:
        TypeError: it cannot. Call this within `reading`.
    """
    if type(value) is not int or not 1 <= value < 2**31:
        raise TypeError(f"a length must be an integer from 1 to 2147483647, got {shown(value)}")
    return value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`. At the end of the block, the file or folder there replaces `path`.

    A file is replaced in one step, a folder in two renames. If the block raises, `path` stays as it was. Readers and
    DVC never see a half-written file. A link into DVC's cache is replaced; its target is never written to. `path` is
    added to an OSError that names no file, for example the error of a full disk. Missing folders above `path` are made,
    and removed if the block raises and they are empty.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with naming_path(path):
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
        with suppress(OSError):  # a folder is not empty
            for folder in made:
                folder.rmdir()


@contextmanager
def naming_path(path: Path | None) -> Iterator[None]:
    """Adds `path` to an OSError that names no file, for example the error of a full disk."""
    try:
        yield
    except OSError as exc:
        exc.filename = exc.filename or (None if path is None else str(path))
        raise


def scratch_file(folder: Path | None) -> IO[bytes]:
    """Returns a new file without a name in `folder` (None: the system's folder for temporary files).

    It goes when it is closed, however the process ends.
    """
    with naming_path(folder):
        return tempfile.TemporaryFile(dir=folder)


def remove(path: Path) -> None:
    """Removes a file, a link (not its target) or a folder with its content. A missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON with sorted keys, an indent of two and a final newline. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the value in `path`.

    Raises:
        DataError: the file is missing, or it is not JSON.
    """
    with reading(f"{path} must be JSON"), _existing(path) as opened:
        return json.load(opened)


@contextmanager
def _existing(path: Path) -> Iterator[TextIO]:
    """Opens a text file that an earlier step writes."""
    check_regular(path)
    try:
        opened = path.open(encoding="utf-8", newline="")
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing: run the step that makes it first") from exc
    with opened:
        yield opened


def check_regular(path: Path) -> None:
    """Raises OSError if `path` exists but is not a file. Opening a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, "it is not a file" if kind == errno.EINVAL else os.strerror(kind), str(path))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV, row by row. Floats get the fewest digits that read back as the same number; None is an empty cell.

    `rows` is read once, and only one row is in memory.
    """
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(columns), lineterminator="\n", extrasaction="raise")
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class Block:
    """Some successive rows of a CSV, as text.

    Attributes:
        header: the columns' names.
        first: the number of the first row; the row below the header has the number 1.
        rows: the cells of each row, as many as the header has names.
    """

    header: list[str]
    first: int
    rows: list[list[str]]

    def column(self, name: str) -> list[str]:
        """Returns the cells of the column `name`, which must be in the header."""
        place = self.header.index(name)
        return [row[place] for row in self.rows]


def read_blocks(path: Path, columns: Sequence[str] = ()) -> Iterator[Block]:
    """Yields the rows of a CSV, at most 20,000 at a time, so that a long file is never in memory as a whole.

    A file without a row gives one block without a row.

    Raises:
        DataError: (1) the file is missing, (2) it is not a CSV in UTF-8 with a header, (3) it has two columns of the
            same name, (4) one of `columns` is missing, or (5) a row does not have as many cells as the header.
    """
    damaged = f"{path} must be a CSV file in UTF-8"
    with ExitStack() as stack:
        with reading(damaged):
            reader = csv.reader(stack.enter_context(_existing(path)))
            header = next(reader, None)
        if header is None:
            raise DataError(f"{path} is empty: run the step that makes it again")
        if len(set(header)) < len(header):
            raise DataError(f"{path} must have each column once, got {', '.join(header)[:300]}")
        for name in columns:
            if name not in header:
                raise DataError(f"{path} has no column {name}, got {', '.join(header)[:300]}")
        filled, first = filter(None, reader), 1  # a blank line is no row
        while True:
            with reading(damaged):
                rows = list(itertools.islice(filled, _BLOCK))
            for number, row in enumerate(rows, start=first):
                if len(row) != len(header):
                    raise DataError(f"{path}: row {number} must have as many cells as the header")
            if rows or first == 1:
                yield Block(header, first, rows)
            if len(rows) < _BLOCK:
                return
            first += len(rows)


def iterate_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV as text by column. Raises the errors of `read_blocks`."""
    for block in read_blocks(path, columns):
        for row in block.rows:
            yield dict(zip(block.header, row, strict=True))


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Returns the rows of a CSV as text by column, for a file of few rows. Raises the errors of `read_blocks`."""
    return list(iterate_rows(path, columns))


@lru_cache(maxsize=1024)
def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Returns the header with which `np.save` begins the .npy of an array in C order."""
    opened = io.BytesIO()
    descr = _format.dtype_to_descr(dtype)
    _format.write_array_header_1_0(opened, {"descr": descr, "fortran_order": False, "shape": shape})
    return opened.getvalue()


def read_npy(opened: IO[bytes], size: int) -> NDArray[Any]:
    """Returns the array of a .npy of `size` bytes, never pickled objects.

    Call this within `reading`, because NumPy's exceptions for a damaged header cannot be listed.

    Raises:
        ValueError: see `npy_form`.
    """
    npy_form(opened, size)
    opened.seek(0)
    with _PARSING:
        array: NDArray[Any] = _format.read_array(opened, allow_pickle=False)
    return array


@dataclass(frozen=True)
class NpyForm:
    """The header of a .npy: the shape, the type, and whether the first axis is the fastest (Fortran order)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


def npy_form(opened: IO[bytes], size: int) -> NpyForm:
    """Returns the header of a .npy of `size` bytes; `opened` is then at the first value.

    Raises:
        ValueError: the format's version is not 1.0 or 2.0, the objects are pickled, or the header promises more or
            fewer bytes than there are. So a damaged header cannot make the program allocate terabytes.
    """
    version = _format.read_magic(opened)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format, but only 1.0 and 2.0 can be read")
    with _PARSING:
        shape, fortran, dtype = _HEADERS[version](opened)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    promised, present = math.prod(shape) * dtype.itemsize, size - opened.tell()
    if promised != present or min(shape, default=0) < 0:
        raise ValueError(f"{present} bytes of data where the header promises {promised} (shape {shape}, {dtype})")
    return NpyForm(shape, dtype, fortran)


_PARSING = threading.Lock()
"""NumPy parses a header as Python code. In Python 3.11 two threads that do so at once can get a SystemError."""

_HEADERS = {(1, 0): _format.read_array_header_1_0, (2, 0): _format.read_array_header_2_0}
