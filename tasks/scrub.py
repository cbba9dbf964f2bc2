"""Removes data from TensorFlow's errors. Their texts quote labels and features, and go into logs and clients.csv."""

import re
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import RunError

T = TypeVar("T")

_LONGEST = 200
"""Most characters of the text of an error."""
_OURS = "undrift: "
"""Begins the message of an assertion that Undrift puts into a graph."""

_FILE = re.compile(r"^/.*/([^/]+; )")
"""A file's error is "<path>; <reason>". The folder is left out: it is a path of this machine, and ends in the client's
id, which is named anyway."""

_WHERE = re.compile(
    r"Graph execution error|Exception encountered when calling|Detected at node|Node: |\d+ root error\(s\) found|"
    r'\s+(File "|\[\[|\^)'
)
"""Beginnings of lines before the reason, in errors of a `tf.function` and of several places in a graph."""

_ROOT = re.compile(r"^\(0\) [A-Z_]+: +")

_PLACES = re.compile(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*")
"""Places in the graph where the error happened."""

_VALUES = re.compile(
    r"""
      (?P<kept>
          (?<![\w.])(?:\.{0,2}/|[A-Za-z_][\w.-]*/)[\w./-]*    # a path
        | (?:(?<=shape\ )|(?<=shapes:\ )|(?<=vs\.\ ))\[[\d,?]*\]   # a shape: [20,10]
        | \[-?\d+,\ ?-?\d+\)                                  # a range: [0, 10)
        | (?<!\w)(?P<quote>["'])[A-Za-z_][\w:.]*(?P=quote)    # a quoted name
      )
      | (?<!\w)b?(?P<text>["']).*?(?P=text)                   # a quoted text
      | (?<![A-Za-z_\d.])[-+]?\.?\d[\w.+-]*                   # any number
    """,
    re.VERBOSE,
)
_GAP = "..."
_GAPS = re.compile(r"\.\.\.(?:[\s,;]*\.\.\.)+")


def ours(text: str) -> str:
    """Returns a message for an assertion in a graph that `scrubbed` keeps as it is. `text` must hold no data."""
    return f"{_OURS}{text}"


def scrubbed(error: BaseException | str) -> str:
    """Returns the text of a TensorFlow error in one line of at most 200 characters, without any value of the data.

    TensorFlow prints (1) every label of a batch if one is out of range, (2) the beginning of a tensor if an assertion
    fails, (3) the index that a gather got, (4) the content of a file that is cut short. It cannot be known which parts
    of a text are data. So only words are kept, and numbers only in shapes (`shape [20,10]`), ranges (`[0, 10)`), paths
    and names.
    """
    text = error if isinstance(error, str) else str(getattr(error, "message", error))
    line = _FILE.sub(r"\1", _PLACES.sub("", _telling_line(text)).strip())
    own = re.match(rf"assertion failed: \[{_OURS}(.*?)\]", line)
    if own:
        return own[1]
    line = "".join(character if character.isprintable() else " " for character in line)
    line = _GAPS.sub(_GAP, _VALUES.sub(lambda found: found["kept"] or _GAP, line))
    line = " ".join(line.split())[:_LONGEST]
    return line or ("an error without a text" if isinstance(error, str) else type(error).__name__)


def _telling_line(text: str) -> str:
    """Returns the first line that says what failed instead of where in the code."""
    telling = (line for line in text.splitlines() if line.strip() and not _WHERE.match(line))
    return _ROOT.sub("", next(telling, "").strip())


def of_tensorflow(exc: BaseException) -> bool:
    """Returns whether TensorFlow raised `exc`. It compares names, because TensorFlow's import takes seconds."""
    return any(base.__module__.startswith("tensorflow.") for base in type(exc).__mro__)


def scrubbing(what: str, call: Callable[[], T]) -> T:
    """Returns the result of `call`.

    Args:
        what: the beginning of the message if the call fails.
        call: calls TensorFlow with data.

    Raises:
        RunError: TensorFlow failed. Its own error is not the cause or context, because a traceback would print it.
    """
    try:
        return call()
    except Exception as exc:
        if not of_tensorflow(exc):
            raise
        reason = scrubbed(exc)
    raise RunError(f"{what}: {reason}")
