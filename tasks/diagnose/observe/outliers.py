"""Rows of clients.csv that are far outside: a client's update or loss in one round, against others and itself."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tasks.arrays import Floats, Ints
from tasks.diagnose.observe.drift import signals
from tasks.diagnose.thresholds import OUTLIER_LOSS, OUTLIER_NORM, OUTLIER_TURN
from tasks.round_log.read import ClientLog, rows_by_client

_LEAST_COHORT = 4
"""Fewest clients of a round whose median is the centre of that round."""
_RECENT = 4
"""Most rounds of a client right before a round that show how it usually is: clients' losses fall at unequal speed."""
_LEAST_PAST = 3
"""Fewest rounds before that show how it usually is; if there are fewer, the nearest rounds on either side are taken."""
_PAST = 20
"""Most earlier rounds of a client that show its own spread."""
_LEAST_ROWS = 12
"""Fewest rows of a signal from which the spread of the rows is known."""
_TAIL = 5
"""Degrees of freedom of Student's t, the law of the rows around what is usual: the tails of honest rows are heavy."""
_QUARTILE = float(student.ppf(0.75, _TAIL))
"""The median absolute value of that noise over its scale."""
_JOINT = 1.5
"""Power of the p-value of each of two signals in the probability of both: 2 if independent, 1 if they are one."""
_MODIFIED_Z = 3.5
"""Customary bound of modified z-scores (Iglewicz & Hoaglin 1993)."""
_FLOOR = 0.25
"""Share of the median loss that is added to all before the logarithm: the loss of a batch that is fitted is noise."""
_LEAST = {"update_norm": math.log(OUTLIER_NORM), "loss_before": math.log(OUTLIER_LOSS)}
_SIGNALS = ("update_norm", "update_cosine", "update_cosine_robust", "loss_before")


@dataclass(frozen=True)
class Outlier:
    """A client's row of clients.csv that is far outside in one signal.

    Attributes:
        client: id.
        round: number of the round.
        signal: column of clients.csv.
        value: in the row, in the column's own unit.
        expected: the median of the round's clients.
        usual: median of the client's own rounds that it is compared with; None if there is none.
        p_value: probability that noise alone is as far outside in this row.
    """

    client: str
    round: int
    signal: str
    value: float
    expected: float
    usual: float | None
    p_value: float


def outliers(log: ClientLog, significance: float) -> tuple[Outlier, ...]:
    """Returns the rows that are far outside, by round, client and signal.

    With x the signal (the logarithm of norms and losses), c the client and t the round:

    1. r_ct = x_ct - the median of x in round t, in the direction that is worse. If fewer than 4 clients took part in
       the round, the median is over the two rounds before and after it, too.
    2. e_ct = r_ct - q_ct. q_ct is the median of r over the client's up to 4 rounds before; over the 4 nearest ones on
       either side if there are fewer than 3 before. A client with no other round has q_ct = 0.
    3. The height of a row is e_ct in units of the spread of e: over all rows, or over the client's up to 20 rounds
       before, whichever is larger. Its p-value is that of Student's t with 5 degrees of freedom.
    4. A signal can be an outlier only if e_ct is odd among all rows (a modified z-score above 3.5), and the effect is
       at least OUTLIER_NORM, OUTLIER_TURN or OUTLIER_LOSS (thresholds.py).
    5. It is one if its p-value is at most significance / (2 · rows · signals). Two signals of one row are outliers
       together if the larger p-value p has p^1.5 <= significance / (2 · rows · pairs of signals). Two independent
       signals would allow p², two equal ones p.

    So `significance` is the probability of any outlier in a log of noise as assumed. No round before is needed, so the
    test is valid for round 1 and for short logs; it needs 12 rows.

    **Measured** at significance 0.01 on 83 healthy runs (`none_*` of the planted suite, seed 0; 19,632 rows): outliers
    in one, the cosines of four clients that turned in the same round of a run with momentum.
    """
    by_name = {name: values for name, values in signals(log).items() if name in _SIGNALS}
    found = [
        _heights(log, name, values)
        for name, values in by_name.items()
        if (np.isfinite(values) & ~log.failed).sum() >= _LEAST_ROWS
    ]
    if not found:
        return ()
    p_values = np.stack([each.p_value for each in found])
    num_rows, num_signals = int((~log.failed).sum()), len(found)
    alone = p_values <= significance / (2 * num_rows * num_signals)
    pairs = num_signals * (num_signals - 1) / 2
    each_of_two = (significance / (2 * num_rows * pairs)) ** (1 / _JOINT) if pairs else 0.0
    together = p_values <= each_of_two
    chosen = alone | (together & (together.sum(axis=0) >= 2))
    rows = [found[signal].outlier(log, int(row)) for signal, row in zip(*np.nonzero(chosen), strict=True)]
    return tuple(sorted(rows, key=lambda each: (each.round, each.client, each.signal)))


