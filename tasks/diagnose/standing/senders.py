"""Which clients send updates that are longer than all others', or point elsewhere, as the log shows it."""

import numpy as np

from tasks.arrays import Bools, Floats
from tasks.diagnose.standing.outlying import FEWEST, heights
from tasks.round_log.read import ClientLog

NEEDED = frozenset({"update_norm", "update_cosine_robust", "num_steps"})
"""Columns of clients.csv from which an odd update is seen."""
_TESTS = 4
"""Numbers of a client that are tested: the length and the direction of its updates, in both halves of the run."""
_LIKELY = 1.645
"""Standard errors by which a mean cosine is likely negative: the one-sided 95 % quantile of the normal distribution. A
false suspicion costs one round that is run again; one update of ten that is reversed may be at 2.1."""


def odd_senders(log: ClientLog, significance: float) -> tuple[str, ...]:
    """Returns the clients whose updates are longer per step than all others', or point elsewhere, for half of the run.

    An update points elsewhere if it stands apart, or if its mean cosine to the others' geometric median is negative, by
    more than _LIKELY standard errors: training that goes downhill on a shared task does not work against the others.
    This is no proof: a round that is run again decides (`sent_otherwise`).

    Args:
        log: clients.csv, the rounds of training.
        significance: the probability of any client that stands apart among equal ones.
    """
    if not set(log.signals) >= NEEDED or not len(log.rounds):
        return ()
    with np.errstate(all="ignore"):
        length = np.log(log.signals["update_norm"] / np.maximum(log.signals["num_steps"], 1))
    away = -log.signals["update_cosine_robust"]
    middle = (int(log.rounds.min()) + int(log.rounds.max())) / 2
    odd = np.zeros(len(log.ids), np.bool_)
    for half in (log.rounds <= middle, log.rounds > middle):
        for values in (away, length):
            means, errors = _means(log, values, half & np.isfinite(values) & ~log.failed)
            odd |= np.nan_to_num(heights(means, errors, significance / _TESTS)) > 1
            if values is away and int(np.isfinite(means).sum()) >= FEWEST:
                odd |= np.nan_to_num(means) > _LIKELY * np.sqrt(np.nan_to_num(errors))
    return tuple(client for client, is_odd in zip(log.ids, odd, strict=True) if is_odd)


def _means(log: ClientLog, values: Floats, rows: Bools) -> tuple[Floats, Floats]:
    """(K,) each client's mean of the values in `rows`, NaN without one, and the variance of this mean, 0 if unknown."""
    codes, num_clients = log.codes[rows], len(log.ids)
    num = np.bincount(codes, minlength=num_clients)
    with np.errstate(invalid="ignore"):
        means = np.bincount(codes, values[rows], num_clients) / num
    squares = np.bincount(codes, (values[rows] - means[codes]) ** 2, num_clients)
    return means, squares / np.maximum(num - 1, 1) / np.maximum(num, 1)
