"""Is the model at chance: as good as a guess that knows the class frequencies only? And which event broke it?"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.arrays import Bools, Floats, Ints
from tasks.clients import CLIENTS, read_hold_out, read_preprocessed
from tasks.detection import Increase
from tasks.diagnose.thresholds import CHANCE_BROKEN, CHANCE_LOST
from tasks.errors import UndriftError
from tasks.finite import LARGEST
from tasks.round_log.read import RoundLog
from tasks.skew import entropy

_BEFORE = 4
"""Rounds before the model was broken whose mean loss is the loss before."""
_SOON = 3
"""Most losses below chance between two above it that belong to one rise: an oscillation comes down in between."""
_DEVIATIONS = 3
"""Binomial standard deviations by which the accuracy must be above the most frequent class's share."""


@dataclass(frozen=True)
class Chance:
    """The model ended training at chance.

    Attributes:
        loss: cross-entropy of the class frequencies of the hold-out data, nats per example.
        since: the first round from which on the model was at chance after each round.
        never_learned: whether that is the first round that was measured.
    """

    loss: float
    since: int
    never_learned: bool


def hold_out_counts(workspace: Path | None) -> Ints | None:
    """Returns (C,) the number of hold-out examples of each class; None if the data are not in `workspace`."""
    if workspace is None or not (workspace / CLIENTS / "preprocess.json").is_file():
        return None
    try:
        preprocessed = read_preprocessed(workspace / CLIENTS)
        _, y = read_hold_out(preprocessed)
        return np.bincount(y, minlength=preprocessed.form.num_classes)
    except (UndriftError, ValueError):
        return None


def find_chance(log: RoundLog, counts: Ints | None) -> Chance | None:
    """Returns since when the model was at chance to the end of training; None if it was not, or if it is not known.

    The loss of chance is H = -Σ q_c ln q_c, with q the class frequencies `counts` / N of the N hold-out examples. No
    constant answer has a lower loss. After a round, the model is at chance if

    1. its val_loss is not below H by more than (C - 1) / N, or is not finite. So much below H is the loss of the best
       constant answer of N examples expected, twice over;
    2. its val_accuracy, if it is known, is at most max q + 3 sqrt(max q (1 - max q) / N).
    """
    if counts is None or "val_loss" not in log.losses or counts.sum() == 0:
        return None
    num_examples, shares = int(counts.sum()), counts[counts > 0] / counts.sum()
    loss, most = entropy(counts), float(shares.max())
    if len(shares) < 2:
        return None
    column = log.losses["val_loss"]
    measured = np.flatnonzero(column.given & ~log.pruning)
    if not len(measured):
        return None
    low = column.values[measured] < loss - (len(shares) - 1) / num_examples
    knows = low | _accurate(log, measured, most + _DEVIATIONS * math.sqrt(most * (1 - most) / num_examples))
    if knows[-1]:
        return None
    first = int(np.flatnonzero(knows)[-1]) + 1 if knows.any() else 0
    return Chance(loss, int(log.rounds[measured[first]]), not knows.any())


def _accurate(log: RoundLog, rows: Ints, bound: float) -> Bools:
    if log.accuracy is None:
        return np.zeros(len(rows), dtype=np.bool_)
    return np.asarray(log.accuracy.values[rows] > bound)


