"""What every command of Undrift does alike: quiet logs, errors as one line, an end that runs every `finally`."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from tasks.errors import InputError, RunError, UndriftError, one_line
from tasks.scrub import of_tensorflow, scrubbed
from tasks.signals import TERMINATED, Terminated, masked, number_of

if TYPE_CHECKING:
    import psutil

INTERRUPTED = 130

_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"}
_LOOK_EVERY = 0.2
_GRACE = 5.0
"""Seconds between two looks at the parent, and seconds that an orderly end may take."""

_log = logging.getLogger(__name__)

_TO_MEND = {
    errno.EEXIST: "move away what stands there",
    errno.EISDIR: "move away the folder that stands there",
    errno.ELOOP: "remove the links that go in a circle",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "move away the file that stands for a folder",
}
"""What the user can do about a path, as wrong input; all else that a system refuses is a run that failed."""

_TO_FREE = {
    errno.EDQUOT: "make room and run again",
    errno.EFBIG: "allow larger files (ulimit -f) and run again",
    errno.ENOSPC: "make room and run again",
}

_QUIET = ("absl", "tensorflow", "jax", "h5py", "matplotlib", "PIL", "alembic", "mlflow", "git", "urllib3")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Leaves with `message`; the usage is what `--help` is for."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def prepare() -> None:
    """Sets up the process of a command: `quiet`, logs on stderr, and SIGTERM as an exception that ends it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    quiet()
    signal.signal(signal.SIGTERM, _terminate)


def quiet() -> None:
    """Lets INFO lines of Undrift through, only errors of others. Call it before TensorFlow's import.

    TensorFlow 2.14 cannot trace functions that return a dict or a tuple into a SavedModel beside typing-extensions
    >= 4.6, unless wrapt leaves out its C extension; TensorFlow reads both variables once, when it is imported.
    """
    os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # As Python ends it looks for cycles among everything that TensorFlow and TFF made: seconds for nothing.
    atexit.register(gc.freeze)
    # Ours are logged; what other packages warn their developers of is nothing a user can act on.
    warnings.simplefilter("ignore")
    sys.unraisablehook = _deliver_again


@contextmanager
def loading() -> Iterator[None]:
    """Keeps the search for cycles away from the block's imports, while they run and ever after.

    TensorFlow and TFF make a million objects that live as long as the process. Python would go through them dozens of
    times as they are made, and again with every large collection of the rounds.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()


def run(action: Callable[[], None]) -> int:
    """Runs `action` and returns the exit status: 0, or that of its UndriftError, said in one line on stderr.

    What the system refuses and a lack of memory give one line, see `as_error`, Ctrl-C 130 and one line; SIGTERM leaves
    as SystemExit(143). Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        try:
            action()
        except Exception as exc:
            error = as_error(exc)
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def as_error(exc: Exception) -> UndriftError:
    """Returns the error with which a run that `exc` ended fails; a signal that `exc` masks is raised as what it was.

    That is `exc` itself; an InputError for a path that the user has to mend; a RunError for all else that a system
    refuses (a full or forbidden disk, too large a file, no memory), and for an error of TensorFlow, without the data
    that its text and its traceback hold. Any other exception is a defect of ours, and raised.
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
    """Ends this process, as SIGTERM does, when the one that started it has ended: its results are nobody's then.

    `kill` of `dvc repro` reaches DVC alone; the step that it runs would go on, and write into the next run's files.
    Shells are looked through: DVC starts a step in one, which waits for it whatever becomes of DVC. Whoever ignores
    SIGHUP, as under `nohup`, is meant to outlive its parent.
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
    _log.error("the process that started this one has ended, and so does this one")
    os.kill(os.getpid(), signal.SIGTERM)
    # A signal's handler waits for TensorFlow's present call; what a process ended here has written is whole.
    time.sleep(_GRACE)
    os._exit(TERMINATED)


def is_alive(process: "psutil.Process") -> bool:
    """Returns whether a process runs. It is not waited for: its parent still gets its exit status."""
    import psutil

    try:
        # A dead process that nobody has waited for is still listed.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _deliver_again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again whose exception Python dropped.

    Python only prints what is raised in a finaliser or in a callback of the garbage collector, and JAX, which TFF
    imports, registers one: a Ctrl-C or SIGTERM that arrives there, as was seen, would have no effect at all.
    """
    dropped = number_of(lost.exc_value)
    if dropped is None:
        sys.__unraisablehook__(lost)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), dropped)).start()
