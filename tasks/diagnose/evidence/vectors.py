"""Vectors of many clients in a scratch file: 10,000 gradients of 10,000 parameters are 800 MB."""

import os
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from tasks.arrays import Floats


class Vectors(Mapping[str, Floats]):
    """Client to its vector (P,), in the order in which they were added. The file has no name and ends with the object.

    A vector is read when it is asked for, so only the vectors in use are in memory, with the bits that were written.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, the file lives as long as the object
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def add(self, client: str, vector: Floats) -> None:
        """Writes the vector of one client."""
        content = np.ascontiguousarray(vector, dtype=np.float64).tobytes()
        written = 0
        while written < len(content):
            written += os.pwrite(self._file.fileno(), content[written:], self._end + written)
        self._places[client] = self._end, len(content)
        self._end += len(content)

    def __getitem__(self, client: str) -> Floats:
        start, size = self._places[client]
        content = os.pread(self._file.fileno(), size, start)
        return np.frombuffer(content, dtype=np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
