"""Where raw data comes from: one module for each `data.kind`, and the part that is held out.

A kind's `read(settings, path, seed, size)` returns a `Source`, whose images it has resized to `size` as it read them;
scikit-learn, pandas and Pillow are imported when they are needed. Pickled data is never loaded.
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

KINDS: dict[DataKind, Callable[[DataSettings, Path, int, Size], Source]] = {
    "digits": digits.read,
    "npz": npz.read,
    "clients": client_archives.read,
    "images": images.read,
    "table": table.read,
    "synthetic": synthetic.read,
}


_NAMED = 10
"""Most classes named in one line of the log."""

_log = logging.getLogger(__name__)


def load_raw(settings: DataSettings, seed: int, folder: Path, size: Size = ()) -> RawExamples:
    """Returns the examples that `settings` name; `data.path` is relative to `folder` unless absolute.

    Where the source has no test set, a part of its examples is held out (`tasks.datasets.hold_out`). The same settings,
    seed and files give the same examples in the same order. Images are resized to the height and width `size`, unless
    it is empty.

    Raises:
        DataError: the data is missing, empty, unlabelled, pickled, of mixed shapes or a wrong type, not finite, out of
            range, or has only one class; or `size` is given and the data is a table.
        SettingsError: `data.label_column` and `data.client_column` are one column, or `data.drop_columns` names one.
    """
    with naming(f"data.kind {settings.kind}", f"data.path {shown(settings.path)}"):
        source = KINDS[settings.kind](settings, folder / settings.path, seed, size)
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
    """Refuses ids that are one folder where a file system takes capitals for small letters: a client would be lost."""
    seen: dict[str, str] = {}
    for client in np.unique(clients).tolist():
        twin = seen.setdefault(client.lower(), client)
        if twin != client:
            raise DataError(f"client ids must differ in more than capitals, got {twin!r} and {client!r}: rename one")
