"""Did the loss rise, in which rounds, and which of several rises does most harm?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.arrays import Bools, Ints
from tasks.detection import Increase
from tasks.diagnose.observe.chance import Chance, breaking_event, find_chance, lost_event
from tasks.diagnose.observe.events import Event, Found, found_of, rises_in
from tasks.diagnose.observe.loss_tests import RECENT, tested_losses
from tasks.diagnose.observe.outliers import Outlier
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.thresholds import CHANCE_WORSE
from tasks.round_log.read import ClientLog, RoundLog

_TRAINING = 0.9
"""Share of the significance of the rounds of training, if the run pruned; the rest is for the rounds of pruning."""


@dataclass(frozen=True)
class Rise:
    """Whether, when and how far the loss rose.

    Attributes:
        detected: whether it rose beyond its noise.
        round: first round of the rise; None if there is none.
        until: last round of the rise; None if there is none.
        loss_before: the loss before it, nats per example; None if not known.
        loss_after: the loss at its height; None if not finite.
        confidence: 1 - the probability of a rise as clear by noise alone.
        alarm: the round after which the rise was sure; None if there is none.
        kind: `none`, `level`, `not_finite`, as tasks/detection names it; `ended` for the rounds before a run's end.
        noise: sd of the loss's noise, as a fraction of the loss (see `relative`); None if not estimated.
        correlation: lag-1 correlation of that noise; None if not estimated.
        visible: the least lasting rise that the test would have seen, in the unit of `noise`; None if there is none.
        relative: false where the losses are not all positive: `noise` and `visible` are then in nats.
        significance: `diagnose.significance`, the probability of a claim where nothing rose.
        loss: the column of rounds.csv that was tested, `val_loss` or `train_loss`.
        num_losses: rounds in which that column was measured.
        phase: phase of the first round of the rise, `federate` or `prune`; "" if not known.
        sparsity: sparsity of the model before and at the end of the rise; None unless it rose with the loss.
        clients: those whose own loss rose, or who failed, where the mean of all clients hides it; else none.
        val_loss_round: round from which `val_loss` rose too, where `loss` is `train_loss`; else None.
        other: the loss of the other column, mean before the rise and in it; None where it was not measured.
        chance: since when the model is at chance; None if it is not, or if that is not known.
        events: other rises, of the training and of the pruning, in the order of their rounds.
    """

    detected: bool
    round: int | None
    until: int | None
    loss_before: float | None
    loss_after: float | None
    confidence: float
    alarm: int | None
    kind: Literal["none", "level", "not_finite", "ended", "at_chance"]
    noise: float | None
    correlation: float | None
    visible: float | None
    relative: bool
    significance: float
    loss: str
    num_losses: int
    phase: str
    sparsity: tuple[float, float] | None
    clients: tuple[str, ...]
    val_loss_round: int | None
    other: tuple[float, float] | None = None
    chance: Chance | None = None
    events: tuple[Event, ...] = ()

    @property
    def of_an_end(self) -> bool:
        """Whether it stands for a run that ended, or for a model that stays at chance, and not for a rise."""
        return self.kind in ("ended", "at_chance")

    @property
    def rounds(self) -> range:
        """The rounds of the rise; empty if there is none."""
        return range(0) if self.round is None or self.until is None else range(self.round, self.until + 1)


def find_rise(
    log: RoundLog,
    clients: ClientLog,
    significance: float,
    more_rises: Sequence[ClientRise] = (),
    hold_out: Ints | None = None,
    outliers: Sequence[Outlier] = (),
) -> Rise:
    """Returns the rise that is to be explained, or that there is none.

    Half of the significance goes to the clients, whose short series need it most. The other half goes to the columns
    of rounds.csv, three fifths of it to the first, so that any claim has the significance as a whole. If the run
    pruned, the rounds of training have 0.9 of it. A rise in a round of pruning is an event only: it replaces no answer
    for the training. Of several rises of the training, the one that did most harm is explained (`rises_in`); but the
    event that broke a model that is at chance comes first. What stays near chance is no rise. Where no test finds a
    rise, a model that lost all that it had learned shows one (`lost_event`).

    Args:
        log: rounds.csv.
        clients: clients.csv.
        significance: the probability of a claim where nothing rose.
        more_rises: rises of single clients that are known from elsewhere; they count where no test finds a rise.
        hold_out: (C,) hold-out examples of each class, from which the loss of chance is known; None if not known.
        outliers: rows of clients.csv that are far outside: a rise is looked for from their rounds on.
    """
    training, pruning = _stages(log)
    chance = find_chance(log, hold_out)
    share = _TRAINING if pruning.any() else 1.0
    found = _in_training(log, clients, training, significance * share, chance, hold_out, outliers)
    if not found[0].increase.detected and (lost := lost_event(log, hold_out)):
        found, share = [Found("val_loss", lost)], 1.0
    if not found[0].increase.detected and (of_few := found_of(more_rises, log, clients, 1.0, found[0].loss)):
        found, share = [of_few], 1.0
    explained, *others = found
    if pruning.any():
        others += [
            each
            for each in rises_in(log, clients, training | pruning, significance * (1 - share), of_clients=False)
            if each.increase.round in log.rounds[pruning]
        ]
    increase, loss = explained.increase, explained.loss
    if increase.kind != "not_finite":
        increase = replace(increase, confidence=max(0.0, 1 - (1 - increase.confidence) / share))
    return Rise(
        **vars(increase),
        significance=significance,
        loss=loss,
        num_losses=int(log.losses[loss].given.sum()),
        phase=_phase(log, increase.round),
        sparsity=_rising_sparsity(log, increase),
        clients=explained.clients,
        val_loss_round=explained.other.increase.round if explained.other and loss != "val_loss" else None,
        other=_other_loss(log, increase, loss),
        chance=chance,
        events=_events(log, explained, others),
    )


def _stages(log: RoundLog) -> tuple[Bools, Bools]:
    """The rows of training and of pruning; a log that has only rounds of pruning is tested as training is."""
    pruning = log.pruning
    return (pruning, ~pruning) if pruning.all() else (~pruning, pruning)


def _in_training(
    log: RoundLog,
    clients: ClientLog,
    training: Bools,
    significance: float,
    chance: Chance | None,
    hold_out: Ints | None,
    outliers: Sequence[Outlier],
) -> list[Found]:
    if chance is None or hold_out is None:
        return rises_in(log, clients, training, significance, outliers)
    broken = breaking_event(log, chance, len(hold_out))
    if broken is not None:
        earlier = training & (log.rounds < (broken.round or 0))
        found = rises_in(log, clients, earlier, significance, outliers, of_clients=False) if earlier.any() else []
        return [Found("val_loss", broken), *(each for each in found if each.increase.detected)]
    found = rises_in(log, clients, training, significance, outliers)
    found = [each for each in found if each.increase.detected and not _at_chance(each.increase, chance)]
    return found or [Found(tested_losses(log)[0], Increase(detected=False))]


def _at_chance(increase: Increase, chance: Chance) -> bool:
    """Whether a rise begins and ends at chance."""
    later, after = (increase.round or 0) >= chance.since, increase.loss_after
    return increase.kind == "level" and later and after is not None and after < CHANCE_WORSE * chance.loss


def _events(log: RoundLog, explained: Found, others: Sequence[Found]) -> tuple[Event, ...]:
    rises = [(each.loss, each.increase, each.clients) for each in others]
    rises += [(each.other.loss, each.other.increase, ()) for each in (explained, *others) if each.other]
    events = [
        Event(
            increase.round or 0,
            increase.until or 0,
            increase.loss_before,
            increase.loss_after,
            loss,
            clients,
            _phase(log, increase.round),
        )
        for loss, increase, clients in rises
    ]
    return tuple(sorted(events, key=lambda event: (event.round, event.loss)))


def _other_loss(log: RoundLog, increase: Increase, loss: str) -> tuple[float, float] | None:
    """The mean of the other column in the up to 4 rounds before the rise, and in the rise."""
    other = next((name for name in log.losses if name != loss), None)
    if other is None or increase.round is None or increase.until is None:
        return None
    values = log.losses[other].values
    finite = np.isfinite(values)
    before = values[finite & (log.rounds < increase.round)][-RECENT:]
    during = values[finite & (log.rounds >= increase.round) & (log.rounds <= increase.until)]
    return (float(before.mean()), float(during.mean())) if len(before) and len(during) else None


def _phase(log: RoundLog, round_num: int | None) -> str:
    """The phase of a round; "" if it is not known."""
    if round_num is None:
        return ""
    return log.phases[int(np.searchsorted(log.rounds, round_num))] if round_num in log.rounds else ""


def _rising_sparsity(log: RoundLog, increase: Increase) -> tuple[float, float] | None:
    if log.sparsity is None or increase.round is None or increase.until is None:
        return None
    finite = np.isfinite(log.sparsity.values)
    before = log.sparsity.values[finite & (log.rounds < increase.round)]
    during = log.sparsity.values[finite & (log.rounds >= increase.round) & (log.rounds <= increase.until)]
    if not len(before) or not len(during) or during.max() <= before[-1]:
        return None
    return float(before[-1]), float(during.max())
