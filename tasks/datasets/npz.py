"""`npz`: one .npz file with arrays in Keras' or MedMNIST's naming."""

import logging
from pathlib import Path

from tasks.datasets.archive import array_names, read_array
from tasks.datasets.checks import as_labelled, check_alike, check_test_labels, numbered_classes
from tasks.datasets.examples import Source, plain
from tasks.errors import DataError
from tasks.settings import DataSettings

logger = logging.getLogger(__name__)

NAMINGS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
UNUSED = {"val_images", "val_labels"}


def read(settings: DataSettings, path: Path, seed: int) -> Source:
    """Returns the training examples and, where the file has them, the test examples.

    MedMNIST's validation set (`val_images`, `val_labels`) is not used: validation here is on the hold-out. Any other
    array beside those of the naming is named in a warning.

    Raises:
        DataError: an array is missing, or is not what `tasks.datasets.checks` allows.
    """
    names = set(array_names(path))
    found = [naming for naming in NAMINGS if names & set(naming)]
    if len(found) != 1:
        allowed = " or ".join(", ".join(naming) for naming in NAMINGS)
        raise DataError(f"{path} must hold {allowed}, got {', '.join(sorted(names)) or 'nothing'}")
    x_train, y_train, x_test, y_test = found[0]
    ignored = sorted(names - set(found[0]) - UNUSED)
    if ignored:
        logger.warning("%d arrays of %s are not used: %s", len(ignored), path, ", ".join(ignored))

    x = read_array(path, x_train)
    train = as_labelled(x, read_array(path, y_train), f"{path}: {x_train}", f"{path}: {y_train}")
    classes = numbered_classes(train.y, f"{path}: {y_train}")
    if not names & {x_test, y_test}:
        return Source(train.y, plain(train.x), classes)
    other = read_array(path, x_test)
    test = as_labelled(other, read_array(path, y_test), f"{path}: {x_test}", f"{path}: {y_test}")
    check_alike(x, other, x_train, f"{path}: {x_test}")
    check_test_labels(test.y, len(classes), f"{path}: {y_test}")
    return Source(train.y, plain(train.x), classes, test=test)
