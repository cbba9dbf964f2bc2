"""One call of a client, whose failure is the client's alone."""

from collections.abc import Callable

from tasks.errors import DataError
from tasks.runtime.failed import Failed
from tasks.runtime.values import Value
from tasks.scrub import scrubbed


def attempted(function: Callable[[Value], Value], value: Value) -> Value:
    """Returns the function's result; `Failed` if it raises, or if `value` is the `Failed` of an earlier call."""
    if isinstance(value, Failed):
        return value
    try:
        return function(value)
    except DataError as exc:
        return Failed(str(exc))
    except Exception as exc:
        # Every exception, because no list of what a client's data or a user's model can cause is complete.
        return Failed(scrubbed(exc))
