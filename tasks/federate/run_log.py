"""The log of a phase while it runs: log.jsonl, one line a round, from which a killed run goes on.

A line holds the rows of all clients. So the file is read one line at a time: it can be larger than the memory.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Identity = dict[str, Any]
"""What identifies a run, in JSON: its settings, data, model and code."""

Line = dict[str, Any]
"""A line of log.jsonl, in JSON: see `tasks.federate.record.RoundLine.json`."""


class RunLog:
    """The log of the run that `identity` identifies."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Opens the file, or makes it."""
        self.path, self._identity = path, identity
        self._digest = _begun(identity)
        self._file = path.open("ab")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def append(self, line: Line) -> None:
        """Appends a round."""
        content = json.dumps(line).encode() + b"\n"
        self._file.write(content)
        self._file.flush()
        self._digest.update(content)

    def synced(self) -> bytes:
        """Returns the digest of the identity and of all lines, when they are on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.digest()

    def cut(self, num_lines: int) -> None:
        """Removes what follows the first `num_lines` lines."""
        self._digest, size = _begun(self._identity), 0
        for number, line in enumerate(_whole_lines(self.path)):
            if number == num_lines:
                break
            self._digest.update(line)
            size += len(line)
        self._file.flush()
        os.truncate(self.path, size)

    def __iter__(self) -> Iterator[Line]:
        """Yields the lines. Damaged lines must have been cut off before."""
        for line in _whole_lines(self.path):
            yield json.loads(line)


def digests(path: Path, identity: Identity) -> Iterator[tuple[int, bytes]]:
    """Yields n, and the digest of the identity and the first n whole lines of the log, for n from 0 on."""
    digest = _begun(identity)
    yield 0, digest.digest()
    for number, line in enumerate(_whole_lines(path), start=1):
        digest.update(line)
        yield number, digest.digest()


def _begun(identity: Identity) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode() + b"\n")


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines with their ends. A killed run can leave a last line that is cut short; it is left out."""
    try:
        opened = path.open("rb")
    except OSError:
        return
    with opened:
        yield from (line for line in opened if line.endswith(b"\n"))
