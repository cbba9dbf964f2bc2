"""The raw data: one module for each `data.kind`, and the choice of the hold-out data.

`read(settings, path, seed, size, scratch)` of each module returns a `Source`. It resizes images to `size` while it
reads them, and keeps what can be larger than the memory in a scratch file in the folder `scratch`.
scikit-learn, pandas and Pillow are imported only when they are needed. Pickled data are never loaded.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.datasets import client_archives, digits, images, npz, synthetic, table
from tasks.datasets.examples import RawExamples, Source
from tasks.datasets.hold_out import hold_out
from tasks.datasets.resize import Size
from tasks.errors import DataError, shown
from tasks.settings import DataKind, DataSettings, naming

__all__ = ["KINDS", "RawExamples", "load_raw"]

KINDS: dict[DataKind, Callable[[DataSettings, Path, int, Size, Path], Source]] = {
    "digits": digits.read,
    "npz": npz.read,
    "clients": client_archives.read,
    "images": images.read,
    "table": table.read,
    "synthetic": synthetic.read,
}


_NAMED = 10
"""Most classes that a line of the log names."""

_log = logging.getLogger(__name__)


def load_raw(settings: DataSettings, seed: int, folder: Path, size: Size = ()) -> RawExamples:
    """Returns the training and hold-out examples by `settings`; `data.path` is absolute or relative to `folder`.

    If the source has no test set, a part of its examples is held out (`tasks.datasets.hold_out`). The same settings,
    seed and files give the same examples in the same order. Images are resized to the height and width `size`; an empty
    `size` leaves them unchanged. The features of `images`, `npz` and `clients` are in a scratch file without a name in
    the workspace `folder`, not in memory.

    Raises:
        DataError: the data are missing, empty, unlabelled, pickled, of mixed shapes or a wrong type, not finite, out of
            range, or of only one class; or `size` is given and the data are a table.
        SettingsError: the column of labels is also the column of clients or groups, or `data.drop_columns` has one of
            the three.
    """
    with naming(f"data.kind {settings.kind}", f"data.path {shown(settings.path)}"):
        source = KINDS[settings.kind](settings, folder / settings.path, seed, size, folder / "data")
        if len(source.classes) < 2:
            raise DataError(
                f"the labels at data.path {shown(settings.path)} must be of at least two classes, got only "
                f"{source.classes[0]!r}"
            )
        _warn_of_capitals(source.classes)
        if source.clients is not None:
            _refuse_twins(source.clients)
        examples = hold_out(source, settings, seed)
        if size and examples.x.ndim != 4:
            raise DataError(
                f"preprocess.resize needs images, and the data is a table: leave it unset, got {list(size)}"
            )
        return examples


def _warn_of_capitals(classes: Sequence[str]) -> None:
    twins = Counter(name.casefold() for name in classes)
    alike = [name for name in classes if twins[name.casefold()] > 1]
    if alike:
        named = ", ".join(map(shown, alike[:_NAMED]))
        _log.warning("%d classes differ in capitals only: %s; write each label in one way", len(alike), named)


def _refuse_twins(clients: NDArray[np.str_]) -> None:
    """Refuses ids that differ in capital letters only: on some file systems they name one folder."""
    seen: dict[str, str] = {}
    for client in np.unique(clients).tolist():
        twin = seen.setdefault(client.lower(), client)
        if twin != client:
            raise DataError(f"client ids must differ in more than capitals, got {twin!r} and {client!r}: rename one")
