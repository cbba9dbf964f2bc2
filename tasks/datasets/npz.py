"""`npz`: one .npz file with arrays named as in Keras or in MedMNIST."""

import logging
from pathlib import Path

from tasks.clients import TEST
from tasks.datasets.archive import Archive, Stored, opened
from tasks.datasets.checks import check_alike
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.labels import RawLabels, number_labels, read_labelled
from tasks.datasets.resize import Size
from tasks.datasets.spool import Spool, Spooled
from tasks.datasets.unreadable import LeaveOut, Unreadable
from tasks.errors import DataError
from tasks.settings import DataSettings

_log = logging.getLogger(__name__)

NAMINGS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
UNUSED = {"val_images", "val_labels"}


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns the training examples and, if the file has them, the test examples.

    MedMNIST's validation set (`val_images`, `val_labels`) is not used, because val_loss is measured on the hold-out
    data. A warning names all further arrays.

    Raises:
        DataError: an array is missing, or is not as `tasks.datasets.checks` and `tasks.datasets.labels` allow.
    """
    with opened(path) as archive:
        return _read(archive, path, Unreadable(settings), size, scratch)


def _read(archive: Archive, path: Path, unreadable: Unreadable, size: Size, scratch: Path) -> Source:
    names = archive.names
    matching = [naming for naming in NAMINGS if names & set(naming)]
    if len(matching) != 1:
        allowed = " or ".join(", ".join(naming) for naming in NAMINGS)
        raise DataError(f"{path} must hold {allowed}, got {', '.join(sorted(names)) or 'nothing'}")
    x_train, y_train, x_test, y_test = matching[0]
    ignored = sorted(names - set(matching[0]) - UNUSED)
    if ignored:
        _log.warning("%d arrays of %s are not used: %s", len(ignored), path, ", ".join(ignored))

    def read_part(name_x: str, name_y: str, leave_out: LeaveOut) -> tuple[Stored, Spooled, RawLabels]:
        stored, y, spool = archive.stored(name_x), archive.read(name_y), Spool(scratch)
        labels = read_labelled(stored, y, f"{path}: {name_x}", f"{path}: {name_y}", leave_out, size, spool)
        return stored, spool.written(), labels

    stored, x, labels = read_part(x_train, y_train, unreadable.of(""))
    if not names & {x_test, y_test}:
        numbered = number_labels({"": labels}, None, unreadable)
        train = unreadable.take("", x, numbered.y[""])
        return Source(train.y, unfitted(train.x), numbered.classes, skipped=unreadable.skipped())
    stored_test, test_x, test_labels = read_part(x_test, y_test, unreadable.of(TEST))
    check_alike(stored, stored_test, x_train, f"{path}: {x_test}", resizing=bool(size))
    numbered = number_labels({"": labels}, test_labels, unreadable)
    train, test = unreadable.take("", x, numbered.y[""]), unreadable.take(TEST, test_x, numbered.y[TEST])
    return Source(train.y, unfitted(train.x), numbered.classes, test=test, skipped=unreadable.skipped())
