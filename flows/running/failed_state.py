"""The state of a failed flow, task or cell: one message for the user, in the UI and on the console."""

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.known_secrets import without_secrets
from tasks import command
from tasks.errors import RunError, UndriftError


def failed(exc: Exception) -> State[Any]:
    """Returns the Failed state for an error that `command.as_error` knows; raises any other error.

    The notes of the error follow its text in the state's message.
    """
    error = command.as_error(exc)
    said = ". ".join([str(error), *getattr(error, "__notes__", ())])
    return Failed(message=" ".join(without_secrets(said).split()), data=error)


def error_of(state: State[Any]) -> UndriftError:
    """Returns the error of a failed state; its type decides the exit status."""
    result: Any = state.result(raise_on_failure=False)
    return result if isinstance(result, UndriftError) else RunError(state.message or str(state.name))


class _NoRepeatedError(logging.Filter):
    """Drops the tracebacks of errors whose message the state shows already.

    If a flow returns Failed in a worker's process, Prefect's engine reads the flow's result. That raises the error, and
    the engine logs it as an unexpected exception. For a task, the engine logs `NoneType: None` as a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is None:
            record.exc_info = record.exc_text = None
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, UndriftError) and "unexpected exception" in str(record.msg))


for _name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_NoRepeatedError())
