"""What each step makes, so that a step that begins removes what an earlier run of it left.

DVC does that before it runs a stage. A step that is run by hand, and then stopped by its guard, would leave the earlier
run's model beside its own log, and the next steps would report the one with the other.
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
    # The logs in reports/ are the step prune's, which puts its rounds after these; until then they are these.
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
    "diagnose": ("reports/diagnosis.html", "reports/diagnosis.json", "reports/diagnosis.md"),
    "track": ("reports/mlflow.json",),
}
"""By step, relative to the workspace."""

_BEFORE = "before"


def of(step: str, folder: Path) -> list[Path]:
    """Returns what `step` makes in the workspace `folder`."""
    return [folder / name for name in OUTPUTS[step]]


@contextmanager
def renewed(paths: Sequence[Path]) -> Iterator[None]:
    """Makes `paths` anew in the block: what an earlier run left there is gone from its beginning on.

    A place that cannot be written to is an OSError before anything is moved.
    If the block raises an InputError, nothing was begun, and the earlier run's are put back. However else the block
    ends, by a kill too, they are not there any more. What a killed process left half-written is removed as well.
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
    """Raises OSError for a file where `path` needs a folder, or a user's folder in the place of a file."""
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    if above is not None and not above.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(above))
    if path.suffix and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
