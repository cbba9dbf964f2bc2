"""Replays of a run that ended: with nothing changed, and with changes that may let it train."""

import json

import numpy as np

from tasks.diagnose.ended.course import Course, bar, early_bar, effect_of, trains
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.engine import Replay, Replayer, begun
from tasks.diagnose.verdict import SEEDS
from tasks.diagnose.window import chance_loss


class Survival:
    """Runs replays from a sound model to one round, and says which of them train.

    Two changes that change the same are one, so nothing is run twice.

    Attributes:
        start: round of the model that the replays start from.
        last: round to which they run.
        chance: loss of a model that does not look at its inputs, nats per example.
        below: final loss below which a replay to round `last` trains.
        limit: rounds that the replays may take in all.
    """

    def __init__(self, replays: Replayer, last: int, strict: bool, at_chance: bool = False) -> None:
        """Prepares the replays.

        Args:
            replays: at the model that the replays start from.
            last: round to which they run.
            strict: whether a client that fails ends the run, as with `federate.guard: stop`.
            at_chance: whether the run did not end, but stayed at chance: then only a model below chance trains.
        """
        self._replays, self._strict = replays, strict
        self.start, self.last = replays.from_round, last
        self.chance = chance_loss(replays.cohort.test_y)
        self._at_end = bar(self.chance, replays.loss)
        self.below = early_bar(self.chance, replays.loss) if self.to_the_end and not at_chance else self._at_end
        self._begun: dict[tuple[str, int], Replay] = {}
        self.limit = self.spent

    @property
    def spent(self) -> int:
        """Rounds that the replays have taken so far."""
        return self._replays.spent

    @property
    def length(self) -> int:
        """Rounds of one replay."""
        return self.last - self.start

    @property
    def to_the_end(self) -> int:
        """Rounds from the end of a replay to the last round of the run."""
        return max(0, self._replays.last_round - self.last)

    def affords(self, num_rounds: int) -> bool:
        """Returns whether so many more rounds are within the limit."""
        return self.spent + num_rounds <= self.limit

    def run(self, change: Change, seed: int = 0) -> Course | None:
        """Returns the replay of a change, to the last round; None if the settings or the data do not allow it."""
        key = _key(change), seed
        if key not in self._begun:
            replay = begun(self._replays, change, seed, self.start)
            if replay is None:
                return None
            self._begun[key] = replay
            self._advance(replay, self.last)
        return self._course(self._begun[key])

    def _advance(self, replay: Replay, last: int) -> None:
        """Runs a replay up to round `last`, or to its end."""
        while replay.next_round <= last and not self._course(replay).ended:
            self._replays.advance(replay, replay.next_round)

    def trains_to_the_end(self, change: Change) -> bool:
        """Returns whether the run trains with a change up to its last round, with the run's own seed."""
        replay = self._begun[_key(change), 0]
        self._advance(replay, self._replays.last_round)
        return trains(self._course(replay, whole=True), self._at_end)

    def trains(self, change: Change, seed: int = 0) -> bool:
        """Returns whether the run trains with a change."""
        course = self.run(change, seed)
        return course is not None and trains(course, self.below)

    def confirmed(self, change: Change) -> Effect:
        """Returns the effect of a change over all seeds; it ends with the first seed that does not train."""
        for seed in range(SEEDS):
            self.run(NO_CHANGE, seed)
            if not self.trains(change, seed):
                break
        return self.effect(change)

    def effect(self, change: Change) -> Effect:
        """Returns the effect of a change over the seeds that were run with it."""
        seeds = self._seeds(change)
        without, with_change = (
            [self._course(self._begun[_key(each), seed]) for seed in seeds] for each in (NO_CHANGE, change)
        )
        return effect_of(without, with_change, self.below)

    def final(self, change: Change) -> float:
        """Returns the final loss with a change, mean over the seeds that were run; infinite if one ended."""
        return float(np.mean([self._course(self._begun[_key(change), seed]).final for seed in self._seeds(change)]))

    def series(self, change: Change) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns (with nothing changed, with the change): val_loss of each round, mean over the change's seeds."""
        seeds = self._seeds(change)
        both = [[self._course(self._begun[_key(each), seed]).losses for seed in seeds] for each in (NO_CHANGE, change)]
        unchanged, changed = (tuple(float(loss) for loss in np.mean(losses, axis=0)) for losses in both)
        return unchanged, changed

    def _seeds(self, change: Change) -> list[int]:
        both = [{seed for of, seed in self._begun if of == _key(each)} for each in (NO_CHANGE, change)]
        return sorted(both[0] & both[1])

    def _course(self, replay: Replay, whole: bool = False) -> Course:
        """The rounds up to `last`, or the `whole` replay; the losses after its end are infinite."""
        last = self._replays.last_round if whole else self.last
        lines = [line for line in replay.lines if line.round <= last]
        losses = replay.losses["val_loss"][: last - self.start]
        gone = {*replay.change.without, *replay.change.settings.get("federate.exclude", ())}
        broken = [client for client in self._replays.cohort.broken if client not in gone]
        # A client that is broken from the beginning is logged in round 1 only, and is no harm without the guard.
        logged = len(broken) if self.start == 0 and lines else 0
        failures = sum(line.row["num_failed"] for line in lines) - logged
        wrong = bool(lines) and (failures > 0 or bool(broken) or not np.isfinite(losses).all())
        padded = (*losses, *[np.inf] * (last - self.start - len(losses)))
        return Course(padded, max(0, failures), replay.broken or (self._strict and wrong))


def _key(change: Change) -> str:
    """What a change changes, as text."""
    return json.dumps(change.described(), sort_keys=True)
