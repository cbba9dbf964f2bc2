"""Turns errors of MLflow and its databases into UndriftErrors: one line with the store's address, no password."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flows.known_secrets import safe_line
from tasks.errors import RunError, TrackingLost, UndriftError


@contextmanager
def store_errors(shown: str) -> Iterator[None]:
    """Raises an error of MLflow in the block as TrackingLost or RunError: one line with the store's address `shown`."""
    try:
        yield
    except UndriftError:
        raise
    except store_exceptions() as exc:
        raise store_error(shown, exc) from exc


def store_exceptions() -> tuple[type[Exception], ...]:
    """Returns the exceptions of MLflow and its databases if a store is out of reach, wrong, or refuses access."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, ImportError, OSError, ValueError


def store_error(shown: str, exc: Exception, refused: type[UndriftError] = RunError) -> UndriftError:
    """Returns the UndriftError for `exc`, one of `store_exceptions`, at the address `shown`.

    It is a TrackingLost if another try can help. It has the type `refused` if the store refused the password or an
    argument, or if a database driver is missing.
    """
    from sqlalchemy.exc import ArgumentError

    code = getattr(exc, "error_code", "")
    if code == "UNAUTHENTICATED":
        return refused(unauthenticated(shown))
    stays = code in ("PERMISSION_DENIED", "INVALID_PARAMETER_VALUE") or isinstance(exc, ImportError | ArgumentError)
    return (refused if stays else TrackingLost)(f"MLflow at {shown}: {safe_line(exc)}")


def unauthenticated(shown: str) -> str:
    """Returns the message for a store at `shown` that refuses the password, or needs one."""
    has_password = os.environ.get("MLFLOW_TRACKING_USERNAME") or "@" in os.environ.get("MLFLOW_TRACKING_URI", "")
    problem = "refuses the password" if has_password else "needs a password"
    return f"MLflow at {shown} {problem}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
