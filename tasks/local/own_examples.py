"""A client reads its own examples before its local training."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tasks.clients import Examples, Raw, Stored, check_arrays, check_labels, normalised, read_raw, to_publish
from tasks.errors import DataError

NORMALISED = 1 << 26
"""Most bytes of examples that stay in memory from round to round as they are used: 64 MiB. With small clients, reading
takes a fifth of a round."""
MOST = 5 << 24
"""Most bytes of all examples that stay there: 80 MiB. Above `NORMALISED`, they stay as they are stored, which pixels do
in a quarter of the memory, and are normalised in each round."""
_SMALL = 1 << 20
"""Most bytes of a client that stays as it is stored. With a larger one, reading is a small part of a round."""


def own_examples(stored: Stored) -> Examples:
    """Returns the normalised examples with which a client trains in a round. They must not be changed.

    They were checked when the client checked in. Here only what a change since then could break is checked again; a
    value that is not finite shows in the update. The checksums are computed again only if the shard was written after
    this process last read the client. So a disk that changes bytes by itself is not noticed within a run.

    Raises:
        DataError: the client's arrays are missing or damaged, or changed since the step began; they have another form
            or number of examples; or a label is out of range. Its text is for clients.csv.
    """
    version = _version(stored.shard)
    read = _MEMORY.get(stored, version)
    if read is not None and (ready := read.ready) is not None:
        return ready
    try:
        raw = None if read is None else read.kept
        if raw is None:
            raw = read_raw(stored, unchanged=read is not None)
            check_arrays(stored.client, raw, stored.form, stored.num_examples)
            check_labels(stored.client, raw, stored.form)
        examples = normalised(raw[0], stored), raw[1]
    except DataError as exc:
        raise DataError(to_publish(str(exc), stored)) from exc
    for array in examples:
        array.flags.writeable = False
    if read is None:
        _MEMORY.put(stored, version, raw, examples)
    return examples


def remembered(clients: Iterable[Stored]) -> list[Examples | None]:
    """Returns the examples of each client for which `own_examples` would only look into memory; else None.

    It asks once for each shard whether it has changed.
    """
    version = cache(_version)
    reads = [_MEMORY.get(stored, version(stored.shard)) for stored in clients]
    return [None if read is None else read.ready for read in reads]


def _version(shard: Path) -> tuple[int, ...]:
    """Returns numbers that change if another file is at the shard's place, or if it was written."""
    try:
        status = os.stat(shard)
    except OSError:
        return ()
    # The time of modification can be set to any value, the time of change cannot.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class _Read:
    """What was read of a client without a fault.

    Attributes:
        stored: the client.
        version: of its shard.
        kept: its examples, as they are used or as they are stored; None if there was no room for them.
    """

    stored: Stored
    version: tuple[int, ...]
    kept: Raw | None

    @property
    def ready(self) -> Examples | None:
        """The examples, if they are kept as they are used. Features of float32 are always stored so."""
        if self.kept is None or self.kept[0].dtype != np.float32:
            return None
        return np.asarray(self.kept[0], np.float32), self.kept[1]


class Memory:
    """Which clients of one folder were read, and their examples: as many as fit, the first ones.

    Rejected: to drop those that were read longest ago. If all clients take part in each round and do not fit, each
    would be dropped before it is needed again.
    """

    def __init__(self, as_used: int, most: int) -> None:
        """Keeps examples as they are used up to `as_used` bytes, then as they are stored up to `most` in all."""
        self._as_used, self._most, self._bytes, self._folder = as_used, most, 0, Path()
        self._reads: dict[str, _Read] = {}
        self._using = threading.Lock()

    def get(self, stored: Stored, version: tuple[int, ...]) -> _Read | None:
        """Returns what was read of `stored`, if its shard is still of this `version`."""
        with self._using:
            read = self._reads.get(stored.client)
        return read if read and version and (read.version, read.stored) == (version, stored) else None

    def put(self, stored: Stored, version: tuple[int, ...], raw: Raw, examples: Examples) -> None:
        """Keeps a client's examples in one of their two forms, if there is room.

        What was read of another folder is dropped.
        """
        with self._using:
            if stored.shard.parent != self._folder:
                self._reads, self._folder, self._bytes = {}, stored.shard.parent, 0
            before = self._reads.pop(stored.client, None)
            self._bytes -= _num_bytes(before.kept if before else None)
            kept: Raw | None = None
            if self._bytes + _num_bytes(examples) <= self._as_used:
                kept = examples
            elif _num_bytes(raw) <= _SMALL and self._bytes + _num_bytes(raw) <= self._most:
                kept = raw
            self._reads[stored.client] = _Read(stored, version, kept)
            self._bytes += _num_bytes(kept)


def _num_bytes(arrays: Raw | None) -> int:
    return sum(array.nbytes for array in arrays or ())


_MEMORY = Memory(NORMALISED, MOST)
