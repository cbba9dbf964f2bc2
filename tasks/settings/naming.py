"""The name of the setting to change, in every error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import DataError, RunError, one_line
from tasks.settings.whole import fields


@contextmanager
def naming(*names: str) -> Iterator[None]:
    """Makes every error of the block name a setting, so that the user knows which one to change.

    1. A DataError that names no setting gets `names`, which can include the values.
    2. An OSError (a path that is too long, a circular link, a folder without read permission) becomes a DataError.
    3. A MemoryError becomes a RunError.

    In nested blocks, the innermost one adds its names.
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
