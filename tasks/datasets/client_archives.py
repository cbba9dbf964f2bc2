"""`clients`: data that are already divided; a folder with an .npz file for each client."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.clients import TEST, check_client_id
from tasks.datasets.archive import opened
from tasks.datasets.checks import Shaped, check_alike
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.labels import RawLabels, number_labels, read_labelled
from tasks.datasets.listing import entries
from tasks.datasets.resize import Size
from tasks.datasets.spool import Spool
from tasks.datasets.unreadable import LeaveOut, Unreadable
from tasks.errors import DataError
from tasks.settings import DataSettings


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns the examples of each `<client id>.npz` (arrays `x` and `y`), sorted by id, and of `test.npz` if any.

    A client need not have examples of every class. With `data.skip_unreadable`, a client whose file cannot be read is
    left out. A file of another shape or scale than the others is an error in any case, because it is not known which
    file is right.

    Raises:
        DataError: an id cannot name a folder, or a client's arrays are missing, are not as `tasks.datasets.checks` and
            `tasks.datasets.labels` allow, or differ from the other clients' arrays. The error names the client.
    """
    files = {file.stem: file for file in entries(path) if _is_client(file)}
    # `entries` leaves out hidden files; an id that begins with a dot must be refused. macOS writes `._a.npz` next to
    # `a.npz`.
    for file in path.glob(".[!_]*.npz"):
        _is_client(file)
    test_file = files.pop(TEST, None)
    if not files:
        raise DataError(f"{path} must hold a file <client id>.npz for each client, got none")

    unreadable, spool, test_spool = Unreadable(settings), Spool(scratch), Spool(scratch)
    read: dict[str, _Read] = {}
    for client in sorted(files):
        before = len(spool)
        try:
            where = f"client {client} ({files[client]})"
            read[client] = _read(files[client], where, unreadable.of(client), size, spool)
        except DataError as exc:
            spool.cut(before)
            unreadable.lose(client, exc)
    if not read:
        raise DataError(
            f"{path} must hold a file of a client that can be read, got none; the first: {unreadable.first}"
        )
    test = _read(test_file, str(test_file), unreadable.of(TEST), size, test_spool) if test_file else None
    first, *others = read
    resizing = bool(size)
    for client in others:
        where = f"client {client} ({files[client]})"
        check_alike(read[first].x, read[client].x, f"client {first}", where, resizing)
    if test:
        check_alike(read[first].x, test.x, f"client {first}", str(test_file), resizing)

    numbered = number_labels(
        {client: of_client.labels for client, of_client in read.items()}, test.labels if test else None, unreadable
    )
    held_out = unreadable.take(TEST, test_spool.written(), numbered.y[TEST]) if test else None
    kept = ~np.concatenate([unreadable.wrong(client, len(numbered.y[client])) for client in read])
    return Source(
        y=np.concatenate([numbered.y[client] for client in read])[kept],
        features=unfitted(spool.written().select(kept)),
        classes=numbered.classes,
        clients=np.repeat(np.array(list(read)), [len(numbered.y[client]) for client in read])[kept],
        test=held_out,
        skipped=unreadable.skipped(),
    )


def _is_client(file: Path) -> bool:
    if file.suffix != ".npz":
        raise DataError(f"{file} must be an .npz file of a client: move it out of the folder")
    if file.stem != TEST:
        try:
            check_client_id(file.stem)
        except DataError as exc:
            raise DataError(f"{file}: {exc}") from exc
    return True


@dataclass(frozen=True, eq=False)
class _Read:
    x: Shaped
    labels: RawLabels


def _read(file: Path, where: str, leave_out: LeaveOut, size: Size, spool: Spool) -> _Read:
    with opened(file, f"{where}: ") as archive:
        x, y = archive.stored("x"), archive.read("y")
        return _Read(x, read_labelled(x, y, f"{where}: x", f"{where}: y", leave_out, size, spool))
