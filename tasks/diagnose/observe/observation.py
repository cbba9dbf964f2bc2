"""What the logs of a run show: a rise or none, and what each client did in its rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tasks.arrays import Ints
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.drift import Drift, drift, ranking
from tasks.diagnose.observe.events import Event
from tasks.diagnose.observe.outliers import Outlier, outliers
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.observe.rise import Rise, find_rise
from tasks.round_log.read import ClientLog, RoundLog

_FOCUS = 5
"""Rounds of a long rise in which drift is looked for: later, the model that has drifted shows, not who moved it."""
_FEWEST_FOR_A_TREND = 4
"""Losses of the rise, two in each half."""
_SHORTLY = 10
"""Rounds before a rise in which a client's changed data count as its origin."""
_SOUND = 1.1
"""A model is sound if its val_loss is at most this many times the lowest of the last 5."""


@dataclass(frozen=True)
class Observation:
    """What the logs show.

    Attributes:
        rise: of the loss, or that there is none.
        window: the rounds in which the clients were compared, first and last; None without a rise.
        drifts: the clients' drift in each signal, most drifted client first.
        failures: client to the rounds in which it failed, over the whole run.
        clients: ids of all clients of the run, sorted.
        train_trend: ln of the mean training loss of the rise's second half over that of its first; NaN if not known.
        val_trend: the same of the hold-out loss.
        outliers: rows of clients.csv in the rounds of training that are far outside, by round.
    """

    rise: Rise
    window: tuple[int, int] | None
    drifts: tuple[Drift, ...]
    failures: dict[str, tuple[int, ...]]
    clients: tuple[str, ...]
    train_trend: float
    val_trend: float
    outliers: tuple[Outlier, ...] = ()

    @property
    def chance(self) -> Chance | None:
        """Since when the model is at chance; None if it is not, or if that is not known."""
        return self.rise.chance

    @cached_property
    def unusual(self) -> tuple[str, ...]:
        """Clients with an unusual signal, most drifted first, then the other ones with an outlier."""
        unusual = {drift.client for drift in self.drifts if drift.unusual}
        drifted = [client for client in ranking(list(self.drifts)) if client in unusual]
        return tuple(dict.fromkeys([*drifted, *(outlier.client for outlier in self.outliers)]))

    @property
    def healthy(self) -> tuple[str, ...]:
        """Clients that never failed and had no unusual signal."""
        unhealthy = {*self.failures, *self.unusual}
        return tuple(client for client in self.clients if client not in unhealthy)


def observe(
    rounds: RoundLog,
    clients: ClientLog,
    significance: float,
    more_rises: Sequence[ClientRise] = (),
    hold_out: Ints | None = None,
) -> Observation:
    """Returns what the two logs show.

    Args:
        rounds: rounds.csv.
        clients: clients.csv.
        significance: the probability of a rise claimed where there is none.
        more_rises: rises of single clients that are known from elsewhere; they count where no test finds a rise.
        hold_out: (C,) hold-out examples of each class, from which the loss of chance is known; None if not known.
    """
    outside = outliers(clients.without(rounds.rounds[rounds.pruning]), significance)
    rise = find_rise(rounds, clients, significance, more_rises, hold_out, outside)
    window = _window(rounds, rise)
    drifts = drift(clients, *window, significance) if window else []
    place = {client: number for number, client in enumerate(ranking(drifts))}
    return Observation(
        rise,
        window,
        tuple(sorted(drifts, key=lambda each: (place[each.client], -each.score, each.signal))),
        _failures(clients),
        clients.ids,
        _trend(rounds, "train_loss", rise),
        _trend(rounds, "val_loss", rise),
        outside,
    )


def without_rise(observation: Observation) -> Observation:
    """Returns the observation with its rise as an event that is not explained: something else is."""
    was = observation.rise
    events = was.events
    if was.round is not None and was.until is not None:
        phase = was.phase or "federate"
        rise_event = Event(was.round, was.until, was.loss_before, was.loss_after, was.loss, was.clients, phase)
        events = (rise_event, *events)
    rise = replace(
        was,
        events=events,
        detected=False,
        round=None,
        until=None,
        alarm=None,
        loss_before=None,
        loss_after=None,
        confidence=0.0,
        kind="none",
        clients=(),
        val_loss_round=None,
    )
    return replace(observation, rise=rise, window=None, drifts=())


def sound_after(rise: Rise, log: RoundLog, data_rises: Sequence[ClientRise] = ()) -> int:
    """Returns the last round after which the model was sound: replays of the rise begin there.

    Args:
        rise: the rise.
        log: rounds.csv.
        data_rises: rises of single clients that came with a change of their data. Such a change in the 10 rounds
            before the rise had changed the model by then, so the model before the change is the sound one.

    A row's val_loss is measured on the model after the round, so the model after the round before the rise is sound. A
    row's train_loss is measured on the model before the round. Its rise comes from one of two places:

    1. the clients' data in the first round of the rise; the model before it is still sound. This is so if that model's
       val_loss is at most a tenth above the lowest of the last 5;
    2. the update of the round before the rise; the model one round earlier is sound.
    """
    first = rise.round or 1
    before = first - 1
    if rise.loss != "val_loss" and not _val_loss_is_sound(log, before):
        before -= 1
    changed = [each.round - 1 for each in data_rises if first - _SHORTLY <= each.round <= first]
    return max(0, min([before, *changed]))


def _val_loss_is_sound(log: RoundLog, round_num: int) -> bool:
    if "val_loss" not in log.losses:
        return False
    values, measured = log.losses["val_loss"].values, log.losses["val_loss"].given
    last = values[measured & (log.rounds == round_num)]
    recent = values[measured & (log.rounds <= round_num)][-5:]
    return len(last) == 1 and float(last[0]) <= _SOUND * float(recent.min())


def _failures(clients: ClientLog) -> dict[str, tuple[int, ...]]:
    failed: dict[str, set[int]] = {}
    for row in np.flatnonzero(clients.failed):
        failed.setdefault(clients.clients[row], set()).add(int(clients.rounds[row]))
    return {client: tuple(sorted(failed[client])) for client in sorted(failed)}


def _window(log: RoundLog, rise: Rise) -> tuple[int, int] | None:
    """The rounds whose updates made the rise: all since the last loss before it, five of them or up to the alarm.

    train_loss is measured on the model that the round began with, so the round before the rise counts too.
    """
    if rise.round is None or rise.until is None or rise.alarm is None:
        return None
    measured = log.rounds[log.losses[rise.loss].given]
    earlier = measured[measured < rise.round]
    first = int(earlier[-1]) + (rise.loss == "val_loss") if len(earlier) else rise.round
    return first, max(rise.round, min(rise.until, max(rise.alarm, first + _FOCUS - 1)))


def _trend(log: RoundLog, name: str, rise: Rise) -> float:
    """Ln of the mean of the second half of the rise's losses over that of the first half; NaN for fewer than 4."""
    if name not in log.losses or not rise.rounds:
        return np.nan
    values = log.losses[name].values
    inside = (log.rounds >= rise.rounds[0]) & (log.rounds <= rise.rounds[-1])
    during = values[inside & np.isfinite(values) & (values > 0)]
    if len(during) < _FEWEST_FOR_A_TREND:
        return np.nan
    half = len(during) // 2
    return float(np.log(during[-half:].mean() / during[:half].mean()))
