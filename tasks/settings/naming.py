"""Which setting an error is about."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import DataError, RunError, one_line
from tasks.settings.whole import fields


@contextmanager
def naming(*names: str) -> Iterator[None]:
    """Makes every error of the block name a setting, for the user has to know which one to change.

    A DataError or a lack of memory that names none gets `names`, with their values if you like. An OSError (a path too
    long, a link in a circle, a folder that may not be read) becomes a DataError. The innermost block counts.
    """
    among = f" ({', '.join(names)})"
    try:
        yield
    except DataError as exc:
        if any(re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/])", str(exc)) for name in fields()):
            raise
        raise DataError(f"{exc}{among}") from exc
    except OSError as exc:
        raise DataError(f"cannot read {exc.filename or 'the data'}: {exc.strerror or one_line(exc)}{among}") from exc
    except MemoryError as exc:
        raise RunError(f"not enough memory: {one_line(exc)}{among}") from exc
