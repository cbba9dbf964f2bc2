"""Large answers of workers as files in a folder that host and workers share.

Over Dask's connections with TLS, Python handles a large answer in pieces of 16 KB at both ends. In a file, the system
copies it at once, and the host reads the arrays where they are. A worker that cannot write into the folder, or whose
folder is another one with the same path, sends its answers over the connection.
"""

import mmap
import os
import pickle
import re
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil

from tasks.files import remove

_LEAST = 1 << 20
"""Fewest bytes of arrays for which a file is made; below, opening it costs more than it saves."""
_ALIGNED = 64
"""Each array begins at a multiple of this many bytes, as the arrays that TensorFlow returns do."""
_ASKED = "asked"
"""The file from which a worker learns that it sees the host's folder."""
_FOLDER = re.compile(r"answers-(?P<host>.+)-(?P<pid>\d+)-[^-]+")


class Exchange:
    """The host's end.

    Attributes:
        folder: where workers write; empty if there is no shared folder.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder` is empty; None: there is none."""
        self.folder = "" if folder is None else str(folder)
        self._asked = uuid.uuid4().bytes
        if folder is not None:
            (folder / _ASKED).write_bytes(self._asked)

    def is_shared(self, name: str) -> bool:
        """Returns whether the file that `prove` has written came into the folder, and removes it."""
        path = Path(self.folder, name)
        try:
            found = path.read_bytes()
            path.unlink()
        except OSError:
            return False
        return found == self._asked

    def loaded(self, answer: bytes) -> Any:
        """Returns what `written` was given, and removes the file; the arrays are the caller's own.

        Raises:
            OSError: the file is not there.
        """
        value, name, sizes = pickle.loads(answer)
        if not name:
            return value
        path = Path(self.folder, name)
        with path.open("rb") as opened:
            path.unlink()
            whole = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
        arrays = [whole[begin : begin + size] for begin, size in zip(_begins(sizes), sizes, strict=True)]
        return pickle.loads(value, buffers=arrays)


@contextmanager
def exchange(folder: Path | None) -> Iterator[Exchange]:
    """Yields the host's end, with a folder of its own in `folder`, which is gone after the block.

    Folders of processes that were killed here are removed. None: all answers come over Dask's connections.
    """
    if folder is None:
        yield Exchange(None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("answers-*"):
        owner = _FOLDER.fullmatch(left.name)
        if owner and owner["host"] == socket.gethostname() and not psutil.pid_exists(int(owner["pid"])):
            with suppress(OSError):
                remove(left)
    prefix = f"answers-{socket.gethostname()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as own:
        yield Exchange(Path(own).resolve())


def prove(folder: str) -> str:
    """Returns the name of a new file with what the host has written into `folder`; empty if a worker cannot do that."""
    name = uuid.uuid4().hex
    try:
        Path(folder, name).write_bytes(Path(folder, _ASKED).read_bytes())
    except OSError:
        return ""
    return name


def written(value: Any, folder: str) -> bytes:
    """Returns `value` as an answer for `Exchange.loaded`; if its arrays are large, they are in a file in `folder`.

    An empty `folder`, or one that cannot be written to: everything is in the answer.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = [part.nbytes for part in parts]
    if folder and sum(sizes) >= _LEAST:
        path = Path(folder, uuid.uuid4().hex)
        try:
            with path.open("xb") as opened:
                for begin, part in zip(_begins(sizes), parts, strict=True):
                    opened.seek(begin)
                    opened.write(part)
            return pickle.dumps((head, path.name, sizes))
        except OSError:  # the disk is full, or the host has ended
            path.unlink(missing_ok=True)
    return pickle.dumps((value, "", []), protocol=5)


def _begins(sizes: Sequence[int]) -> list[int]:
    """Returns where arrays of these sizes begin in a file."""
    ends = accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)
    return [0, *ends][: len(sizes)]
