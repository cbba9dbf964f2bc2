"""Numbers and lists of clients in a sentence."""

import math
import re
from collections.abc import Sequence

_NAMED = 5
"""Most clients named in one sentence."""
MOST_LISTED = 30
"""Most clients that are listed."""


def who(clients: Sequence[str]) -> str:
    """Returns `client 03`, `clients 03 and 07`, or the first five `and 3 more`."""
    more = [f"{len(clients) - _NAMED} more"] if len(clients) > _NAMED else []
    return every_client([*clients[:_NAMED], *more])


def every_client(clients: Sequence[str]) -> str:
    """Returns `client 03` or `clients 03, 05 and 07`; of more than 30, the first five `and 26 more`."""
    if len(clients) > MOST_LISTED:
        return who(clients)
    return f"{'client' if len(clients) == 1 else 'clients'} {joined(clients)}"


def joined(parts: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`; empty for no parts."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def span(first: int | None, last: int | None) -> str:
    """Returns `round 3` or `rounds 3 to 5`."""
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def count(number: int, what: str) -> str:
    """Returns `1 round`, `2 rounds`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def figure(value: float | None) -> str:
    """Returns three significant digits, a dash for None."""
    return "–" if value is None else f"{value:.3g}"


def measured(value: float) -> str:
    """Returns three significant digits; `not known` for what is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "not known"


def percent(value: float | None) -> str:
    """Returns a fraction as a whole percentage, a dash for None."""
    return "–" if value is None else f"{round(100 * value)} %"  # a little below 0 is not `-0`


def clean(text: str) -> str:
    """Returns `text` without line ends, without what cannot be printed, and without marks that turn its direction."""
    spaced = re.sub(r"\s", " ", text)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in spaced)
