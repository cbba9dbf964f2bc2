"""A client reads its own examples before its local training."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tasks.clients import Examples, Stored, check_arrays, check_labels, normalised, read_raw, to_publish
from tasks.errors import DataError

REMEMBERED = 1 << 26
"""Most bytes of examples that stay in memory from round to round: 64 MB. With small clients, reading takes a fifth of a
round."""


def own_examples(stored: Stored) -> Examples:
    """Returns the normalised examples with which a client trains in a round. They must not be changed.

    They were checked when the client checked in. Here only what a change since then could break is checked again; a
    value that is not finite shows in the update.

    Raises:
        DataError: the client's arrays are missing or damaged, or changed since the step began; they have another form
            or number of examples; or a label is out of range. Its text is for clients.csv.
    """
    version = _version(stored.shard)
    remembered = _MEMORY.get(stored, version)
    if remembered is not None:
        return remembered
    try:
        raw = read_raw(stored)
        check_arrays(stored.client, raw, stored.form, stored.num_examples)
        check_labels(stored.client, raw, stored.form)
        examples = normalised(raw[0], stored), raw[1]
    except DataError as exc:
        raise DataError(to_publish(str(exc), stored)) from exc
    _MEMORY.put(_Read(stored, version, examples))
    return examples


def _version(shard: Path) -> tuple[int, ...]:
    """Returns numbers that change if another file is at the shard's place, or if it was written."""
    try:
        status = os.stat(shard)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class _Read:
    stored: Stored
    version: tuple[int, ...]
    examples: Examples

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.examples)


class Memory:
    """Examples of clients of one folder: as many as fit, the first ones.

    Rejected: to drop those that were read longest ago. If all clients take part in each round and do not fit, each
    would be dropped before it is needed again.
    """

    def __init__(self, most_bytes: int) -> None:
        """Keeps at most `most_bytes`."""
        self._most, self._left, self._folder = most_bytes, most_bytes, Path()
        self._reads: dict[str, _Read] = {}
        self._using = threading.Lock()

    def get(self, stored: Stored, version: tuple[int, ...]) -> Examples | None:
        """Returns the examples of `stored`, if they are here and its shard is still of this `version`."""
        with self._using:
            read = self._reads.get(stored.client)
        return read.examples if read and version and (read.version, read.stored) == (version, stored) else None

    def put(self, read: _Read) -> None:
        """Keeps the examples, if there is room; those of another folder are dropped."""
        for array in read.examples:
            array.flags.writeable = False
        client, folder = read.stored.client, read.stored.shard.parent
        with self._using:
            if folder != self._folder:
                self._reads, self._folder, self._left = {}, folder, self._most
            before = self._reads.pop(client, None)
            self._left += before.num_bytes if before else 0
            if read.num_bytes <= self._left:
                self._reads[client] = read
                self._left -= read.num_bytes


_MEMORY = Memory(REMEMBERED)