@dataclass(frozen=True)
class _Heights:
    """One signal: (M,) the p-value of each row (1: it cannot be an outlier), the round's median, the usual value."""

    name: str
    values: Floats
    p_value: Floats
    expected: Floats
    usual: Floats

    def outlier(self, log: ClientLog, row: int) -> Outlier:
        """Returns the row as an outlier."""
        usual = float(self.usual[row])
        return Outlier(
            log.clients[row],
            int(log.rounds[row]),
            self.name,
            float(self.values[row]),
            float(self.expected[row]),
            None if math.isnan(usual) else usual,
            float(self.p_value[row]),
        )


def _heights(log: ClientLog, name: str, values: Floats) -> _Heights:
    rows = np.flatnonzero(np.isfinite(values) & ~log.failed)
    rounds, clients, kept = log.rounds[rows], log.codes[rows], values[rows]
    x = _logarithms(name, kept)
    worse = -1.0 if name.startswith("update_cosine") else 1.0
    apart = worse * (x - _centres(x, rounds))
    own, spread, usual = _own(apart, clients, kept)
    around = own - np.median(own)
    odd = around > _MODIFIED_Z * 1.4826 * np.median(np.abs(around))
    far = odd & (np.minimum(apart, own) > _LEAST.get(name, OUTLIER_TURN))
    p_value, expected, usual_of_all = np.ones(len(values)), np.full(len(values), np.nan), np.full(len(values), np.nan)
    heights = own / np.maximum(spread, _scale(own))
    p_value[rows] = np.where(far, student.sf(heights, _TAIL), 1.0)
    expected[rows], usual_of_all[rows] = _centres(kept, rounds), usual
    return _Heights(name, values, p_value, expected, usual_of_all)


def _logarithms(name: str, values: Floats) -> Floats:
    if name == "loss_before":
        return np.asarray(np.log(np.maximum(values, 0.0) + max(_FLOOR * float(np.median(values)), 1e-12)))
    return np.asarray(np.log(np.maximum(values, 1e-12)), np.float64) if name == "update_norm" else values


def _centres(x: Floats, rounds: Ints) -> Floats:
    """(M,) the median of x over the clients of the row's round, or of the rounds around it."""
    centres = np.empty(len(x))
    for round_num, rows in rows_by_client(rounds).items():
        near = rows if len(rows) >= _LEAST_COHORT else np.flatnonzero(np.abs(rounds - round_num) <= 2)
        centres[rows] = np.median(x[near])
    return centres


def _own(apart: Floats, clients: Ints, values: Floats) -> tuple[Floats, Floats, Floats]:
    """(M,) how far each row is from what is usual of its client, the scale of that, and the client's usual value."""
    own, spread, usual = apart.copy(), np.zeros(len(apart)), np.full(len(apart), np.nan)
    for mine in rows_by_client(clients).values():
        for place, row in enumerate(mine):
            others = mine[_beside(place, len(mine))]
            if len(others):
                usual[row] = np.median(values[others])
                own[row] -= np.median(apart[others])
        for place, row in enumerate(mine):
            past = mine[max(0, place - _PAST) : place] if place >= _RECENT else np.delete(mine, place)
            if len(past):
                spread[row] = _scale(own[past])
    return own, spread, usual


def _beside(place: int, num: int) -> Ints:
    """The places of the rounds that show what is usual of a client in its round `place` of `num`."""
    if place >= _LEAST_PAST:
        return np.arange(max(0, place - _RECENT), place)
    nearest = np.argsort(np.abs(np.arange(num) - place), kind="stable")
    return nearest[1 : 1 + _RECENT]


def _scale(values: Floats) -> float:
    """The sd of t(5) noise whose median absolute value is that of `values`, over the sd; above 0."""
    return max(float(np.median(np.abs(values))) / _QUARTILE, 1e-9)
