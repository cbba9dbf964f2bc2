"""The exceptions that Undrift raises on purpose.

```
UndriftError
├── InputError         the user can mend it before anything runs: exit status 2
│   ├── SettingsError  params.yaml, -S or a flow's parameters
│   └── DataError      the raw data, or the files of an earlier step
└── RunError           the run began and could not be finished: exit status 1
    ├── GuardStop      `federate.guard` ended the run (a failed client, a model that is not finite)
    ├── NoClientLeft   every client of a round failed
    └── TrackingLost   MLflow did not answer, or refused
```
"""

import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.signals import masked

_LONGEST = 300
_LONGEST_MESSAGE = 600
"""Characters: what a user reads in a terminal or a Prefect state."""


class UndriftError(Exception):
    """Base of all errors with a message for the user: one line that names what, got, allowed and where.

    Whatever names and values went into it, its text is one line of at most 600 characters that every terminal and file
    can take: the middle of a longer one is left out, since the way on stands at the end.
    """

    exit_status = 1

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        if not text.isprintable():  # such as half a character in the name of a file that is not in UTF-8
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        half = _LONGEST_MESSAGE // 2 - 1
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:half]}…{text[-half:]}"


class InputError(UndriftError):
    """Wrong input; nothing was changed."""

    exit_status = 2


class SettingsError(InputError):
    """A setting that is unknown, of a wrong type, out of range, or impossible beside another."""


class DataError(InputError):
    """Data that cannot be used: missing, pickled, unlabelled, empty, of mixed shapes, not finite, out of range."""


class RunError(UndriftError):
    """A run that began and could not be finished; checkpoints and everything written before stay whole."""


class GuardStop(RunError):
    """`federate.guard` ended the run."""


class NoClientLeft(RunError):
    """Every client of a round failed, so there is nothing to average."""


class TrackingLost(RunError):
    """MLflow's store did not answer, or refused what it was given."""


@contextmanager
def reading(what: str, refused: type[InputError] = DataError) -> Iterator[None]:
    """The net at an edge: whatever the block raises for foreign bytes, text or code becomes `refused`, in one line.

    What NumPy, Pillow, HDF5 or PyYAML raise for damaged input cannot be listed, so nothing is. Keep the block to the
    one foreign call: a defect of ours in it would be reported as the user's. UndriftErrors and signals pass.

    Args:
        what: the file or setting and what it must be; the message is "<what>, got <error>".
        refused: the class of the error.
    """
    try:
        yield
    except UndriftError:
        raise
    except Exception as exc:
        sent = masked(exc)
        if sent is not None:
            raise sent from None
        raise refused(f"{what}, got {one_line(exc)}") from exc


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Adds the way on, a step to run again, to every DataError of the block that names none."""
    try:
        yield
    except DataError as exc:
        if "run the step" in str(exc):
            raise
        raise DataError(f"{exc} ({advice})") from exc


def one_line(exc: BaseException) -> str:
    """Returns "<type>: <message>" in one line of at most 300 characters."""
    try:
        said = " ".join(str(exc).split())
    except Exception:  # of a user's own class
        said = ""
    text = f"{type(exc).__name__}: {said}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def shown(value: Any) -> str:
    """Returns the `repr` of a value that a user gave, cut where it is long or deep.

    `repr` itself raises for an integer of more than 4300 digits, and a few lines of YAML whose aliases name each other
    stand for more text than any memory holds.
    """
    return _SHORT.repr(value)


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first `most` of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 80, 80

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() <= 256 else f"an integer of {value.bit_length()} bits"


_SHORT = _Short()
