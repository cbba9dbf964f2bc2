"""The exceptions that Undrift raises on purpose.

```
UndriftError
├── InputError         the user can correct it before anything runs: exit status 2
│   ├── SettingsError  params.yaml, -S or a flow's parameters
│   └── DataError      the raw data, or the files of an earlier step
└── RunError           the run began and could not be finished: exit status 1
    ├── GuardStop      `federate.guard` ended the run (a failed client, a loss that is not finite or rises)
    ├── NoClientLeft   every client of a round failed, or none is left
    └── TrackingLost   MLflow did not answer, or refused
```
"""

import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.signals import masked

_LONGEST = 300
"""Most characters of the text of another library's error."""
_LONGEST_MESSAGE = 600
"""Most characters of a whole message, in a terminal or a Prefect state."""


class UndriftError(Exception):
    """Base of all errors with a message for the user: one line with the setting or file, what it must be, what it is.

    Whatever names and values it holds, the text is one printable line of at most 600 characters. The middle of a longer
    text is left out, because the end says what to do.
    """

    exit_status = 1

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        if not text.isprintable():  # such as a part of a character in a file name that is not UTF-8
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        half = _LONGEST_MESSAGE // 2 - 1
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:half]}…{text[-half:]}"


class InputError(UndriftError):
    """Wrong input. Nothing was changed."""

    exit_status = 2


class SettingsError(InputError):
    """A setting that is unknown, of a wrong type, out of range, or impossible together with another setting."""


class DataError(InputError):
    """Data that cannot be used: missing, pickled, unlabelled, empty, of mixed shapes, not finite, out of range."""


class RunError(UndriftError):
    """A run that began and could not be finished. Checkpoints and all files that were written before stay whole."""


class GuardStop(RunError):
    """`federate.guard` ended the run."""


class NoClientLeft(RunError):
    """A round without an update to average: every client failed, or no client is left.

    Attributes:
        line: the round's `tasks.federate.record.RoundLine`.
    """

    def __init__(self, message: str, line: Any = None) -> None:
        super().__init__(message)
        self.line = line


class TrackingLost(RunError):
    """MLflow's store did not answer, or refused a request."""


@contextmanager
def reading(what: str, refused: type[InputError] = DataError) -> Iterator[None]:
    """Turns every exception of the block, which reads foreign bytes, text or code, into `refused`, in one line.

    The exceptions of NumPy, Pillow, HDF5 or PyYAML for damaged input cannot be listed, so all are caught. Keep the
    block to the one foreign call, because a defect of Undrift in it would look like the user's error. UndriftErrors and
    signals pass through.

    Args:
        what: the file or setting, and what it must be. The message is "<what>, got <error>".
        refused: the class of the error that is raised.
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
    """Adds `advice`, such as a step to run again, to each DataError of the block that names no step to run."""
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
    except Exception:  # an exception class of the user's own
        said = ""
    text = f"{type(exc).__name__}: {said}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def shown(value: Any) -> str:
    """Returns a short `repr` of a user's value: long and deeply nested parts are left out.

    `repr` itself raises for an integer of more than 4300 digits. A few lines of YAML whose aliases name each other can
    give more text than fits into memory.
    """
    return _SHORT.repr(value)


def listed(names: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """Returns the first `most` names in one text, and the number of further names: a run can have 10,000 clients."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 80, 80

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() <= 256 else f"an integer of {value.bit_length()} bits"


_SHORT = _Short()
