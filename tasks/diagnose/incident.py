"""The rise that is to be explained, and the rounds and levels by which replays of it are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detection import Increase
from tasks.round_log.read import ClientLog

_BEFORE = 4
"""Rounds before the rise whose mean training loss is the level before it."""


@dataclass(frozen=True)
class Incident:
    """What is to be explained: a rise of one loss.

    Attributes:
        increase: the rise as detected; its `round` and `until` are known.
        loss: column in which it was detected, `val_loss` or `train_loss`.
        rounds: (R,) rounds in which that loss was measured.
        losses: (R,) its values, nats per example.
        trends: ln of the mean loss of the rise's second half over that of its first half: of the training loss, and of
            the hold-out loss.
        sound_after: last round after which the model was sound.
        hidden: the clients whose own loss rose, where the mean of all clients hides it. Then only the rounds count in
            which one of them took part.
    """

    increase: Increase
    loss: str
    rounds: NDArray[np.int64]
    losses: NDArray[np.float64]
    trends: tuple[float, float]
    sound_after: int
    hidden: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """First round of the rise."""
        assert self.increase.round is not None
        return self.increase.round

    @property
    def until(self) -> int:
        """Last round of the rise."""
        assert self.increase.until is not None
        return self.increase.until

    @property
    def alarm(self) -> int:
        """The round after which the rise was sure."""
        return min(self.increase.alarm or self.first, self.until)

    @property
    def loss_after(self) -> float | None:
        """The loss at its height; None where it is not finite, or hidden in the mean of all clients."""
        return None if self.hidden else self.increase.loss_after

    @property
    def logged(self) -> dict[int, float]:
        """The loss of each round in which it was measured."""
        return {int(r): float(loss) for r, loss in zip(self.rounds, self.losses, strict=True)}

    def level(self, start_loss: float) -> float:
        """Returns the loss before the rise: the lower one of two.

        1. The level that the detection found.
        2. `start_loss`, the hold-out loss of the model that the replays start from, if `val_loss` rose.
        """
        levels = [self.increase.loss_before, start_loss if self.loss == "val_loss" else None]
        return min(level for level in levels if level is not None)


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


def window(incident: Incident, clients: ClientLog, start_loss: float, last: int) -> Window:
    """Returns the window from the first round of the rise to round `last`.

    Args:
        incident: the rise.
        clients: clients.csv.
        start_loss: hold-out loss of the model that the replays start from.
        last: last round whose losses are compared.
    """
    first, hidden = incident.first, incident.hidden
    took_part = clients.of(*hidden) if hidden else np.ones(len(clients.rounds), np.bool_)
    counted = set(clients.rounds[took_part].tolist())
    rounds = tuple(r for r in range(first, last + 1) if r in counted)
    level = incident.level(start_loss)
    if hidden:
        # A loss that rose for a few clients only lies above the loss of the others. It is compared in the same rounds:
        # the rounds before the rise may have been of other clients, and in later rounds the others' loss has fallen on.
        others = training_loss(clients, rounds, without=hidden)
        level = level if others is None else others
    before = training_loss(clients, range(first - _BEFORE, first))
    return Window(
        incident.loss, first, last, rounds, {"val_loss": start_loss, "train_loss": before, incident.loss: level}
    )


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
