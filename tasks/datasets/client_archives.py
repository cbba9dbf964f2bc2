"""`clients`: data that are already divided; a folder with an .npz file for each client."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST, check_client_id
from tasks.datasets.archive import read_array
from tasks.datasets.checks import Raw, check_alike
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.labels import RawLabels, number_labels, read_labelled
from tasks.datasets.listing import entries
from tasks.datasets.resize import Size, resized
from tasks.datasets.unreadable import LeaveOut, Unreadable
from tasks.errors import DataError
from tasks.settings import DataSettings


def read(settings: DataSettings, path: Path, seed: int, size: Size = ()) -> Source:
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

    unreadable = Unreadable(settings)
    read: dict[str, _Read] = {}
    for client in sorted(files):
        try:
            read[client] = _read(files[client], f"client {client} ({files[client]})", unreadable.of(client), size)
        except DataError as exc:
            unreadable.lose(client, exc)
    if not read:
        raise DataError(
            f"{path} must hold a file of a client that can be read, got none; the first: {unreadable.first}"
        )
    test = _read(test_file, str(test_file), unreadable.of(TEST), size) if test_file else None
    first, *others = read
    resizing = bool(size)
    for client in others:
        where = f"client {client} ({files[client]})"
        check_alike(read[first].raw, read[client].raw, f"client {first}", where, resizing)
    if test:
        check_alike(read[first].raw, test.raw, f"client {first}", str(test_file), resizing)

    numbered = number_labels(
        {client: of_client.labels for client, of_client in read.items()}, test.labels if test else None, unreadable
    )
    parts = [unreadable.take(client, of_client.x, numbered.y[client]) for client, of_client in read.items()]
    held_out = unreadable.take(TEST, test.x, numbered.y[TEST]) if test else None
    return Source(
        y=np.concatenate([part.y for part in parts]),
        features=unfitted(np.concatenate([part.x for part in parts])),
        classes=numbered.classes,
        clients=np.repeat(np.array(list(read)), [len(part.y) for part in parts]),
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
    raw: Raw
    x: NDArray[np.float32]
    labels: RawLabels


def _read(file: Path, where: str, leave_out: LeaveOut, size: Size) -> _Read:
    try:
        x, y = read_array(file, "x"), read_array(file, "y")
    except DataError as exc:
        raise DataError(f"{where}: {exc}") from exc
    features, labels = read_labelled(x, y, f"{where}: x", f"{where}: y", leave_out)
    return _Read(x, resized(features, size), labels)
