"""`clients`: data that is already divided, a folder with an .npz file for each client."""

from pathlib import Path

import numpy as np

from tasks.datasets.archive import read_array
from tasks.datasets.checks import Raw, as_labelled, check_alike, check_test_labels, numbered_classes
from tasks.datasets.examples import Labelled, Source, plain
from tasks.datasets.listing import entries
from tasks.errors import DataError
from tasks.files import TEST, check_client_id
from tasks.settings import DataSettings


def read(settings: DataSettings, path: Path, seed: int) -> Source:
    """Returns the examples of `<client id>.npz` (arrays `x` and `y`), sorted by id, and those of `test.npz`, if any.

    Labels are numbers from 0; each must occur at some client, not at every one.

    Raises:
        DataError: an id cannot name a folder, or a client's arrays are missing, not what `tasks.datasets.checks`
            allows, or unlike those of the other clients. The client is named.
    """
    files = {file.stem: file for file in entries(path) if _is_client(file)}
    # `entries` leaves hidden files out; macOS puts a `._a.npz` beside each `a.npz`.
    for file in path.glob(".[!_]*.npz"):
        _is_client(file)
    test_file = files.pop(TEST, None)
    if not files:
        raise DataError(f"{path} must hold a file <client id>.npz for each client, got none")

    ids, parts, lengths = sorted(files), [], []
    first: Raw | None = None
    for client in ids:
        where = f"client {client} ({files[client]})"
        x, part = _read(files[client], where)
        first = x if first is None else first
        check_alike(first, x, f"client {ids[0]}", where)
        parts.append(part)
        lengths.append(len(part.y))
    features, y = plain(np.concatenate([part.x for part in parts])), np.concatenate([part.y for part in parts])
    owners = np.repeat(np.array(ids), lengths)
    largest = f"client {owners[np.argmax(y)]} has the largest"
    classes = numbered_classes(y, f"{path}: y of all clients ({largest})")
    if test_file is None or first is None:
        return Source(y, features, classes, owners)
    other, test = _read(test_file, str(test_file))
    check_alike(first, other, f"client {ids[0]}", str(test_file))
    check_test_labels(test.y, len(classes), f"{test_file}: y")
    return Source(y, features, classes, owners, test=test)


def _is_client(file: Path) -> bool:
    if file.suffix != ".npz":
        raise DataError(f"{file} must be an .npz file of a client or not be there")
    if file.stem != TEST:
        try:
            check_client_id(file.stem)
        except DataError as exc:
            raise DataError(f"{file}: {exc}") from exc
    return True


def _read(file: Path, where: str) -> tuple[Raw, Labelled]:
    try:
        x, y = read_array(file, "x"), read_array(file, "y")
    except DataError as exc:
        raise DataError(f"{where}: {exc}") from exc
    return x, as_labelled(x, y, f"{where}: x", f"{where}: y")
