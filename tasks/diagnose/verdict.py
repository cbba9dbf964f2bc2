"""The rules by which replays prove a cause: plain numbers in, a decision out.

A *share* is the part of the rise that a change removes: 0 for no effect, 1 if the loss stays at its level before the
rise (`replay/effect.py`). A *fall* is a difference of ln(loss): 0.15 is a loss that is 14 % lower.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.thresholds import (
    HALF_OF_THE_REST,
    HOPELESS,
    LASTING,
    MARGIN,
    NOTHING_HALFWAY,
    PROVEN,
    REMAINS,
    REST,
    TOGETHER,
)

_OVERFITTING = "overfitting"

SEEDS = 3
"""Most seeds that a change is replayed with, if the loss rises again in each."""
SEED_STEP = 7919
"""Between the seeds of two replays; any number that is no user's next seed."""
MOST_SEEDS = 5
"""Most seeds, if the cause has evidence of its own: a fault that raises the loss now and then shows no rise in some.
Without evidence, one of many seeds would favour any change."""
CANDIDATES_IN_PAIRS = 3
"""Most candidates of which pairs are made."""


@dataclass(frozen=True)
class Contender:
    """A candidate in numbers.

    Attributes:
        number: place of the candidate among all that were replayed.
        cause: its cause.
        removed: share of the rise that its change removes, mean over the seeds so far; 0 if it is not known.
    """

    number: int
    cause: str
    removed: float


@dataclass(frozen=True)
class SecondChange:
    """What a second change does beyond the first one.

    Attributes:
        cause: the second cause.
        share: the share of the rise that both remove, less the share that the first removes.
        fall: fall of the loss that rose.
        other_rise: mean ln(loss / level) of the other loss with nothing changed; 0 if its level is not known.
        other_left: the same without the first cause.
        other_fall: fall of the other loss.
    """

    cause: str
    share: float
    fall: float
    other_rise: float
    other_left: float
    other_fall: float

    @property
    def evident(self) -> bool:
        """Whether the cause has evidence of its own."""
        return CAUSES[self.cause].evident

    @property
    def ends_the_other_rise(self) -> bool:
        """Whether the other loss rose, is still up without the first cause, and comes down without the second.

        1. With nothing changed it is above its level by REMAINS.
        2. Without the first cause it still is.
        3. The second change takes away half of what is left, and at least LASTING.
        """
        rose = self.other_rise >= REMAINS and self.other_left >= REMAINS
        return rose and self.other_fall >= max(HALF_OF_THE_REST * self.other_left, LASTING)


@dataclass(frozen=True)
class SecondCause:
    """By how much a second cause counts: the fall of a loss, of the other loss if `of_other`."""

    gain: float
    of_other: bool


def worth_finishing(cause: str, share: float, best: float) -> bool:
    """Returns whether a candidate's replay goes on after half of the window.

    1. Its change removes at least HOPELESS of the rise.
    2. If nothing speaks for its cause, it is at most two margins below the best candidate so far.

    Args:
        cause: the candidate's cause.
        share: share that its change has removed so far.
        best: largest share of the candidates before it; 0 if it is the first.
    """
    return share >= (HOPELESS if CAUSES[cause].evident else max(HOPELESS, best - 2 * MARGIN))


def most_specific(contenders: Sequence[Contender], order: Sequence[str]) -> Contender | None:
    """Returns the contender that is believed; None if no one removes half of the rise.

    1. It removes at least half of the rise (PROVEN).
    2. It removes at most MARGIN less than the best.
    3. Of these, its cause is the first in `order`. Of two with one cause, it is the one that removes more.

    Args:
        contenders: candidates in numbers.
        order: all causes, the most specific first.
    """
    best = max((contender.removed for contender in contenders), default=0.0)
    if best < PROVEN:
        return None
    close = [contender for contender in contenders if contender.removed >= max(PROVEN, best - MARGIN)]
    return min(close, key=lambda contender: (order.index(contender.cause), -contender.removed))


def believed_first(contenders: Sequence[Contender], order: Sequence[str]) -> Contender | None:
    """Returns the contender whose other seeds are run first; None if there is nothing to confirm.

    1. It is the most specific one, overfitting left out: training that ends before the rise cannot rise (see
       `explains_the_rest`).
    2. If this is a skew, overfitting is believed in its place if the skew explains more than MARGIN less. Then the skew
       is only what lets the model learn its data by heart.

    Args:
        contenders: candidates in numbers, less those that other seeds did not confirm.
        order: all causes, the most specific first.
    """
    overfitting = [contender for contender in contenders if contender.cause == _OVERFITTING]
    first = most_specific([contender for contender in contenders if contender.cause != _OVERFITTING], order)
    return most_specific([first, *overfitting], order) if first and CAUSES[first.cause].skew else first


def explains_the_rest(contenders: Sequence[Contender], order: Sequence[str]) -> Contender | None:
    """Returns overfitting if its change removes half of the rise, else None: it explains what no other cause does."""
    return most_specific([contender for contender in contenders if contender.cause == _OVERFITTING], order)


