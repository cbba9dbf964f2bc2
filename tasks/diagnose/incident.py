"""The rise that is to be explained."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.observe.rise import Rise


@dataclass(frozen=True)
class Incident:
    """What is to be explained: a rise of one loss.

    Attributes:
        rise: as the logs show it; its `round` and `until` are known.
        rounds: (R,) rounds in which that loss was measured.
        losses: (R,) its values, nats per example.
        trends: ln of the mean loss of the rise's second half over that of its first half: of the training loss, and of
            the hold-out loss.
        sound_after: last round after which the model was sound.
        hold_out: `val_loss` of the rounds of training in which it was measured, by round.
    """

    rise: Rise
    rounds: NDArray[np.int64]
    losses: NDArray[np.float64]
    trends: tuple[float, float]
    sound_after: int
    hold_out: Mapping[int, float] = field(default_factory=dict)

    @property
    def loss(self) -> str:
        """Column in which the rise was detected, `val_loss` or `train_loss`."""
        return self.rise.loss

    @property
    def hidden(self) -> tuple[str, ...]:
        """The clients whose own loss rose, where the mean of all clients hides it; none where it is not finite.

        If there are any, only the rounds count in which one of them took part.
        """
        return () if self.rise.kind == "not_finite" else self.rise.clients

    @property
    def first(self) -> int:
        """First round of the rise."""
        assert self.rise.round is not None
        return self.rise.round

    @property
    def until(self) -> int:
        """Last round of the rise."""
        assert self.rise.until is not None
        return self.rise.until

    @property
    def alarm(self) -> int:
        """The round after which the rise was sure."""
        return min(self.rise.alarm or self.first, self.until)

    @property
    def loss_after(self) -> float | None:
        """The loss at its height; None where it is not finite, or hidden in the mean of all clients."""
        return None if self.hidden else self.rise.loss_after

    @property
    def logged(self) -> dict[int, float]:
        """The loss of each round in which it was measured."""
        return {int(r): float(loss) for r, loss in zip(self.rounds, self.losses, strict=True)}

    def level(self, start_loss: float) -> float:
        """Returns the loss before the rise: the lower one of two.

        1. The level that the detection found.
        2. `start_loss`, the hold-out loss of the model that the replays start from, if `val_loss` rose.
        """
        levels = [self.rise.loss_before, start_loss if self.loss == "val_loss" else None]
        return min(level for level in levels if level is not None)
