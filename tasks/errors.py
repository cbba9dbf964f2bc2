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
