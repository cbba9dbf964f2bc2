"""The rounds in which replays are compared, how many the budget allows, and the losses before the rise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.ended.course import early_bar
from tasks.diagnose.incident import Incident
from tasks.diagnose.replay.effect import height
from tasks.diagnose.thresholds import REMAINS, REPRODUCED
from tasks.diagnose.verdict import SEEDS
from tasks.round_log.read import ClientLog
from tasks.skew import entropy

EXPLAINED = 15
"""Least rounds that the budget is counted by: a spike of one round needs a replay or two, too."""
LEAST = 3
"""Least rounds of the rise that a replay runs."""
LONGEST = 12
"""Most rounds of a replay."""
_BEFORE = 4
"""Rounds before the rise whose mean training loss is the level before it."""


@dataclass(frozen=True)
class Window:
    """The rounds whose losses are compared, and the losses before the rise.

    Attributes:
        loss: column in which the rise was detected.
        first: first round of the window.
        last: last round of the window.
        rounds: the rounds of the window that count, ascending.
        levels: the loss before the rise by column; None where it is not known.
    """

    loss: str
    first: int
    last: int
    rounds: tuple[int, ...]
    levels: Mapping[str, float | None]
    level_without: Callable[[tuple[str, ...]], float | None] = lambda _: None
    """(clients) -> the training loss of the other clients before the rise; None if it is not known."""

    @property
    def level(self) -> float:
        """The loss before the rise, in the column in which it was detected."""
        level = self.levels[self.loss]
        assert level is not None
        return level

    @property
    def other(self) -> str:
        """The other one of the two columns."""
        return "train_loss" if self.loss == "val_loss" else "val_loss"

    @property
    def halfway(self) -> int:
        """The round after which a replay that promises nothing may be given up."""
        return max(self.first, (self.first + self.last) // 2)


def window(incident: Incident, clients: ClientLog, start_loss: float, first: int, last: int) -> Window:
    """Returns the window from round `first` to round `last`.

    Args:
        incident: the rise.
        clients: clients.csv.
        start_loss: hold-out loss of the model that the replays start from.
        first: first round whose losses are compared: that of the rise, or an earlier one from which the replays differ
            from the log.
        last: last round whose losses are compared.
    """
    hidden = incident.hidden
    took_part = clients.of(*hidden) if hidden else np.ones(len(clients.rounds), np.bool_)
    counted = set(clients.rounds[took_part].tolist())
    rounds = tuple(r for r in range(first, last + 1) if r in counted)
    level = incident.level(start_loss)
    if hidden:
        # A loss that rose for a few clients only lies above the loss of the others. It is compared in the same rounds:
        # the rounds before the rise may have been of other clients, and in later rounds the others' loss has fallen on.
        others = training_loss(clients, rounds, without=hidden)
        level = level if others is None else others
    before = range(incident.first - _BEFORE, incident.first)
    levels = {"val_loss": start_loss, "train_loss": training_loss(clients, before), incident.loss: level}

    def level_without(left_out: tuple[str, ...]) -> float | None:
        # Of clients whose own rise the mean hides, it is that rise that is explained, and not the others' loss.
        return None if hidden else training_loss(clients, before, left_out)

    return Window(incident.loss, first, last, rounds, levels, level_without)


def training_loss(log: ClientLog, rounds: Iterable[int], without: tuple[str, ...] = ()) -> float | None:
    """Returns the training loss as rounds.csv has it, its geometric mean over `rounds`; None if it is not known.

    The clients in `without` are left out. So are clients that failed, and losses that are not finite or not above 0.
    """
    weights = log.signals.get("weight", log.signals.get("num_examples", np.ones(len(log.rounds))))
    losses = log.signals.get("loss_before", np.full(len(log.rounds), np.nan))
    usable = ~log.of(*without) & ~log.failed & np.isfinite(losses) & (losses > 0) & (weights > 0)
    rows = [(log.rounds == round_num) & usable for round_num in rounds]
    means = [np.average(losses[at], weights=weights[at]) for at in rows if at.any()]
    return float(np.exp(np.mean(np.log(means)))) if means else None


def training_rise(log: ClientLog, first: int, until: int) -> float:
    """Returns ln of the training loss of rounds `first` to `until` over the highest of the _BEFORE rounds before.

    NaN if one of them is not known. The highest, so that the noise from round to round is no rise.
    """
    during = training_loss(log, range(first, until + 1))
    before = [loss for r in range(first - _BEFORE, first) if (loss := training_loss(log, [r])) is not None]
    return float(np.log(during / max(before))) if during and before else np.nan


def chance_loss(labels: NDArray[np.int32]) -> float:
    """Returns the hold-out loss of a model that knows the class frequencies and nothing else: their entropy, nats.

    Infinite if there is only one label: then no loss is below it.
    """
    return entropy(np.bincount(labels)) or np.inf


def floor(chance: float, start_loss: float, from_round: int) -> float:
    """Returns the hold-out loss that a short replay must be below to be that of a model that trains.

    It is chance, with two exceptions. From the first weights, half of the way to chance is enough (`early_bar`). A
    model that has been trained and is no better than chance yet must only get better.

    Args:
        chance: loss of a model that knows the class frequencies and nothing else, nats.
        start_loss: hold-out loss of the model that the replay starts from; NaN if it is not known.
        from_round: round of that model; 0 for the first weights.
    """
    if from_round and chance < start_loss < np.inf:
        return start_loss
    return early_bar(chance, start_loss) if start_loss > chance else chance


def allowed_rounds(budget: float, num_rounds: int) -> int:
    """Returns the rounds that all replays may take: `budget` times the rounds that are explained, at least EXPLAINED.

    Args:
        budget: `diagnose.budget`.
        num_rounds: from the start of the replays to the end of the rise.
    """
    return round(budget * max(num_rounds, EXPLAINED))


def last_compared_round(
    *,
    start: int,
    first: int,
    alarm: int,
    half_risen: int,
    until: int,
    last_of_run: int,
    num_candidates: int,
    allowed: int,
) -> int:
    """Returns the last round of the replays.

    1. All candidates, two replays of a second cause and two replays for each other seed fit into the budget. So does
       the replay that changes nothing. No replay is longer than LONGEST.
    2. The replays end with the rise.
    3. They do not end before the rise is clear: the round of the alarm, or the round in which half of the rise is
       visible. This may take up to LONGEST rounds.
    4. They run at least LEAST rounds of the rise.
    5. They end with the run.

    A later condition overrules an earlier one.

    Args:
        start: round of the model that the replays start from.
        first: first round of the rise.
        alarm: the round after which the rise was sure.
        half_risen: see `half_risen_round`.
        until: last round of the rise.
        last_of_run: last round of the run.
        num_candidates: candidates that are replayed.
        allowed: rounds that all replays may take.
    """
    num_replays = 3 + num_candidates + 2 * (SEEDS - 1)
    affordable = start + min(LONGEST, allowed // num_replays)
    clear = min(alarm, half_risen, start + LONGEST)
    return min(max(min(affordable, until), clear, first + LEAST - 1), last_of_run)


def half_risen_round(
    logged: Mapping[int, float], level: float, loss_after: float | None, first: int, alarm: int
) -> int:
    """Returns the first round of the rise in which half of it is visible, on the logarithm.

    It may be earlier than the alarm: half of a steep rise is visible before it is sure.

    Args:
        logged: loss by round.
        level: the loss before the rise.
        loss_after: the loss at its height; None if it is not known.
        first: first round of the rise.
        alarm: returned if `loss_after` is None, or if no round shows half of the rise.
    """
    if loss_after is None:
        return alarm
    half = 0.5 * height([loss_after], level)
    return min((r for r, loss in logged.items() if r >= first and height([loss], level) >= half), default=alarm)


def reproduced(replayed: Sequence[float], logged: Sequence[float], loss_after: float | None, level: float) -> bool:
    """Returns whether the loss rose again with nothing changed.

    1. The log shows a rise in the rounds that are compared.
    2. At its height, the replayed loss rises by more than half of that: half of the rise in the log, or half of the
       rise in the log's rounds that are compared, whichever is less. Or the middle one of the replayed losses does so
       beside the middle one of the log, if this is above the level by REMAINS: a model that a fault breaks from the
       first round on cannot fall from as good a level as the logged one, and the peak of that fall is missing.

    Args:
        replayed: losses of the replay that changes nothing.
        logged: losses of the same rounds in the log, as far as they were measured.
        loss_after: the loss at its height; None if it is not finite or not known.
        level: the loss before the rise.
    """
    whole = height([float("inf") if loss_after is None else loss_after], level)
    if not replayed:
        return False
    in_log = [height([loss], level) for loss in logged] or [whole]
    again = [height([loss], level) for loss in replayed]
    stays = float(np.median(again)) > REPRODUCED * float(np.median(in_log)) and np.median(in_log) >= REMAINS
    return bool(stays) or max(again) > REPRODUCED * min(whole, max(in_log)) > 0
