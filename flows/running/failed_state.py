"""How a flow, task or cell ends that failed: one message for the user, in the UI and on the console, no traceback."""

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows import known_secrets
from tasks import command
from tasks.errors import UndriftError


def failed(exc: Exception) -> State[Any]:
    """Returns the Failed state of what `command.as_error` has a message for; all else is raised, as there."""
    error = command.as_error(exc)
    return Failed(message=" ".join(known_secrets.without_secrets(str(error)).split()), data=error)


class _Told(logging.Filter):
    """Drops the tracebacks of errors whose message is the state's.

    In a worker's process Prefect's engine takes the result of a flow that returned Failed, which raises, and logs that
    as an unexpected exception; of a task it logs `NoneType: None`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is None:
            record.exc_info = record.exc_text = None
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, UndriftError) and "unexpected exception" in str(record.msg))


for _name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_Told())
