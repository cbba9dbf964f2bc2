"""What every command of Undrift does alike: quiet logs, errors as one line, an end that runs every `finally`."""

import argparse
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from tasks.errors import UndriftError

INTERRUPTED = 130
TERMINATED = 143

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_QUIET = ("absl", "tensorflow", "jax", "h5py", "matplotlib", "PIL", "alembic", "mlflow", "git", "urllib3")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Leaves with `message`; the usage is what `--help` is for."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def prepare() -> None:
    """Sets up the process: INFO lines of Undrift on stderr, only errors of others. Call it before TensorFlow's import.

    TensorFlow 2.14 cannot trace functions that return a dict or a tuple into a SavedModel beside typing-extensions
    >= 4.6, unless wrapt leaves out its C extension; TensorFlow reads both variables once, when it is imported.
    """
    os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ours are logged; what other packages warn their developers of is nothing a user can act on.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _deliver_again


def run(action: Callable[[], None]) -> int:
    """Runs `action` and returns the exit status: 0, or that of its UndriftError, said in one line on stderr.

    A full or forbidden disk gives 1 and one line, Ctrl-C 130 and one line; SIGTERM leaves as SystemExit(143). Any
    other exception is a defect of ours and keeps its traceback.
    """
    try:
        action()
    except UndriftError as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return exc.exit_status
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


def _deliver_again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again whose exception Python dropped.

    Python only prints what is raised in a finaliser or in a callback of the garbage collector, and JAX, which TFF
    imports, registers one: a Ctrl-C or SIGTERM that arrives there, as was seen, would have no effect at all.
    """
    dropped = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(lost.exc_type)
    if dropped is None:
        sys.__unraisablehook__(lost)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), dropped)).start()
