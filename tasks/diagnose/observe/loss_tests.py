"""Tests of the losses in rounds.csv: which of the two columns rose, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.arrays import Bools, Floats
from tasks.detection import Increase, find_increase
from tasks.detection.increase import is_higher
from tasks.detection.noise import FEWEST
from tasks.diagnose.observe.own_losses import common
from tasks.round_log.columns import LOSS_COLUMNS
from tasks.round_log.read import ClientLog, RoundLog

RECENT = 4
"""Rounds before a rise whose mean loss is `loss_before`."""
_CLEARLY = 2
"""`train_loss` is explained instead of `val_loss` only if it rose more than this many rounds earlier: a cause is found
where it begins."""


@dataclass(frozen=True)
class LossTest:
    """The test of one column of rounds.csv.

    Attributes:
        loss: the column, `val_loss` or `train_loss`.
        increase: the result, at `share` of the significance.
        share: of the significance, 0 to 1.
    """

    loss: str
    increase: Increase
    share: float

    @property
    def whole(self) -> Increase:
        """The result, with its confidence as that of the whole procedure instead of this test's share."""
        return replace(self.increase, confidence=max(0.0, 1 - (1 - self.increase.confidence) / self.share))


def tested_losses(log: RoundLog) -> list[str]:
    """Returns the columns that are tested, the one that decides first: val_loss, then train_loss.

    A column with fewer than 6 values is tested only if the other has fewer than 6, too; then the longer one is.
    """
    present = [name for name in LOSS_COLUMNS if name in log.losses]
    long_enough = [name for name in present if log.losses[name].given.sum() >= FEWEST]
    return long_enough or [max(present, key=lambda name: int(log.losses[name].given.sum()))]


def not_finite_tests(log: RoundLog, rows: Bools, significance: float) -> list[LossTest]:
    """Returns the test of each column that holds a value that is not finite in `rows` (R,)."""
    broken = [name for name, column in log.losses.items() if (column.not_finite & rows).any()]
    return [LossTest(name, _test_column(log, name, rows, significance), 1.0) for name in broken]


def column_tests(
    log: RoundLog, clients: ClientLog, rows: Bools, significance: float, shares: Sequence[float]
) -> list[LossTest]:
    """Returns the test of each tested column over `rows` (R,), each with its share of the significance.

    Two columns that rise in the same rounds need no more than the sum of the shares each (Simes 1986, doi
    10.1093/biomet/73.3.751; it holds where the noise of the two is positively dependent or independent).
    """
    names = tested_losses(log)
    tests = _tests(log, clients, names, rows, significance, shares)
    if len(tests) == 2 and not any(test.increase.detected for test in tests):
        both = _tests(log, clients, names, rows, significance, [sum(shares)] * 2)
        return both if _at_once(*(test.increase for test in both)) else tests
    return tests


def guided_tests(
    log: RoundLog, clients: ClientLog, rows: Bools, significance: float, onsets: Sequence[int]
) -> list[LossTest]:
    """Returns the test of each column for a rise that begins in one of the rounds `onsets`; empty without any.

    The columns share the significance evenly. An update of round r shows in the val_loss of round r and in the
    train_loss of round r + 1, changed data in the train_loss of round r.
    """
    names = tested_losses(log) if len(onsets) else []
    begin = {"val_loss": onsets, "train_loss": sorted({later for onset in onsets for later in (onset, onset + 1)})}
    share = 1 / max(1, len(names))
    return [LossTest(name, _test(log, clients, name, rows, significance * share, begin[name]), share) for name in names]


def explained_test(log: RoundLog, tests: list[LossTest]) -> LossTest:
    """Returns the test of the loss that rose; if none rose, that of the first column.

    If both rose, the first column is explained, unless the second column's rise (1) began clearly before it and (2)
    lasted until it. A loss that is not measured in every round may have risen since its last measurement.
    """
    rose = [test for test in tests if test.increase.detected]
    if len(rose) < 2:
        return rose[0] if rose else tests[0]
    first, second = rose
    start, earlier = (_last_before(log, test.loss, test.increase.round or 0) + 1 for test in rose)
    led_to_it = (second.increase.until or 0) >= start - 1
    return second if earlier < start - _CLEARLY and led_to_it else first


def usable_rows(clients: ClientLog) -> Bools:
    """Returns (M,) true in the rows of clients.csv whose client's loss under the global model can be tested."""
    losses = client_losses(clients)
    return np.asarray(np.isfinite(losses) & (losses > 0))


def client_losses(clients: ClientLog) -> Floats:
    """Returns (M,) each row's loss of the client under the global model; NaN where it is not known."""
    return clients.signals.get("loss_before", np.full(len(clients.rounds), np.nan))


def _tests(
    log: RoundLog, clients: ClientLog, names: Sequence[str], rows: Bools, significance: float, shares: Sequence[float]
) -> list[LossTest]:
    return [
        LossTest(name, _test(log, clients, name, rows, significance * share), share)
        for name, share in zip(names, shares, strict=True)
    ]


def _at_once(first: Increase, second: Increase) -> bool:
    """Whether both rose in some round; train_loss is measured one round later than val_loss."""
    if not (first.detected and second.detected):
        return False
    return (first.round or 0) <= (second.until or 0) + 1 and (second.round or 0) <= (first.until or 0) + 1


def _last_before(log: RoundLog, name: str, round_num: int) -> int:
    """The last round before `round_num` in which the loss was measured; `round_num` - 1 if there is none."""
    earlier = log.rounds[log.losses[name].given & (log.rounds < round_num)]
    return int(earlier[-1]) if len(earlier) else round_num - 1


def _test(
    log: RoundLog,
    clients: ClientLog,
    name: str,
    rows: Bools,
    significance: float,
    onsets: Sequence[int] | None = None,
) -> Increase:
    """The test of a column over `rows`.

    If the clients' losses are known, the mean client's loss stands for train_loss: the noise of train_loss comes from
    who took part (`common`).
    """
    if name != "train_loss":
        return _test_column(log, name, rows, significance, onsets)
    usable = usable_rows(clients) & np.isin(clients.rounds, log.rounds[rows & log.losses[name].given])
    if not usable.any():
        return _test_column(log, name, rows, significance, onsets)
    rounds, level = common(clients.codes[usable], clients.rounds[usable], client_losses(clients)[usable])
    increase = find_increase(rounds, level, significance, onsets)
    return _in_units_of(log, name, rows, increase) if increase.detected else increase


def _in_units_of(log: RoundLog, name: str, rows: Bools, increase: Increase) -> Increase:
    """The increase of the mean client's loss with the levels of the column, which has another unit.

    It is no increase if the column is not higher in these rounds: then other clients took part, and the report could
    show no rise.
    """
    values, finite = log.losses[name].values, np.isfinite(log.losses[name].values) & rows
    before = values[finite & (log.rounds < (increase.round or 0))][-RECENT:]
    during = values[finite & (log.rounds >= (increase.round or 0)) & (log.rounds <= (increase.until or 0))]
    if len(before) and len(during) and increase.kind == "level" and not is_higher(during, before, increase.noise or 0):
        return replace(increase, detected=False, round=None, until=None, alarm=None, kind="none")
    return replace(
        increase,
        loss_before=float(before.mean()) if len(before) else None,
        loss_after=float(during.mean()) if len(during) else None,
    )


def _test_column(
    log: RoundLog, name: str, rows: Bools, significance: float, onsets: Sequence[int] | None = None
) -> Increase:
    column = log.losses[name]
    measured = rows & column.given
    return find_increase(log.rounds[measured], column.values[measured], significance, onsets)
