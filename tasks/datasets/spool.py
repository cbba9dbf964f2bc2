"""Features in a scratch file, for data that are larger than the memory."""

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Features, Ints
from tasks.errors import DataError, RunError

_WINDOW = 2**20
"""Most bytes that are read at a time. Neighbouring rows are read together."""

_GAP = 2**15
"""Most bytes between two rows that are read and dropped: copying 32 KB takes about as long as one more system call."""


class Spooled:
    """Features (N, ...) of examples in a scratch file, read by `x[indices]`. No page of the file stays in memory.

    Attributes:
        shape: N, and the shape of an example.
        dtype: float32, or uint8 for images of 8 bits.
    """

    def __init__(self, file: IO[bytes], places: Ints, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """`places` are the rows of `file`, (N,), and `shape` is the shape of an example."""
        self._file, self._places = file, places
        self.shape, self.dtype = (len(places), *shape), dtype

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, chosen: slice | NDArray[Any]) -> Features:
        """Returns the examples `chosen` (a slice, positions, or truth values) as an array in C order."""
        places = self._places[chosen]
        order = np.argsort(places, kind="stable")
        rows = np.empty((len(places), *self.shape[1:]), dtype=self.dtype)
        self._fill(rows.reshape(len(rows), math.prod(self.shape[1:])).view(np.uint8), places[order])
        if (np.diff(order) == 1).all():
            return rows
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return rows[back]

    def _fill(self, rows: NDArray[np.uint8], places: Ints) -> None:
        """Reads the ascending `places` of the file into `rows`, (n, bytes of an example)."""
        width = rows.shape[1]
        steps = np.diff(places)
        far, once = np.flatnonzero(steps > 1 + _GAP // width) + 1, (steps > 0).all()
        start, most = 0, max(1, _WINDOW // width)
        for end in [*far.tolist(), len(places)]:
            while start < end:
                first = int(places[start])
                stop = start + int(np.searchsorted(places[start:end], first + most)) if end - start > 1 else end
                span = int(places[stop - 1]) + 1 - first
                if once and span == stop - start:
                    self._read(rows[start:stop], first * width)
                else:
                    window = np.empty((span, width), dtype=np.uint8)
                    self._read(window, first * width)
                    rows[start:stop] = window[places[start:stop] - first]
                start = stop

    def select(self, chosen: NDArray[Any]) -> "Spooled":
        """Returns the examples `chosen` (positions, or truth values) without reading them."""
        return Spooled(self._file, self._places[chosen], self.shape[1:], self.dtype)

    def _read(self, rows: NDArray[np.uint8], offset: int) -> None:
        rest = rows.reshape(-1).data
        while rest:
            count = os.preadv(self._file.fileno(), [rest], offset)
            if not count:
                raise OSError("the scratch file of the raw data is shorter than it was written")
            rest, offset = rest[count:], offset + count


SourceArray: TypeAlias = Features | Spooled
"""Features (N, ...) in memory or in a scratch file; `x[indices]` is an array, `select` keeps them there."""


def select(x: SourceArray, chosen: NDArray[np.bool_]) -> SourceArray:
    """Returns the examples `chosen`, (N,); features in a scratch file are not read."""
    return x.select(chosen) if isinstance(x, Spooled) else x[chosen]


class Spool:
    """Writes features to a scratch file, block by block. The first block decides the shape and the type.

    The file has no name, so nothing is left of it when the process ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        """The file is on the disk of `folder`, or, if that does not exist, of the nearest folder above it."""
        self._folder = next(above for above in (folder, *folder.absolute().parents) if above.is_dir())
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._len = 0
        self._shape: tuple[int, ...] = (0,)
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def __len__(self) -> int:
        return self._len

    def expect(self, num_examples: int, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        """Refuses examples that do not fit on the disk, before they are written.

        Raises:
            DataError: `num_examples` of this shape and type need more bytes than are free.
        """
        needed, free = num_examples * math.prod(shape) * dtype.itemsize, shutil.disk_usage(self._folder).free
        if needed > free:
            raise DataError(
                f"{where} must fit on the disk of {self._folder} ({free / 2**30:.0f} GB free), got "
                f"{needed / 2**30:,.0f} GB when unpacked: free some space"
            )

    def takes(self, block: Features) -> bool:
        """Whether `block` has the shape and the type of the examples so far."""
        return not self._len or (block.shape[1:], block.dtype) == (self._shape, self._dtype)

    def append(self, block: Features) -> None:
        """Adds examples (n, ...), for which `takes` is true.

        Raises:
            RunError: the disk is full. It is no DataError, because no record is to blame.
        """
        if not self._len:
            self._shape, self._dtype = block.shape[1:], block.dtype
        rest = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        offset = self._len * math.prod(self._shape) * self._dtype.itemsize
        try:
            while rest:
                count = os.pwrite(self._file.fileno(), rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as exc:
            raise RunError(
                f"the raw data must fit on the disk of {self._folder}, where partition keeps them until they are "
                f"divided, got {exc.strerror} after {offset / 2**30:.2f} GB: free some space"
            ) from exc
        self._len += len(block)

    def cut(self, num_examples: int) -> None:
        """Drops all examples after the first `num_examples`."""
        self._len = num_examples

    def written(self) -> Spooled:
        """Returns all examples."""
        return Spooled(self._file, np.arange(self._len), self._shape, self._dtype)
