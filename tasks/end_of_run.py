"""The diagnosis of a run that died: it explains the run's error, and never takes its place."""

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import lock
from tasks.errors import GuardStop, NoClientLeft, UndriftError, one_line
from tasks.settings import load
from tasks.signals import masked

if TYPE_CHECKING:
    from tasks.diagnose.diagnosis import Diagnosis

_log = logging.getLogger(__name__)

_WITH_ROUNDS = ("federate", "prune")


def diagnosed(step: str, error: Exception, folder: Path) -> "Diagnosis | None":
    """Writes reports/diagnosis.* of the run in `folder` that `error` ended in `step`; returns the diagnosis.

    Returns None if (1) the error is of another kind, (2) the run left no log, or (3) the diagnosis fails. The last is
    logged: the run's own error is what the user must see.
    """
    if step not in _WITH_ROUNDS or not isinstance(error, GuardStop | NoClientLeft):
        return None
    if not (folder / "reports" / "rounds.csv").is_file():
        return None
    try:
        settings = load(folder / "params.yaml")
        with lock.held(folder, "diagnose"):
            diagnose = importlib.import_module("tasks.diagnose.step")
            answer: Diagnosis = diagnose.written(folder / "reports", settings, folder)[0]
    except Exception as exc:
        sent = masked(exc)
        if sent is not None:
            raise sent from None
        if isinstance(exc, UndriftError):
            _log.warning("no diagnosis: %s", exc)
        else:
            _log.warning("no diagnosis, by a defect of Undrift: %s", one_line(exc), exc_info=True)
        return None
    return answer


def lines(answer: "Diagnosis", folder: Path = Path()) -> tuple[str, ...]:
    """Returns the answer in a few lines: why, since when, a remedy, and where in `folder` the report is."""
    short = importlib.import_module("tasks.diagnose.report.short")
    return (*short.lines(answer), f"report: {folder / 'reports/diagnosis.html'}")


def summary(answer: "Diagnosis") -> str:
    """Returns the cause and the settings that help in one short sentence, for a message that names the error."""
    return str(importlib.import_module("tasks.diagnose.report.short").summary(answer))
