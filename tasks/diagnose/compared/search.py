"""Which of several differences takes a gap away: each alone, or in halves where there are many."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tasks.diagnose.thresholds import PROVEN

MOST_ALONE = 3
"""Most differences that are tried one after the other; of more, one half after the other. Origin: arithmetic: halves of
4 take as many replays as 4 alone in the worst case, and fewer on average."""

T = TypeVar("T")


def responsible(items: Sequence[T], share: Callable[[Sequence[T]], float | None]) -> list[T]:
    """Returns the fewest differences found whose taking back removes at least PROVEN of the gap.

    One, if one alone does. Several, if only together they do. None, if all together do not, or if it is not known.

    Args:
        items: the differences.
        share: (differences) -> the share of the gap that goes away with these taken back; None if it is not known,
            because a replay is refused or the budget ended.
    """
    if not items:
        return []
    if len(items) == 1:
        return [*items] if _enough(share(items)) else []
    if len(items) <= MOST_ALONE:
        shares = [(share([each]), place) for place, each in enumerate(items)]
        known = [(found, -place) for found, place in shares if found is not None and found >= PROVEN]
        if known:
            return [items[-max(known)[1]]]
        return [*items] if _enough(share(items)) else []
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        if _enough(share(half)):
            return responsible(half, share) or [*half]
    return [*items] if _enough(share(items)) else []


def _enough(found: float | None) -> bool:
    return found is not None and found >= PROVEN
