"""The vectors that clients keep from one of their rounds to the next, on disk.

SCAFFOLD and FedDyn keep a vector (P,) for each of K clients. The clients are simulated here, so the server stores them,
and K · P numbers need not fit into memory. A vector is read when its client trains.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.files import naming_path, scratch_file
from tasks.parameters import Params

_MOST_FILES = 32
"""Files in use at a time. Each round with new vectors adds one; then all vectors are written into one again."""


class Vectors:
    """Vectors (P,) one after the other in a file. It stays open, so they remain if its name is removed."""

    def __init__(self, descriptor: int, num_params: int, begin: int = 0) -> None:
        """Takes over the open file; the first vector begins at byte `begin`."""
        self._descriptor, self._num_params, self._begin = descriptor, num_params, begin

    def __getitem__(self, row: int) -> Params:
        num_bytes = 4 * self._num_params
        content = os.pread(self._descriptor, num_bytes, self._begin + row * num_bytes)
        return np.frombuffer(content, np.float32)

    def at(self, begin: int) -> "Vectors":
        """Returns the same file, whose first vector begins at byte `begin`."""
        return Vectors(os.dup(self._descriptor), self._num_params, begin)

    def __del__(self) -> None:
        os.close(self._descriptor)


class KeptWriter:
    """Writes vectors into a new file without a name, which a killed run cannot leave behind."""

    def __init__(self, folder: Path | None) -> None:
        """Makes the file in `folder`; None: in the system's folder for temporary files."""
        self._folder, self._file = folder, scratch_file(folder)
        self.clients: list[str] = []

    def write(self, client: str, vector: Params) -> None:
        """Adds the vector (P,) of a client."""
        with naming_path(self._folder):
            self._file.write(np.ascontiguousarray(vector, np.float32).data)
        self.clients.append(client)

    def close(self, num_params: int) -> Vectors:
        """Returns the vectors, in their order."""
        with naming_path(self._folder), self._file:
            self._file.flush()
            return Vectors(os.dup(self._file.fileno()), num_params)


class Kept(Mapping[str, Params]):
    """The vector (P,) of each client, zero before its first round. A value that never changes; see `updated`."""

    def __init__(
        self,
        clients: Iterable[str],
        num_params: int,
        folder: Path | None = None,
        places: Mapping[str, tuple[Vectors, int]] | None = None,
    ) -> None:
        """Keeps where the vectors are.

        Args:
            clients: all clients.
            num_params: P.
            folder: for new files; None: the system's folder for temporary files.
            places: the file and row of each vector that is not zero.
        """
        self._clients, self.num_params, self._folder = dict.fromkeys(clients), num_params, folder
        self._places = dict(places or {})
        self._zero = np.zeros(num_params, np.float32)

    def __getitem__(self, client: str) -> Params:
        if client in self._places:
            vectors, row = self._places[client]
            return vectors[row]
        if client not in self._clients:
            raise KeyError(client)
        return self._zero

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def __deepcopy__(self, memo: object) -> "Kept":
        return self

    @property
    def written(self) -> list[str]:
        """The clients that have taken part; the vectors of the others are zero."""
        return [client for client in self._clients if client in self._places]

    def writer(self) -> KeptWriter:
        """Returns a writer for the vectors of one round."""
        return KeptWriter(self._folder)

    def read_from(self, vectors: Vectors, clients: Sequence[str]) -> "Kept":
        """Returns the vectors of `clients`, in this order in a file; clients that this run does not have are left out.

        The vectors of all other clients are zero.
        """
        places = {client: (vectors, row) for row, client in enumerate(clients) if client in self._clients}
        return Kept(self._clients, self.num_params, self._folder, places)

    def updated(self, fresh: KeptWriter) -> "Kept":
        """Returns the same with the vectors that were written to `fresh`, which ends with this call."""
        return self._moved(fresh, self._places)

    def _moved(self, fresh: KeptWriter, places: Mapping[str, tuple[Vectors, int]]) -> "Kept":
        vectors = fresh.close(self.num_params)
        places = {**places, **{client: (vectors, row) for row, client in enumerate(fresh.clients)}}
        result = Kept(self._clients, self.num_params, self._folder, places)
        if len({id(vectors) for vectors, _ in places.values()}) <= _MOST_FILES:
            return result
        whole = result.writer()
        for client in result.written:
            whole.write(client, result[client])
        return result._moved(whole, {})
