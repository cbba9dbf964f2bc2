"""Changes that are tried in replays, within a budget of rounds, and what came of them in plain numbers."""

from collections.abc import Sequence

import numpy as np

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect, height, removed
from tasks.diagnose.replay.engine import Replay, Replayer, begun
from tasks.diagnose.thresholds import REMAINS
from tasks.diagnose.window import Window


class Trials:
    """Replays of changes, each with one or more seeds, beside the replays that change nothing.

    It decides nothing. `NO_CHANGE` names the replay that changes nothing. A change is known by its identity: two equal
    changes are two.
    """

    def __init__(self, replayer: Replayer, window: Window, allowed: int, floor: float = np.inf) -> None:
        """Runs the replay that changes nothing, with the run's own seed, to the window's end.

        Args:
            replayer: at the model that the replays start from.
            window: the rounds whose losses are compared.
            allowed: rounds that all replays may take.
            floor: a hold-out loss, nats. A change removes none of the harm if its replay does not end below it.
                Infinite: there is no floor.
        """
        self.window, self.allowed, self._floor = window, allowed, floor
        self._replayer = replayer
        self._unchanged: dict[int, Replay] = {0: replayer.unchanged}
        self._changed: dict[int, dict[int, Replay]] = {}
        self._both: dict[frozenset[int], Change] = {}
        replayer.advance(replayer.unchanged, window.last)

    @property
    def spent(self) -> int:
        """Rounds that the replays have taken so far."""
        return self._replayer.spent

    @property
    def start(self) -> int:
        """Round of the model that the replays start from."""
        return self._replayer.from_round

    @property
    def most_seeds(self) -> int:
        """The most seeds that any change was replayed with."""
        return max(map(len, (self._unchanged, *self._changed.values())))

    def affords(self, num_replays: int) -> bool:
        """Returns whether the budget is enough for so many further replays up to the window's end."""
        return self.spent + num_replays * (self.window.last - self.start) <= self.allowed

    def run(self, change: Change, seed: int = 0, until: int | None = None) -> bool:
        """Replays a change, and nothing changed with the same seed, as far as that has not been done.

        Args:
            change: what is different.
            seed: 0 draws what the run drew.
            until: last round; None for the window's last.

        Returns:
            False if the settings or the data do not allow the change.
        """
        replays = self._changed.get(id(change), {})
        if seed not in replays:
            replay = begun(self._replayer, change, seed, self.start)
            if replay is None:
                return False
            replays[seed] = replay
            self._changed[id(change)] = replays
        self.run_unchanged(seed, until)
        self._replayer.advance(replays[seed], self.window.last if until is None else until)
        return True

    def run_unchanged(self, seed: int, until: int | None = None) -> None:
        """Replays nothing changed with this seed, as far as that has not been done."""
        if seed not in self._unchanged:
            self._unchanged[seed] = self._replayer.begin(NO_CHANGE, seed)
        self._replayer.advance(self._unchanged[seed], self.window.last if until is None else until)

    def together(self, first: Change, second: Change) -> Change:
        """Returns both changes at once: the same object for the same two, so that nothing is run twice."""
        return self._both.setdefault(frozenset((id(first), id(second))), first | second)

    def losses(self, change: Change, column: str = "", seed: int = 0, without: tuple[str, ...] = ()) -> list[float]:
        """Returns the losses of the rounds that are compared, as far as the replay has been run.

        Args:
            change: what is different.
            column: `val_loss` or `train_loss`; empty for the loss that rose.
            seed: of the replay.
            without: clients that do not count in `train_loss`.
        """
        replay = self._replay(change, seed)
        losses = replay.losses_without(without) if without else replay.losses[column or self.window.loss]
        return [losses[r - self.start - 1] for r in self.window.rounds if r < replay.next_round]

    def effect(self, change: Change, column: str = "") -> Effect:
        """Returns the share of the rise that a change removes, by seed; seeds whose loss does not rise are left out.

        If the change leaves clients out, `train_loss` is compared over the other clients, in both replays: the loss of
        clients that are gone is gone too, whatever their part in the rise. This is not so if the loss of the other
        clients does not rise: then the loss of the clients that are left out is the rise.
        """
        return Effect(tuple(self._shares(change, column or self.window.loss).values()))

    def _shares(self, change: Change, column: str) -> dict[int, float]:
        """The share of the rise that a change removes, by seed whose loss rises."""
        level, without = self.window.levels[column] or self.window.level, tuple[str, ...]()
        if column == "train_loss" and change.without and self._others_rise(change.without):
            level, without = self.window.level_without(change.without) or level, change.without
        shares = {}
        for seed in sorted(self._changed[id(change)]):
            unchanged = self.losses(NO_CHANGE, column, seed, without)
            changed = self.losses(change, column, seed, without)
            rounds = min(len(unchanged), len(changed))
            share = removed(unchanged[:rounds], changed[:rounds], level)
            shares[seed] = share if self.trains(change, seed) else min(share, 0.0)
        return {seed: share for seed, share in shares.items() if np.isfinite(share)}

    def _others_rise(self, clients: tuple[str, ...]) -> bool:
        """Whether the training loss of the other clients rises too, with nothing changed and the run's own seed."""
        level = self.window.level_without(clients)
        losses = self.losses(NO_CHANGE, "train_loss", without=clients)
        return level is not None and bool(losses) and height(losses, level) >= REMAINS

    def trains(self, change: Change, seed: int) -> bool:
        """Whether the model is below the floor at the end of the window, or of a shorter replay."""
        losses = self._replay(change, seed).losses["val_loss"][: self.window.last - self.start]
        return not losses or losses[-1] < self._floor

    def removed(self, change: Change, column: str = "") -> float:
        """Returns the mean of that share over the seeds; 0 if no seed's loss rises."""
        effect = self.effect(change, column)
        return effect.mean if effect.by_seed else 0.0

    def height(self, change: Change, column: str) -> float:
        """Returns the mean ln(loss / level) over the rounds that are compared; 0 if the level is not known."""
        level = self.window.levels[column]
        return 0.0 if level is None else height(self.losses(change, column), level)

    def fall(self, first: Change, then: Change, column: str) -> float:
        """Returns the mean fall of ln(loss) from the replay of `first` to `then`'s; 0 if the level is not known."""
        level = self.window.levels[column]
        if level is None:
            return 0.0
        losses = [self.losses(change, column) for change in (first, then)]
        before, after = (height(part[: min(map(len, losses))], level) for part in losses)
        return before - after

    def failed(self, change: Change, seed: int = 0) -> int:
        """Returns the failed clients in the rounds of the window; of a replay that broke down, all clients besides."""
        replay, last = self._replay(change, seed), self.window.last
        lines = [line for line in replay.lines if self.window.first <= line.round <= last]
        return sum(line.row["num_failed"] for line in lines) + replay.broken * self._replayer.num_clients

    def series(self, change: Change, column: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns (with nothing changed, with the change): the loss of each round up to the window's end.

        Each is the mean over the seeds whose loss rises, of all seeds if there is none.
        """
        rounds = self.window.last - self.start  # the replay that changes nothing may have been run farther
        seeds = list(self._shares(change, column)) or sorted(self._changed[id(change)])
        unchanged = [self._replay(NO_CHANGE, seed).losses[column][:rounds] for seed in seeds]
        changed = [self._replay(change, seed).losses[column][:rounds] for seed in seeds]
        return _mean(unchanged), _mean(changed)

    def unchanged_mean(self, column: str) -> tuple[float, ...]:
        """Returns the loss of each round up to the window's end with nothing changed, the mean over its seeds."""
        rounds = self.window.last - self.start
        return _mean([replay.losses[column][:rounds] for replay in self._unchanged.values()])

    def replay(self, change: Change) -> Replay:
        """Returns the replay of a change with the run's own seed, which may be run on beyond the window."""
        return self._replay(change, 0)

    def _replay(self, change: Change, seed: int) -> Replay:
        return self._unchanged[seed] if change is NO_CHANGE else self._changed[id(change)][seed]


def _mean(replays: Sequence[Sequence[float]]) -> tuple[float, ...]:
    rounds = min(len(losses) for losses in replays)
    return tuple(float(value) for value in np.mean([losses[:rounds] for losses in replays], axis=0))
