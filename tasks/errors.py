"""The exceptions that Undrift raises on purpose.

```
UndriftError
├── InputError         the user can mend it before anything runs: exit status 2
│   ├── SettingsError  params.yaml, -S or a flow's parameters
│   └── DataError      the raw data, or the files of an earlier step
└── RunError           the run began and could not be finished: exit status 1
    ├── GuardStop      `federate.guard` ended the run (a failed client, a model that is not finite)
    ├── NoClientLeft   every client of a round failed
    ├── TrackingLost   MLflow did not answer, or refused
    └── WorkerLost     TFF's worker process died or did not answer, more often than allowed
```
"""

from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 300


class UndriftError(Exception):
    """Base of all errors with a message for the user: one line that names what, got, allowed and where."""

    exit_status = 1


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


class WorkerLost(RunError):
    """TFF's worker process died, or missed its deadline, more often than allowed."""


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
        raise refused(f"{what}, got {one_line(exc)}") from exc


def one_line(exc: BaseException) -> str:
    """Returns "<type>: <message>" in one line of at most 300 characters."""
    text = f"{type(exc).__name__}: {' '.join(str(exc).split())}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
