"""Arrays of an .npz file from an untrusted source."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.datasets.checks import Raw, check_memory
from tasks.errors import DataError, reading
from tasks.files import npy_form, read_npy

_BLOCK_BYTES = 2**23
"""Most bytes that are unpacked at a time, unless one example is larger."""


class Archive:
    """An open .npz file. Names of arrays are in any case of letters. Pickled objects are never loaded."""

    def __init__(self, opened: zipfile.ZipFile, where: str) -> None:
        """`where` begins each error."""
        self._opened, self.where = opened, where
        self._members = {member.filename.removesuffix(".npy").lower(): member for member in opened.infolist()}

    @property
    def names(self) -> set[str]:
        """The names of the arrays, in small letters."""
        return set(self._members)

    def read(self, name: str) -> Raw:
        """Returns the array `name`.

        Raises:
            DataError: the array is missing, pickled or damaged, or does not fit into memory when unpacked.
        """
        member = self._member(name)
        with reading(self.whole(name)):
            check_memory(member.file_size, f"{self.where}: {name}")
            with self._opened.open(member) as opened:
                return read_npy(opened, member.file_size)

    def stored(self, name: str) -> "Stored":
        """Returns the array `name` without its values, of which only the header is read.

        Raises:
            DataError: the array is missing or pickled, or its header is damaged.
        """
        member = self._member(name)
        with reading(self.whole(name)):
            opened = self._opened.open(member)
            form = npy_form(opened, member.file_size)
        return Stored(form.shape, form.dtype, form.fortran, self, name, opened)

    def whole(self, name: str) -> str:
        """Returns the beginning of an error of the array `name`."""
        return (
            f"{self.where}: {name} must be a whole array of numbers or text, never objects (save them as .astype(str))"
        )

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            stored = sorted(member.filename.removesuffix(".npy") for member in self._members.values())
            raise DataError(f"{self.where} must hold {name}, got {', '.join(stored) or 'nothing'}")
        return self._members[name]


@dataclass(frozen=True, eq=False)
class Stored:
    """An array of an open .npz file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _fortran: bool
    _archive: Archive
    _name: str
    _opened: IO[bytes]

    def blocks(self) -> Iterator[Raw]:
        """Yields the rows along the first axis, some at a time. It can be called once.

        Arrays in Fortran order are read as a whole, because their rows are not stored together.

        Raises:
            DataError: the array is damaged; or a row, or an array in Fortran order, does not fit into memory.
        """
        if self._fortran:
            self._opened.close()
            yield self._archive.read(self._name)
            return
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        check_memory(width, f"{self._archive.where}: an example of {self._name}")
        rows = max(1, _BLOCK_BYTES // max(1, width))
        with self._opened:
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                with reading(self._archive.whole(self._name)):
                    content = self._opened.read(count * width)
                    block = np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
                yield block


@contextmanager
def opened(path: Path, prefix: str = "") -> Iterator[Archive]:
    """Yields the .npz file `path`; `prefix` begins each error.

    Raises:
        DataError: the file is missing or no .npz file, or it has two arrays of one name.
    """
    where = f"{prefix}{path}"
    if not path.is_file():
        raise DataError(f"{where} must be an .npz file, got {'a folder' if path.is_dir() else 'nothing there'}")
    with reading(f"{where} must be an .npz file, as numpy.savez writes it, and whole"):
        archive = zipfile.ZipFile(path)
    with archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if len({name.lower() for name in names}) < len(names):
            raise DataError(f"{where} must hold each array once, got {', '.join(names)}")
        yield Archive(archive, where)
