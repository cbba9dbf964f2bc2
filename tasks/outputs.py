"""The outputs of each step, which the step removes when it begins.

DVC removes them before it runs a stage. Without this module, a step that is run by hand and then stopped by the guard
would leave the model of an earlier run next to its own log, and the next steps would report the two together.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import InputError
from tasks.files import remove

OUTPUTS = {
    "partition": ("data/partition", "reports/labels.png"),
    "preprocess": ("data/clients",),
    # The logs in reports/ hold the rounds of this step until the step prune adds its own.
    "federate": (
        "models/global.h5",
        "reports/federate/clients.csv",
        "reports/federate/rounds.csv",
        "reports/clients.csv",
        "reports/rounds.csv",
    ),
    "prune": (
        "models/pruned.h5",
        "models/pruned.tflite",
        "models/pruned_float.tflite",
        "reports/clients.csv",
        "reports/prune.json",
        "reports/rounds.csv",
    ),
    "evaluate": (
        "reports/confusion.png",
        "reports/drift.png",
        "reports/evaluation.json",
        "reports/loss.png",
        "reports/metrics.json",
    ),
    "diagnose": (
        "reports/diagnosis.html",
        "reports/diagnosis.json",
        "reports/diagnosis.md",
        "reports/diagnosis_metrics.json",
    ),
    "track": ("reports/mlflow.json", "reports/tracked.json"),
}
"""The paths that each step writes, relative to the workspace."""

_BEFORE = "before"


def of(step: str, folder: Path) -> list[Path]:
    """Returns the paths that `step` writes in the workspace `folder`."""
    return [folder / name for name in OUTPUTS[step]]


@contextmanager
def renewed(paths: Sequence[Path]) -> Iterator[None]:
    """Removes the files and folders that an earlier run left at `paths`, before the block writes them again.

    If the block raises an InputError, the step has not begun, and the earlier files are put back. After any other end
    of the block, also a kill, the earlier files are gone. Half-written files of a killed process are removed too.

    Raises:
        OSError: a path cannot be written to. Nothing was moved.
    """
    for path in paths:
        _check_place(path)
    aside = {}
    for path in paths:
        before = path.with_name(f".{path.name}.{_BEFORE}")
        for left in (before, *path.parent.glob(f".{path.name}.????????")):
            remove(left)
        if os.path.lexists(path):
            path.rename(before)
            aside[path] = before
    try:
        yield
    except InputError:
        for path, before in aside.items():
            if not os.path.lexists(path):
                before.rename(path)
        raise
    finally:
        for before in aside.values():
            remove(before)


def _check_place(path: Path) -> None:
    """Raises OSError if a folder above `path` is a file, or if the file `path` is a folder."""
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    if above is not None and not above.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(above))
    if path.suffix and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
