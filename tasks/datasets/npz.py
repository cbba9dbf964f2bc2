"""`npz`: one .npz file with arrays named as in Keras or in MedMNIST."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.datasets.archive import array_names, read_array
from tasks.datasets.checks import Raw, check_alike
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.labels import RawLabels, number_labels, read_labelled
from tasks.datasets.resize import Size, resized
from tasks.datasets.unreadable import LeaveOut, Unreadable
from tasks.errors import DataError
from tasks.settings import DataSettings

_log = logging.getLogger(__name__)

NAMINGS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
UNUSED = {"val_images", "val_labels"}


def read(settings: DataSettings, path: Path, seed: int, size: Size = ()) -> Source:
    """Returns the training examples and, if the file has them, the test examples.

    MedMNIST's validation set (`val_images`, `val_labels`) is not used, because val_loss is measured on the hold-out
    data. A warning names all further arrays.

    Raises:
        DataError: an array is missing, or is not as `tasks.datasets.checks` and `tasks.datasets.labels` allow.
    """
    names = {name.lower() for name in array_names(path)}
    matching = [naming for naming in NAMINGS if names & set(naming)]
    if len(matching) != 1:
        allowed = " or ".join(", ".join(naming) for naming in NAMINGS)
        raise DataError(f"{path} must hold {allowed}, got {', '.join(sorted(names)) or 'nothing'}")
    x_train, y_train, x_test, y_test = matching[0]
    ignored = sorted(names - set(matching[0]) - UNUSED)
    if ignored:
        _log.warning("%d arrays of %s are not used: %s", len(ignored), path, ", ".join(ignored))

    unreadable = Unreadable(settings)
    raw, x, labels = _read(path, x_train, y_train, size, unreadable.of(""))
    if not names & {x_test, y_test}:
        numbered = number_labels({"": labels}, None, unreadable)
        train = unreadable.take("", x, numbered.y[""])
        return Source(train.y, unfitted(train.x), numbered.classes, skipped=unreadable.skipped())
    raw_test, test_x, test_labels = _read(path, x_test, y_test, size, unreadable.of(TEST))
    check_alike(raw, raw_test, x_train, f"{path}: {x_test}", resizing=bool(size))
    numbered = number_labels({"": labels}, test_labels, unreadable)
    train, test = unreadable.take("", x, numbered.y[""]), unreadable.take(TEST, test_x, numbered.y[TEST])
    return Source(train.y, unfitted(train.x), numbered.classes, test=test, skipped=unreadable.skipped())


def _read(
    path: Path, name_x: str, name_y: str, size: Size, leave_out: LeaveOut
) -> tuple[Raw, NDArray[np.float32], RawLabels]:
    raw, y = read_array(path, name_x), read_array(path, name_y)
    x, labels = read_labelled(raw, y, f"{path}: {name_x}", f"{path}: {name_y}", leave_out)
    return raw, resized(x, size), labels
