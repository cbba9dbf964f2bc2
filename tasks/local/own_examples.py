"""A client reads its own examples before its local training."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tasks.clients import Examples, Stored, check_arrays, check_labels, normalised, read_raw, to_publish
from tasks.errors import DataError

REMEMBERED = 1 << 26
"""Most bytes of examples that stay in memory from round to round: 64 MB. With small clients, reading takes a fifth of a
round."""


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
    before = _MEMORY.get(stored, version)
    if before is not None and before.examples is not None:
        return before.examples
    try:
        raw = read_raw(stored, unchanged=before is not None)
        check_arrays(stored.client, raw, stored.form, stored.num_examples)
        check_labels(stored.client, raw, stored.form)
        examples = normalised(raw[0], stored), raw[1]
    except DataError as exc:
        raise DataError(to_publish(str(exc), stored)) from exc
    for array in examples:
        array.flags.writeable = False
    if before is None:
        _MEMORY.put(_Read(stored, version, examples))
    return examples


def remembered(clients: Iterable[Stored]) -> list[Examples | None]:
    """Returns the examples of each client for which `own_examples` would only look into memory; else None.

    It asks once for each shard whether it has changed.
    """
    version = cache(_version)
    reads = [_MEMORY.get(stored, version(stored.shard)) for stored in clients]
    return [None if read is None else read.examples for read in reads]


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
        examples: None if there was no room for them.
    """

    stored: Stored
    version: tuple[int, ...]
    examples: Examples | None

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.examples or ())


class Memory:
    """Which clients of one folder were read, and their examples: as many as fit, the first ones.

    Rejected: to drop those that were read longest ago. If all clients take part in each round and do not fit, each
    would be dropped before it is needed again.
    """

    def __init__(self, most_bytes: int) -> None:
        """Keeps at most `most_bytes`."""
        self._most, self._left, self._folder = most_bytes, most_bytes, Path()
        self._reads: dict[str, _Read] = {}
        self._using = threading.Lock()

    def get(self, stored: Stored, version: tuple[int, ...]) -> _Read | None:
        """Returns what was read of `stored`, if its shard is still of this `version`."""
        with self._using:
            read = self._reads.get(stored.client)
        return read if read and version and (read.version, read.stored) == (version, stored) else None

    def put(self, read: _Read) -> None:
        """Keeps the examples, if there is room; what was read of another folder is dropped."""
        client, folder = read.stored.client, read.stored.shard.parent
        with self._using:
            if folder != self._folder:
                self._reads, self._folder, self._left = {}, folder, self._most
            before = self._reads.pop(client, None)
            self._left += before.num_bytes if before else 0
            kept = read if read.num_bytes <= self._left else replace(read, examples=None)
            self._reads[client] = kept
            self._left -= kept.num_bytes


_MEMORY = Memory(REMEMBERED)