def breaking_event(log: RoundLog, chance: Chance, num_classes: int) -> Increase | None:
    """Returns the rise of val_loss that broke the model; None if the loss did not rise when the model was broken.

    1. If the model had learned before, the loss rises from its level before to chance or above it. The rise begins at
       the first such loss: at most `_SOON` losses below chance lie between two above it, and none is as low as the
       lowest before. The level is the mean of those among the up to 4 losses before that are below chance; it must be
       below CHANCE_LOST times the loss of chance.
    2. If it never learned, the loss rises to more than CHANCE_BROKEN times the loss of a model that knows nothing, or
       is not finite. Such a model has at best the loss of chance; at its start it has about ln C, with C the
       `num_classes`, or what the clients measured in round 1. The rise lasts as long as the loss is so high.

    This is no test: a model that knows nothing any more to the end is not noise. So the confidence is 1.
    """
    column = log.losses["val_loss"]
    measured = np.flatnonzero(column.given & ~log.pruning)
    rounds, losses = log.rounds[measured], column.values[measured]
    since = int(np.searchsorted(rounds, chance.since))
    if since:
        known = np.where(np.isfinite(losses[:since]), losses[:since], np.inf)
        first = _first_above(~(losses < chance.loss), since, int(np.argmin(known)))
        before = losses[max(0, first - _BEFORE) : first]
        sound = before[before < chance.loss]
        level = float(sound.mean()) if len(sound) else math.inf
        inside = np.arange(len(losses)) >= first
        return _event(rounds, losses, inside, level) if level < CHANCE_LOST * chance.loss else None
    broken = ~(losses <= CHANCE_BROKEN * max(chance.loss, math.log(num_classes), _first_loss(log)))
    if not broken.any():
        return None
    first = int(np.argmax(broken))
    # A model with another output can have a loss above chance from its start, which is then its level.
    level = max(chance.loss, float(losses[:first].min())) if first else chance.loss
    until = first + int(np.argmin(broken[first:])) if not broken[first:].all() else len(losses)
    inside = (np.arange(len(losses)) >= first) & (np.arange(len(losses)) < until)
    return _event(rounds, losses, inside, level)


def _first_loss(log: RoundLog) -> float:
    """The clients' loss under the first weights, which the train_loss of round 1 is; 0 if it is not known."""
    column = log.losses.get("train_loss")
    known = column is not None and log.rounds[0] == 1 and column.given[0] and math.isfinite(column.values[0])
    return float(column.values[0]) if column is not None and known else 0.0


def lost_event(log: RoundLog, counts: Ints | None) -> Increase | None:
    """Returns the rise of val_loss with which a model that had learned became worse than one that knows nothing.

    The lowest loss so far is below CHANCE_LOST times the loss of chance, and then the loss reaches chance, for one
    round or more. The level is the mean of the up to 4 losses before that are below chance. It is no test either,
    whatever the noise of the loss is. None if that did not happen, or if the loss of chance is not known.
    """
    if counts is None or "val_loss" not in log.losses or counts.sum() == 0:
        return None
    loss, column = entropy(counts), log.losses["val_loss"]
    measured = np.flatnonzero(column.given & ~log.pruning)
    rounds, losses = log.rounds[measured], column.values[measured]
    above = ~(losses < loss)
    learned = np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf)) < CHANCE_LOST * loss
    places = np.flatnonzero(above[1:] & learned[:-1]) + 1
    if not len(places):
        return None
    first = last = int(places[0])
    while later := [place for place in range(last + 1, min(len(losses), last + 2 + _SOON)) if above[place]]:
        last = later[-1]
    before = losses[max(0, first - _BEFORE) : first]
    inside = (np.arange(len(losses)) >= first) & (np.arange(len(losses)) <= last)
    return _event(rounds, losses, inside, float(before[before < loss].mean()))


def _first_above(above: Bools, since: int, best: int) -> int:
    """The first place after `best` of the losses above chance that lead to `since`, at most `_SOON` places apart."""
    first = since
    while places := [place for place in range(max(best + 1, first - 1 - _SOON), first) if above[place]]:
        first = places[0]
    return first


def _event(rounds: Ints, losses: Floats, inside: Bools, level: float) -> Increase:
    finite = bool((np.abs(losses[inside]) <= LARGEST).all())
    first = int(rounds[inside][0])
    return Increase(
        detected=True,
        round=first,
        until=int(rounds[inside][-1]),
        loss_before=level,
        loss_after=float(losses[inside].mean()) if finite else None,
        confidence=1.0,
        alarm=first,
        kind="level" if finite else "not_finite",
    )
