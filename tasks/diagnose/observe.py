"""What the logs of a run show: a rise or none, who drifted then, and what they cannot tell."""

from dataclasses import dataclass, replace

import numpy as np

from tasks.diagnose.detection import Increase, find_increase
from tasks.diagnose.drift import Drift, drift, ranking
from tasks.diagnose.logs import Bools, ClientLog, RoundLog
from tasks.diagnose.scan import FEWEST

_FOCUS = 5
"""Rounds of a long rise in which drift is looked for: later, the model that has drifted shows, not who moved it."""


@dataclass(frozen=True)
class Observation:
    """What the logs show.

    Attributes:
        increase: the rise.
        loss: the column that was tested.
        num_losses: how many rounds gave it.
        phase: phase of the round in which the rise began; "" if not known.
        sparsity: sparsity before and at the end of the rise, where it rose with the loss.
        window: the rounds in which the clients were compared, first and last.
        drifts: their drift in each signal, most drifted client first.
        failures: client to rounds in which it failed, over the whole run.
        clients: ids of all clients of the run, sorted.
    """

    increase: Increase
    loss: str
    num_losses: int
    phase: str
    sparsity: tuple[float, float] | None
    window: tuple[int, int] | None
    drifts: tuple[Drift, ...]
    failures: dict[str, tuple[int, ...]]
    clients: tuple[str, ...]

    @property
    def unusual(self) -> tuple[str, ...]:
        """Clients with an unusual signal, most drifted first."""
        odd = {one.client for one in self.drifts if one.unusual}
        return tuple(client for client in ranking(list(self.drifts)) if client in odd)

    @property
    def healthy(self) -> tuple[str, ...]:
        """Clients that never failed and had no unusual signal."""
        return tuple(c for c in self.clients if c not in self.failures and c not in self.unusual)


def observe(rounds: RoundLog, clients: ClientLog, significance: float) -> Observation:
    """Returns what the two logs show; `significance` is the probability of a rise claimed where there is none."""
    loss, increase = _increase(rounds, significance)
    window = _window(rounds, loss, increase)
    drifts = drift(clients, *window, significance) if window else []
    place = {client: number for number, client in enumerate(ranking(drifts))}
    failed: dict[str, set[int]] = {}
    for row in np.flatnonzero(clients.failed):
        failed.setdefault(clients.clients[row], set()).add(int(clients.rounds[row]))
    began = rounds.rounds == increase.round if increase.round is not None else np.zeros(len(rounds.rounds), np.bool_)
    return Observation(
        increase,
        loss,
        int(rounds.losses[loss].given.sum()),
        rounds.phases[int(np.argmax(began))] if began.any() else "",
        _rising_sparsity(rounds, increase),
        window,
        tuple(sorted(drifts, key=lambda one: (place[one.client], -one.score, one.signal))),
        {client: tuple(sorted(failed[client])) for client in sorted(failed)},
        tuple(sorted(set(clients.clients))),
    )


def tested_loss(log: RoundLog) -> str:
    """Returns the column that is tested: val_loss if 8 rounds gave it, else the one that more rounds gave."""
    if "val_loss" in log.losses and log.losses["val_loss"].given.sum() >= FEWEST:
        return "val_loss"
    return max(log.losses, key=lambda name: int(log.losses[name].given.sum()))


def _increase(log: RoundLog, significance: float) -> tuple[str, Increase]:
    """The rise and its column. A value that is not finite counts in whichever loss it came first."""
    tested = tested_loss(log)
    found = _phase_by_phase(log, tested, significance)
    for name, column in log.losses.items():
        if name == tested or not column.not_finite.any():
            continue
        other = _test(log, name, np.ones(len(log.rounds), dtype=np.bool_), significance)
        if found.round is None or (other.round is not None and other.round < found.round):
            tested, found = name, other
    return tested, found


def _phase_by_phase(log: RoundLog, name: str, significance: float) -> Increase:
    """Tests the rounds before pruning, and only if nothing is there the whole run, so that pruning hides no rise.

    Each of the two gets half of the significance, and the confidence says so.
    """
    every = np.ones(len(log.rounds), dtype=np.bool_)
    training = np.array([phase != "prune" for phase in log.phases])
    if training.all() or not training.any():
        return _test(log, name, every, significance)
    found = _test(log, name, training, significance / 2)
    if not found.detected:
        found = _test(log, name, every, significance / 2)
    return replace(found, confidence=max(0.0, 2 * found.confidence - 1))


def _test(log: RoundLog, name: str, rows: Bools, significance: float) -> Increase:
    column = log.losses[name]
    measured = rows & column.given
    return find_increase(log.rounds[measured], column.values[measured], significance)


def _window(log: RoundLog, loss: str, increase: Increase) -> tuple[int, int] | None:
    """The rounds whose updates made the rise: all since the last loss before it, five of them or up to the alarm.

    train_loss is measured on the model that the round began with, so the round before counts too.
    """
    if increase.round is None or increase.until is None or increase.alarm is None:
        return None
    measured = log.rounds[log.losses[loss].given]
    earlier = measured[measured < increase.round]
    first = int(earlier[-1]) + (loss == "val_loss") if len(earlier) else increase.round
    return first, max(increase.round, min(increase.until, max(increase.alarm, first + _FOCUS - 1)))


def _rising_sparsity(log: RoundLog, increase: Increase) -> tuple[float, float] | None:
    if log.sparsity is None or increase.round is None or increase.until is None:
        return None
    known = np.isfinite(log.sparsity.values)
    before = log.sparsity.values[known & (log.rounds < increase.round)]
    during = log.sparsity.values[known & (log.rounds >= increase.round) & (log.rounds <= increase.until)]
    if not len(before) or not len(during) or during.max() <= before[-1]:
        return None
    return float(before[-1]), float(during.max())