def comes_before_pairs(contenders: Sequence[Contender]) -> bool:
    """Returns whether overfitting is claimed before pairs of causes are tried: if no contender has evidence."""
    return not any(CAUSES[contender.cause].evident for contender in contenders)


def another_seed(effect: Effect, drawn: int) -> bool:
    """Returns whether one more seed can change the answer of the seeds so far.

    1. They did not refute the change.
    2. The loss rose again in fewer than SEEDS of them.
    3. If SEEDS have been drawn, they do not prove it.

    Args:
        effect: of the seeds in which the loss rose again.
        drawn: seeds so far, at least two.
    """
    open_ = drawn < SEEDS or not effect.proven
    return effect.mean >= PROVEN and len(effect.by_seed) < SEEDS and open_


def gives_up_second(change: SecondChange) -> bool:
    """Returns whether a second change does nothing halfway: no loss falls by NOTHING_HALFWAY.

    The other loss counts only for a cause with evidence of its own.
    """
    return (max(change.fall, change.other_fall) if change.evident else change.fall) < NOTHING_HALFWAY


def second_cause(change: SecondChange) -> SecondCause | None:
    """Returns by how much a cause counts as the second; None if it does not.

    It counts if the loss falls, and if one of these holds:
    1. It removes at least REST of the rise beyond the first.
    2. It has evidence of its own, and the loss falls by LASTING.
    3. It has evidence of its own, and ends a rise of the other loss. A client rate that makes the hold-out loss explode
       would otherwise hide data that have changed. The gain is then the fall of the other loss.
    """
    if change.share >= REST or (change.evident and change.fall >= LASTING):
        counted = SecondCause(change.fall, of_other=False)
    elif change.evident and change.ends_the_other_rise:
        counted = SecondCause(change.other_fall, of_other=True)
    else:
        return None
    return counted if counted.gain > 0 else None


def outranks(change: SecondChange, counted: SecondCause, best: tuple[SecondChange, SecondCause] | None) -> bool:
    """Returns whether a second cause comes before the best one so far.

    1. A cause with evidence comes before one without: a lower client rate slows whatever raises the loss.
    2. Of two with evidence, or two without, the one with the larger gain comes first; of equal ones, the earlier.
    """
    return best is None or (change.evident, counted.gain) > (best[0].evident, best[1].gain)


def necessary_alone(contenders: Sequence[Contender]) -> Contender | None:
    """Returns the cause whose removal alone takes the rise away as well as the first's does; None if there is none.

    It took both causes to raise the loss.
    1. It may be claimed beside another cause.
    2. It removes half of the rise.
    3. Of these, it removes most.

    Args:
        contenders: candidates with other causes than the first.
    """
    able = [
        contender for contender in contenders if CAUSES[contender.cause].beside_another and contender.removed >= PROVEN
    ]
    return max(able, key=lambda contender: contender.removed, default=None)


def second_comes_first(first: str, second: str) -> bool:
    """Returns whether the second of two causes is named first: data that have changed, before what they always were."""
    return CAUSES[first].skew and CAUSES[second].changed_data


def pairs(contenders: Sequence[Contender]) -> Iterator[tuple[Contender, Contender]]:
    """Yields the pairs of causes that are tried where no cause alone is proven, the most promising first.

    1. They are made of the CANDIDATES_IN_PAIRS contenders that remove most.
    2. Overfitting is not one of them.
    3. The two have different causes.
    """
    others = [contender for contender in contenders if contender.cause != _OVERFITTING]
    able = sorted(others, key=lambda contender: contender.removed, reverse=True)[:CANDIDATES_IN_PAIRS]
    for i, first in enumerate(able):
        yield from ((first, second) for second in able[i + 1 :] if second.cause != first.cause)


def named_of_pair(causes: Sequence[str]) -> tuple[str, ...]:
    """Returns which of two causes that remove the rise only together are claimed.

    A skew is not claimed beside another cause: the run has had it from the start, also while the loss fell. What is new
    is the other cause.
    """
    return tuple(cause for cause in causes if not CAUSES[cause].skew) or tuple(causes)


def pair_counts(share: float) -> bool:
    """Returns whether two causes explain the rise together, with the run's own seed: by a share of TOGETHER."""
    return share >= TOGETHER


def failures_removed(before: Sequence[int], after: Sequence[int]) -> Effect:
    """Returns the share of failed clients that is gone, by seed; seeds without failures are left out.

    Args:
        before: (S,) failed clients with nothing changed.
        after: (S,) failed clients with the change.
    """
    return Effect(tuple(1 - left / failed for failed, left in zip(before, after, strict=True) if failed))


def cleared(suspects: Sequence[str], harmful: Collection[str], never_cleared: Collection[str]) -> tuple[str, ...]:
    """Returns the suspects whose updates harm the model no more than those of honest clients.

    Suspects in `never_cleared` stay suspects: one round's harm is small beside what honest clients with different data
    do to each other, and a replay decides.
    """
    return tuple(client for client in suspects if client not in harmful and client not in never_cleared)
