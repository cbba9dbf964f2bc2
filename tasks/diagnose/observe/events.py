"""All separate rises of a run: found one after the other, and ordered by the harm that they do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.arrays import Bools
from tasks.detection import Increase
from tasks.diagnose.observe.loss_tests import (
    LossTest,
    column_tests,
    explained_test,
    guided_tests,
    not_finite_tests,
    tested_losses,
)
from tasks.diagnose.observe.outliers import Outlier
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.observe.own_rises import increase_of, increase_of_failures, rises_of_clients
from tasks.diagnose.thresholds import WORST
from tasks.round_log.read import ClientLog, RoundLog

MOST_EVENTS = 3
"""Most separate rises that are looked for."""
SHARES = (0.3, 0.2, 0.5)
"""Shares of the significance: of the first loss, of the second loss, of the clients' own losses."""
_SOON = 3
"""Rounds after a rise in which a lower rise is its end, no other rise."""


@dataclass(frozen=True)
class Event:
    """A rise that is not the explained one.

    Attributes:
        round: first round.
        until: last round.
        loss_before: the loss before it, nats per example; None if not known.
        loss_after: the loss at its height; None if not finite.
        loss: column of rounds.csv, `val_loss` or `train_loss`.
        clients: those whose own loss rose, where the mean of all clients hides it; else none.
        phase: `federate` or `prune`.
    """

    round: int
    until: int
    loss_before: float | None
    loss_after: float | None
    loss: str
    clients: tuple[str, ...]
    phase: str


@dataclass(frozen=True)
class Found:
    """The tests of some rounds: the rise that they show, if they show one.

    Attributes:
        loss: column that rose, or that was tested first.
        increase: its rise, or that there is none.
        clients: those whose own loss rose or who failed, where the mean of all clients hides it.
        other: the rise of the other column in the same rounds.
    """

    loss: str
    increase: Increase
    clients: tuple[str, ...] = ()
    other: LossTest | None = None

    @property
    def rounds(self) -> tuple[int, int]:
        """First and last round of what rose, of both columns."""
        rises = [self.increase, *([self.other.increase] if self.other else [])]
        return min(rise.round or 0 for rise in rises), max(rise.until or 0 for rise in rises)


def rises_in(
    log: RoundLog,
    clients: ClientLog,
    rows: Bools,
    significance: float,
    outliers: Sequence[Outlier] = (),
    of_clients: bool = True,
) -> list[Found]:
    """Returns the separate rises in `rows` (R,), the most harmful first; one without a rise if there is none.

    The rounds of a rise are left out, and the tests are repeated, each at the whole `significance`. Where nothing rose,
    the first test claims something with that probability at most. Where something rose, the next tests claim something
    false with that probability at most. The clients' own losses are tested only if no column rose, and only if
    `of_clients`.
    """
    found: list[Found] = []
    nothing = None
    left = rows.copy()
    while len(found) < MOST_EVENTS and left.any():
        each = _tested(log, clients, left, significance, outliers, of_clients=of_clients and not found)
        if not each.increase.detected:
            nothing = each
            break
        first, last = each.rounds
        left &= ~((log.rounds >= first) & (log.rounds <= last + (each.loss == "val_loss")))
        ended = _ended_by(found, each)
        if ended is None:
            found.append(each)
        else:
            earlier = found[ended]
            found[ended] = replace(earlier, increase=replace(earlier.increase, until=each.increase.until))
    if not found:
        return [nothing or Found(tested_losses(log)[0], Increase(detected=False))]
    return sorted(found, key=lambda each: -_harm(each, log, clients))


def _ended_by(found: Sequence[Found], later: Found) -> int | None:
    """The place of the rise whose slow end the later one is; None if it is a rise of its own."""
    for place, each in enumerate(found):
        begin, end = each.increase.round or 0, each.increase.until or 0
        soon = begin < (later.increase.round or 0) <= end + _SOON
        if soon and _log_loss(later.increase.loss_after) <= _log_loss(each.increase.loss_after):
            return place
    return None


def _log_loss(loss: float | None) -> float:
    return math.inf if loss is None else math.log(loss) if loss > 0 else -math.inf


def _harm(found: Found, log: RoundLog, clients: ClientLog) -> float:
    """The excess log loss, summed over the rounds of the rise; of some clients' own losses, times their share of all.

    A loss counts as at most WORST times the level. A loss that is not known counts as this, too.
    """
    increase = found.increase
    first, last, before = increase.round or 0, increase.until or 0, increase.loss_before
    inside = (log.rounds >= first) & (log.rounds <= last)
    column = log.losses[found.loss]
    if found.clients:
        high = _log_loss(increase.loss_after) - _log_loss(before or 1.0)
        return len(found.clients) / len(clients.ids) * int(inside.sum()) * min(high, math.log(WORST))
    values = column.values[inside & column.given]
    if before is None or before <= 0:
        return len(values) * math.log(WORST)
    known = np.where(np.isfinite(values), values, np.inf)
    return float(np.log(np.clip(known / before, 1 / WORST, WORST)).sum())


def _tested(
    log: RoundLog,
    clients: ClientLog,
    rows: Bools,
    significance: float,
    outliers: Sequence[Outlier],
    of_clients: bool,
) -> Found:
    """The clearest rise in `rows`.

    1. A column of rounds.csv.
    2. A column, from a round on in which a client's row is an outlier. This is looked for only if there is an outlier,
       which a log without a fault has with the probability `significance` at most. So the test can have all of it.
    3. The clients' own losses.
    """
    names = tested_losses(log)
    *of_columns, share = SHARES if len(names) > 1 else (0.5, 0.5)
    tests = column_tests(log, clients, rows, significance, of_columns)
    if not any(test.increase.detected for test in tests):
        guided = guided_tests(log, clients, rows, significance, _onsets(outliers))
        tests = guided if any(test.increase.detected for test in guided) else tests
    explained = _first_broken(explained_test(log, tests), not_finite_tests(log, rows, significance))
    if explained.increase.detected:
        others = [test for test in tests if test.increase.detected and test.loss != explained.loss]
        return Found(explained.loss, explained.whole, other=others[0] if others else None)
    if of_clients:
        rises = rises_of_clients(log, clients, rows, significance * share)
        if of_few := found_of(rises, log, clients, share, explained.loss):
            return of_few
        if failures := increase_of_failures(explained.loss, log, clients):
            return Found(explained.loss, *failures)
    return Found(explained.loss, explained.whole)


def found_of(
    rises: Sequence[ClientRise], log: RoundLog, clients: ClientLog, share: float, otherwise: str
) -> Found | None:
    """Returns the rise of some clients' own losses, of which train_loss is the mean; without it, of `otherwise`.

    None if there is none, or if their losses are not higher in it. `share` as for `increase_of`.
    """
    increase = increase_of(rises, clients, share) if rises else None
    if increase is None:
        return None
    column = "train_loss" if "train_loss" in log.losses else otherwise
    return Found(column, increase, tuple(rise.client for rise in rises))


def _onsets(outliers: Sequence[Outlier]) -> list[int]:
    """The rounds of the outliers, without the rounds right after a round in which the client was one."""
    seen = {(each.client, each.round) for each in outliers}
    return sorted({number for client, number in seen if (client, number - 1) not in seen})


def _first_broken(explained: LossTest, not_finite: Sequence[LossTest]) -> LossTest:
    """The test of the loss that was first not finite, if that came before the rise of `explained`."""
    for test in not_finite:
        began, broke = explained.increase.round, test.increase.round
        if began is None or (broke is not None and broke < began):
            explained = test
    return explained
