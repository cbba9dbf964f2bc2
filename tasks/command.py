"""What all commands of Undrift share: quiet logs, errors in one line, and an end that runs every `finally`."""

import argparse
import atexit
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from tasks.errors import InputError, RunError, UndriftError, one_line
from tasks.scrub import of_tensorflow, scrubbed
from tasks.signals import TERMINATED, Terminated, masked, number_of

if TYPE_CHECKING:
    import psutil

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ends: 128 + 2."""

_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"}
_LOOK_EVERY = 0.2
"""Seconds between two checks whether the parent is alive."""
_GRACE = 5.0
"""Seconds from SIGTERM to a forced exit, after the parent has ended."""

_log = logging.getLogger(__name__)

_TO_MEND = {
    errno.EEXIST: "move it away",
    errno.EISDIR: "move away the folder with this name",
    errno.ELOOP: "remove the links that lead in a circle",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "a part of this path must be a folder, but is a file; move the file away",
}
"""Errors of the system that are wrong input, and what the user can do about the path."""

_TO_FREE = {
    errno.EDQUOT: "make room and run again",
    errno.EFBIG: "allow larger files (ulimit -f) and run again",
    errno.ENOSPC: "make room and run again",
}
"""Errors of the system that make a run fail, and what the user can do before the next one."""

_QUIET = ("absl", "tensorflow", "jax", "h5py", "matplotlib", "PIL", "alembic", "mlflow", "git", "urllib3")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error is one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Exits with `message`, without the usage, which `--help` prints."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def prepare() -> None:
    """Sets up the process of a command: `quiet`, logs on stderr, and SIGTERM as an exception that ends the command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    quiet()
    signal.signal(signal.SIGTERM, _terminate)


def quiet() -> None:
    """Lets through Undrift's log lines from INFO on, but only errors of others. Call it before TensorFlow's import.

    With typing-extensions >= 4.6, TensorFlow 2.14 can trace functions that return a dict or a tuple into a SavedModel
    only if wrapt runs without its C extension. Both variables are read once, when TensorFlow is imported.
    """
    os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Without this, Python's end takes seconds: it searches all objects of TensorFlow and TFF for cycles.
    atexit.register(gc.freeze)
    # Undrift's own warnings are log lines. Users can do nothing about the warnings of other packages.
    warnings.simplefilter("ignore")
    sys.unraisablehook = _deliver_again


@contextmanager
def loading() -> Iterator[None]:
    """Keeps the garbage collector away from the objects of the block's imports, during the block and afterwards.

    TensorFlow and TFF make a million objects that live as long as the process. The collector would search them dozens
    of times during the imports, and again in every large collection of the rounds.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()


def run(action: Callable[[], None], explain: Callable[[UndriftError], Iterable[str]] = lambda error: ()) -> int:
    """Runs `action` and returns the exit status: 0 if it succeeds.

    - An error for which `as_error` has a message is printed as one line on stderr, and its `exit_status` is returned.
      The lines of `explain` follow.
    - Ctrl-C prints one line, and 130 is returned.
    - SIGTERM is raised as SystemExit(143).
    - Any other exception is a defect of Undrift and keeps its traceback.
    """
    try:
        try:
            action()
        except Exception as exc:
            error = as_error(exc)
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            for line in explain(error):
                print(line, file=sys.stderr)
            return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def as_error(exc: Exception) -> UndriftError:
    """Returns the error to show the user for `exc`, which ended a run.

    1. If `exc` is the exception of a signal's handler, or a consequence of it, the handler's exception is raised.
    2. An UndriftError is returned as it is.
    3. A path that the user has to correct gives an InputError.
    4. Everything else that the system refuses (a full or read-only disk, too large a file, no memory) gives a RunError.
    5. An error of TensorFlow gives a RunError without the data that its text and its traceback hold.
    6. Any other exception is a defect of Undrift, and is raised.
    """
    sent = masked(exc)
    if sent is not None:
        raise sent
    if isinstance(exc, UndriftError):
        return exc
    if isinstance(exc, MemoryError):
        return RunError(f"not enough memory: {one_line(exc)}")
    if isinstance(exc, OSError):
        if exc.errno in _TO_MEND:
            return InputError(f"{exc}: {_TO_MEND[exc.errno]}")
        if exc.errno in _TO_FREE:
            return RunError(f"{exc}: {_TO_FREE[exc.errno]}")
        return RunError(str(exc) if exc.errno else one_line(exc))
    if of_tensorflow(exc):
        return RunError(f"TensorFlow failed: {scrubbed(exc)}")
    raise exc


def end_with_parent() -> None:
    """Ends this process, as SIGTERM does, when the process that started it has ended.

    `kill` of `dvc repro` reaches only DVC. The step that DVC runs would go on, and write into the files of the next
    run. DVC starts a step in a shell, which waits for the step even if DVC has ended. So if the parent is a shell, the
    parent of the shell is watched too. A process that ignores SIGHUP, as under `nohup`, may outlive its parent.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    import psutil

    starters: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        starter = psutil.Process().parent()
        while starter is not None:
            starters.append(starter)
            starter = starter.parent() if starter.name() in _SHELLS else None
    if starters:
        threading.Thread(target=_watch, args=(starters,), name="parent", daemon=True).start()


def _watch(starters: "Sequence[psutil.Process]") -> None:
    while all(map(is_alive, starters)):
        time.sleep(_LOOK_EVERY)
    _log.error("the process that started this one has ended, so this one ends too")
    os.kill(os.getpid(), signal.SIGTERM)
    # The handler runs only after TensorFlow's present call. Files are replaced as a whole, so an exit here is safe.
    time.sleep(_GRACE)
    os._exit(TERMINATED)


def is_alive(process: "psutil.Process") -> bool:
    """Returns whether a process runs. It does not wait for the process, so its parent still gets the exit status."""
    import psutil

    try:
        # A dead process for which no parent has waited is still listed.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _deliver_again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again if Python dropped the exception of its handler.

    Python only prints an exception that is raised in a finaliser or in a callback of the garbage collector. JAX, which
    TFF imports, registers such a callback. A Ctrl-C or SIGTERM that arrived there was observed to have no effect.
    """
    dropped = number_of(lost.exc_value)
    if dropped is None:
        sys.__unraisablehook__(lost)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), dropped)).start()
