"""What the logs say of a run that ended before its last round."""

from dataclasses import dataclass, replace

import numpy as np

from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.thresholds import BLOWN_UP, STILL_SOUND
from tasks.round_log.read import ClientLog, RoundLog

_GUARD = "federate.guard: "
RISEN = "val_loss has risen"
"""What the guard's reason begins with if it stopped the run because of a rise."""


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        round: in which it ended.
        phase: of that round, `federate` or `prune`; "" if not known.
        failure: why, as rounds.csv says it, without the guard's name.
        by_guard: whether `federate.guard` stopped it.
        failed: the clients that failed in that round, sorted.
        not_finite: those of them whose update was not finite.
        num_clients: clients with a row in that round.
        since: first round in which something was wrong.
        sound_after: last round after which the model was as good as ever; 0 for the model before round 1.
        loss_before: val_loss of that model, nats per example; None if it was not measured.
        goes_on: the run did not end, but its model was broken and stayed at chance to the last round.
    """

    round: int
    phase: str
    failure: str
    by_guard: bool
    failed: tuple[str, ...]
    not_finite: tuple[str, ...]
    num_clients: int
    since: int
    sound_after: int
    loss_before: float | None
    goes_on: bool = False

    @property
    def by_rise(self) -> bool:
        """Whether the guard stopped the run because val_loss rose; then the rise is what is to be explained."""
        return self.by_guard and self.failure.startswith(RISEN)

    @property
    def all_failed(self) -> bool:
        """Whether no client's update could be used."""
        return len(self.failed) == self.num_clients


def find_ending(rounds: RoundLog, clients: ClientLog) -> Ending | None:
    """Returns how the run ended; None if the log does not say that it ended early.

    It says so in one of two ways: (1) the last row of rounds.csv has a `failure`, or (2) every client of the last round
    failed. A run that was killed, and one that still runs, have neither.
    """
    last = int(rounds.rounds[-1])
    rows = clients.rounds == last
    failed, not_finite = (_names(clients, rows & column) for column in (clients.failed, clients.not_finite))
    num_clients = len(_names(clients, rows))
    failure = rounds.failure or ("every client failed" if failed and len(failed) == num_clients else "")
    if not failure:
        return None
    sound, loss = _last_sound(rounds, last)
    return Ending(
        last,
        rounds.phases[-1],
        failure.removeprefix(_GUARD),
        failure.startswith(_GUARD),
        failed,
        not_finite,
        num_clients,
        _since(rounds, clients, sound, last),
        sound,
        loss,
    )


def broken_model(observation: Observation, rounds: RoundLog, clients: ClientLog) -> Ending | None:
    """Returns that the first round broke the model, if it did, and the model stayed at chance to the last round.

    None if the loss rose later: then it has a level before the rise, with which replays can be compared.
    """
    rise, trained = observation.rise, rounds.rounds[~rounds.pruning]
    if observation.chance is None or not len(trained) or rise.round != trained[0] or rise.phase == "prune":
        return None
    last = int(trained[-1])
    num_clients = len(_names(clients, clients.rounds == last))
    first, loss = int(trained[0]), rise.loss_before
    return Ending(last, "federate", "", False, (), (), num_clients, first, first - 1, loss, goes_on=True)


def as_rise(observation: Observation, ending: Ending) -> Observation:
    """Returns the observation with the rounds from the first wrong one to the end in place of a rise of the loss."""
    if ending.goes_on:
        return replace(observation, rise=replace(observation.rise, kind="at_chance", until=ending.round))
    rise = replace(
        observation.rise,
        detected=True,
        kind="ended",
        round=ending.since,
        until=ending.round,
        alarm=ending.round,
        loss_before=ending.loss_before,
        loss_after=None,
        confidence=1.0,
        phase=ending.phase,
        clients=() if ending.all_failed else ending.failed,
        val_loss_round=None,
    )
    return replace(observation, rise=rise)


def _names(clients: ClientLog, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[str, ...]:
    return tuple(sorted({clients.clients[row] for row in np.flatnonzero(rows)}))


def _validated(rounds: RoundLog, last: int) -> list[tuple[int, float]]:
    """(round, val_loss) of each validation before round `last`; the first one is round 0, with the clients' loss.

    train_loss of the first round is the loss of the first model, which no round validates.
    """
    start, val = rounds.losses.get("train_loss"), rounds.losses.get("val_loss")
    first = [(0, float(start.values[0]))] if start is not None and start.given[0] and rounds.rounds[0] == 1 else []
    if val is None:
        return first
    earlier = val.given & (rounds.rounds < last)
    return [*first, *((int(r), float(v)) for r, v in zip(rounds.rounds[earlier], val.values[earlier], strict=True))]


def _last_sound(rounds: RoundLog, last: int) -> tuple[int, float | None]:
    """The last round before `last` whose val_loss is at most STILL_SOUND times the lowest so far, and that val_loss."""
    sound, at, lowest = 0, None, np.inf
    for number, loss in _validated(rounds, last):
        if np.isfinite(loss) and loss <= STILL_SOUND * lowest:
            sound, at = number, loss
            lowest = min(lowest, loss)
    return sound, at


def _since(rounds: RoundLog, clients: ClientLog, sound: int, last: int) -> int:
    """The first round after `sound` in which a client failed, or after which the loss was BLOWN_UP times the lowest."""
    losses = _validated(rounds, last)
    lowest = min((loss for number, loss in losses if number <= sound), default=np.inf)
    blown_up = [number for number, loss in losses if number > sound and not loss <= BLOWN_UP * lowest]
    failures = clients.rounds[clients.not_finite & (clients.rounds > sound)].tolist()
    return int(min([*blown_up, *failures, last]))
