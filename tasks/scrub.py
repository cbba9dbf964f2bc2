"""TensorFlow's errors without the data: their texts quote labels and features, and end in logs and in clients.csv."""

import re
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import RunError

T = TypeVar("T")

_LONGEST = 200
_OURS = "undrift: "

_FILE = re.compile(r"^/.*/([^/]+; )")
"""A file's error is "<path>; <reason>". Its folder is the client's, which is named anyway, on this machine."""

_WHERE = re.compile(
    r"Graph execution error|Exception encountered when calling|Detected at node|Node: |\d+ root error\(s\) found|"
    r'\s+(File "|\[\[|\^)'
)
"""Lines before the reason: of a `tf.function`, and of an error in several places of a graph."""

_ROOT = re.compile(r"^\(0\) [A-Z_]+: +")

_PLACES = re.compile(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*")
"""Where in the graph it happened."""

_VALUES = re.compile(
    r"""
      (?P<kept>
          (?<![\w.])(?:\.{0,2}/|[A-Za-z_][\w.-]*/)[\w./-]*    # a path
        | (?:(?<=shape\ )|(?<=shapes:\ )|(?<=vs\.\ ))\[[\d,?]*\]   # a shape: [20,10]
        | \[-?\d+,\ ?-?\d+\)                                  # a range: [0, 10)
        | (?<!\w)(?P<quote>["'])[A-Za-z_][\w:.]*(?P=quote)    # a quoted name
      )
      | (?<!\w)b?(?P<text>["']).*?(?P=text)                   # a quoted text
      | (?<![A-Za-z_\d.])[-+]?\.?\d[\w.+-]*                   # a number, of whatever
    """,
    re.VERBOSE,
)
_GAP = "..."
_GAPS = re.compile(r"\.\.\.(?:[\s,;]*\.\.\.)+")


def ours(text: str) -> str:
    """Returns the message of an assertion in a graph that `scrubbed` lets through: it must hold no data."""
    return f"{_OURS}{text}"


def scrubbed(error: BaseException | str) -> str:
    """Returns what TensorFlow says, in one line of at most 200 characters, without a single value of the data.

    TensorFlow prints every label of a batch when one is out of range, a tensor's start when an assertion fails, the
    index that a gather was given, a file's content where it is cut short. What of a text is data cannot be known, so
    nothing but words is kept, and of numbers only shapes (`shape [20,10]`), ranges (`[0, 10)`), paths and names.
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
    """Returns the first line that says what failed, and not where in the code."""
    telling = (line for line in text.splitlines() if line.strip() and not _WHERE.match(line))
    return _ROOT.sub("", next(telling, "").strip())


def of_tensorflow(exc: BaseException) -> bool:
    """Whether TensorFlow's runtime raised it. By name: its import takes seconds."""
    return any(base.__module__.startswith("tensorflow.") for base in type(exc).__mro__)


def scrubbing(what: str, call: Callable[[], T]) -> T:
    """Returns what `call` does.

    Args:
        what: begins the message where it fails.
        call: what calls TensorFlow with data.

    Raises:
        RunError: TensorFlow failed; without its error as cause or context, which a traceback would print.
    """
    try:
        return call()
    except Exception as exc:
        if not of_tensorflow(exc):
            raise
        reason = scrubbed(exc)
    raise RunError(f"{what}: {reason}")
