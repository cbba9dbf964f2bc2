"""Dates and times that are text in a table's column: their format, and the days since 1970-01-01."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

ISO = "ISO8601"
_DAYS = (
    "%Y/%m/%d",
    "%Y.%m.%d",
    *(f"{first}{sign}{second}{sign}%Y" for sign in "./-" for first, second in (("%d", "%m"), ("%m", "%d"))),
    *(pattern.format(month) for month in ("%b", "%B") for pattern in ("%d {} %Y", "%d-{}-%Y", "{} %d, %Y", "{} %d %Y")),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = (*("".join(parts) for parts in product(_DAYS, _TIMES)), *(time.strip() for time in _TIMES if time))
TIME = "%H:%M:%S.%f"
"""The format of a time without a date. Its day is 1900-01-01."""
_LIKE_DATE = re.compile(r"[0-9]{1,4}([./-])[0-9]{1,2}\1[0-9]{1,4}([ T].*)?")
_FIRST = 20
"""Most texts from which `nearest_format` finds the formats to try."""
_LONGEST = 40
"""Most characters of a date with a time."""


def date_formats(texts: Sequence[str]) -> list[str]:
    """Returns the formats in which all `texts` are dates; of formats with the same dates, only the first.

    If the first text begins as in ISO 8601 (2020-01-31, with or without a time and an offset), this is the only format
    that is tried. In dates with dots, such as 31.01.2020, the day comes first if this is possible.
    """
    if not texts or not re.search("[0-9]{4}|[0-9]:[0-9]{2}", texts[0]) or any(len(text) > _LONGEST for text in texts):
        return []
    if re.match(r"[0-9]{4}-[0-9]{2}", texts[0]):
        return [ISO] if np.isfinite(days(texts, ISO)).all() else []
    readings: dict[str, NDArray[np.float64]] = {}
    for pattern in _FORMATS:
        if _is_date(texts[0], pattern):
            numbers = days(texts, pattern)
            if np.isfinite(numbers).all() and not any(np.array_equal(numbers, other) for other in readings.values()):
                readings[pattern] = numbers
    with_dots = [pattern for pattern in readings if pattern.startswith("%d.")]
    return with_dots[:1] or list(readings)


def days(dates: Sequence[Any], pattern: str) -> NDArray[np.float64]:
    """Returns the days since 1970-01-01 of texts in this format, or of date or time objects; NaN for all others."""
    import pandas as pd

    texts = [each.isoformat("microseconds") if isinstance(each, time) else each for each in dates]
    read = pd.to_datetime(pd.Series(texts, dtype=object), format=pattern, utc=True, errors="coerce")
    whole = read.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    numbers = whole.astype(np.int64) / 86_400e6
    return np.where(np.isnat(whole), np.nan, numbers)


def like_dates(texts: Sequence[str]) -> list[bool]:
    """Returns which of `texts` look like dates of digits, in any format."""
    return [_LIKE_DATE.fullmatch(text) is not None for text in texts]


def nearest_format(texts: Sequence[str]) -> list[bool]:
    """Returns which of `texts` are dates in the format that fits most of them."""
    patterns = [ISO, *(p for p in _FORMATS if any(_is_date(text, p) for text in texts[:_FIRST]))]
    read = [np.isfinite(days(texts, pattern)) for pattern in patterns]
    best: list[bool] = max(read, key=lambda there: int(there.sum())).tolist()
    return best


def _is_date(text: str, pattern: str) -> bool:
    try:
        datetime.strptime(text, pattern)
    except ValueError:
        return False
    return True
