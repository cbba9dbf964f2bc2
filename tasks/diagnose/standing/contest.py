"""Whole runs again from round 1, with what may be in the way taken away: does the loss end lower, beyond its noise?"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import ln
from tasks.diagnose.replay.engine import Replay, Replayer, begun
from tasks.diagnose.standing.ends import Ends, ending_of, mean_loss
from tasks.diagnose.thresholds import MARGIN
from tasks.diagnose.verdict import SEEDS


@dataclass
class Contest:
    """Runs of all rounds with changes, within a budget.

    Attributes:
        replays: at the model before round 1.
        logged: hold-out loss of the run by round, if the run can be compared with replays; empty if it cannot.
        last: the last round that is compared.
        allowed: rounds that all replays may take.
        since: first round in which the suspected fault acts.
    """

    replays: Replayer
    logged: Mapping[int, float]
    last: int
    allowed: int
    since: int = 1
    _begun: dict[tuple[int, int], Replay] = field(default_factory=dict)

    @property
    def ending(self) -> range:
        """The rounds whose mean loss is compared: at the end, or all in which a fault acts that began later."""
        return range(self.since, self.last + 1) if self.since > 1 else ending_of(self.last)

    def affords(self, num_replays: int) -> bool:
        """Returns whether the budget is enough for so many further runs."""
        return self.replays.spent + num_replays * self.last <= self.allowed

    def run(self, change: Change, seed: int = 0, until: int | None = None) -> dict[int, float] | None:
        """Returns the hold-out loss of each round with a change; None if the settings or the data do not allow it."""
        if change is NO_CHANGE and seed == 0 and self.logged:
            return dict(self.logged)
        key = id(change), seed
        if key not in self._begun:
            replay = begun(self.replays, change, seed, from_round=1)
            if replay is None:
                return None
            self._begun[key] = replay
        self.replays.advance(self._begun[key], self.last if until is None else until)
        return dict(enumerate(self._begun[key].losses["val_loss"], start=1))

    def end(self, losses: Mapping[int, float], rounds: range | None = None) -> float:
        """Returns the geometric mean of the losses in the rounds at the end, as far as they were measured."""
        return mean_loss(losses, rounds or self.ending)

    def promises(self, change: Change, base: Change) -> float | None:
        """Returns ln(loss at the end without / with a change beyond `base`), with the run's own seed.

        A run whose loss is higher by more than MARGIN halfway ends there. None if the change is not allowed or not
        affordable.
        """
        halfway = max(1, self.last // 2)
        half = ending_of(halfway)
        before = self.run(base)
        if before is None or not self.affords(1) or (after := self.run(change, until=halfway)) is None:
            return None
        if self.end(after, half) > self.end(before, half) * (1 + MARGIN):
            return ln(self.end(before, half)) - ln(self.end(after, half))
        after = self.run(change)
        return None if after is None else ln(self.end(before)) - ln(self.end(after))

    def ends(self, change: Change, base: Change) -> Ends | None:
        """Returns how the run ends with a change beyond `base` in each seed; None if the budget ends before that."""
        without, with_change = [], []
        for seed in range(SEEDS):
            missing = [each for each in (base, change) if not self.is_run(each, seed)]
            if not self.affords(len(missing)):
                return None
            both = [self.run(each, seed) for each in (base, change)]
            if both[0] is None or both[1] is None:
                return None
            without.append(self.end(both[0]))
            with_change.append(self.end(both[1]))
        return Ends(tuple(without), tuple(with_change))

    def is_run(self, change: Change, seed: int = 0) -> bool:
        """Returns whether the losses with a change are known up to the last round."""
        if change is NO_CHANGE and seed == 0 and self.logged:
            return True
        replay = self._begun.get((id(change), seed))
        return replay is not None and replay.next_round > self.last

    def series(self, change: Change) -> tuple[float, ...]:
        """Returns the hold-out loss of each round, mean over the seeds that were run; NaN where it was not measured."""
        seeds = [seed for seed in range(SEEDS) if self.is_run(change, seed)]
        if not seeds and (id(change), 0) in self._begun:  # it ended halfway
            seeds = [0]
        runs = [self.run(change, seed, until=0) or {} for seed in seeds]
        last = min(self.last, *(max(run, default=0) for run in runs)) if runs else 0
        return tuple(float(np.mean([run.get(at, np.nan) for run in runs])) for at in range(1, last + 1))

    def loss_of_others(self, change: Change, clients: tuple[str, ...]) -> float | None:
        """Returns the other clients' own loss at the end of the replay of a change, with the run's own seed.

        None if it was not replayed, as nothing changed need not be: that is in the log.
        """
        if (id(change), 0) not in self._begun:
            return None
        losses = self._begun[id(change), 0].losses_without(clients)
        return self.end(dict(enumerate(losses, start=1)))
