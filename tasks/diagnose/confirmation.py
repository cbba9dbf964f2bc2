"""Whether a remedy still helps at the end of the run: its replays to the last round, beside the run.

A replay of a few rounds takes a rise that is only postponed for one that is gone. It also misses what a client's data
were good for. So the short replay of the remedy that wins the search is run on to the end of the run. If the remedy
holds there, it is replayed from round 1 as well. The hold-out loss decides.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import LongReplay
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import height, ln, removed
from tasks.diagnose.replay.engine import Replay, Replayer
from tasks.diagnose.thresholds import AS_GOOD, CONFIRMED_SEEDS, ENDING
from tasks.diagnose.window import chance_loss
from tasks.errors import SettingsError
from tasks.round_log.read import ClientLog

_log = logging.getLogger(__name__)
_BEFORE = 4
"""Losses before the rise whose mean is the level of clients' own losses."""

Losses = Mapping[int, float]
"""A loss by round, nats per example; infinite where it is not finite."""


@dataclass
class Confirmation:
    """Replays remedies to the end of the run, within an allowance of rounds that their search shares.

    Attributes:
        replays: at the model that the replays of causes start from.
        incident: the rise.
        clients: clients.csv.
        allowed: rounds that all replays of remedies may take.
    """

    replays: Replayer
    incident: Incident
    clients: ClientLog
    allowed: int
    _spent_before: int = field(init=False)
    _unchanged: Replay | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Starts counting the rounds."""
        self._spent_before = self.replays.spent

    @property
    def spent(self) -> int:
        """Rounds that remedies have taken so far."""
        return self.replays.spent - self._spent_before

    @property
    def last(self) -> int:
        """The last round that is compared: the run's last, or where early stopping ended it."""
        stopped = self.replays.settings.federate.early_stopping.patience and self.incident.hold_out
        return max(self.incident.hold_out) if stopped else self.replays.last_round

    def affords_search(self, rounds: int, until: int) -> bool:
        """Returns whether a search may take `rounds`, and leaves enough to confirm a replay that ends at `until`."""
        return self.spent + rounds + (self.last - until) + self.last <= self.allowed

    @property
    def chance(self) -> float:
        """The hold-out loss of a model that always predicts the frequencies of the hold-out labels.

        Infinite if all hold-out data have one label: then any finite loss passes.
        """
        return chance_loss(self.replays.cohort.test_y)

    def promises(self, change: Change, losses: Iterable[float]) -> bool:
        """Returns whether the hold-out `losses` of a short replay are of a model that trains and beats chance.

        It does not train if its loss stays where it was, unless the change ends training.
        """
        losses = list(losses)
        start = self.replays.loss
        still = all(abs(loss - start) <= AS_GOOD * start for loss in losses)
        return losses[-1] < self.chance and ("federate.rounds" in change.settings or not still)

    def run_on(self, replay: Replay, of_failures: bool = False, at_fault: Collection[str] = ()) -> LongReplay | None:
        """Runs the short replay of a remedy on to the end of the run.

        Args:
            replay: from the model that the replays of causes start from, with the run's own seed.
            of_failures: what the remedy takes back are failed updates, not a loss.
            at_fault: clients whose own losses are no harm.

        Returns:
            How it ends; None if that is not affordable.
        """
        return self._run_to_the_end(replay, self.replays.from_round, of_failures, at_fault)

    def from_round_one(
        self, change: Change, of_failures: bool = False, at_fault: Collection[str] = ()
    ) -> LongReplay | None:
        """Replays a remedy from round 1 to the end of the run, as a user does who starts again with it.

        Returns:
            How it ends; None if that is not affordable, or if the replays of causes start from there already.
        """
        if not self.replays.from_round or self.allowed - self.spent < self.last:
            return None
        try:
            replay = self.replays.begin_after(0, change)
        except SettingsError:
            return None
        return self._run_to_the_end(replay, 0, of_failures, at_fault)

    def _run_to_the_end(
        self, replay: Replay, from_round: int, of_failures: bool, at_fault: Collection[str]
    ) -> LongReplay | None:
        unchanged, logged = self._doing_nothing()
        if unchanged is None or self.allowed - self.spent < self.last + 1 - replay.next_round:
            return None
        _log.info("replay from round %d to %d: %s", replay.next_round, self.last, replay.change.says)
        self.replays.advance(replay, self.last)
        losses = _hold_out(replay, from_round)
        end = self._end(losses)
        return LongReplay(
            from_round,
            self.last,
            end,
            self._end(unchanged),
            logged,
            (self._over(losses, unchanged),),
            self._failures_gone(replay) if of_failures else self._recovers(replay, losses, at_fault),
            end < self.chance,
            ln(end) <= ln(self._best_before) + self._noise_before,
        )

    def with_more_seeds(self, change: Change, ending: LongReplay) -> LongReplay:
        """Returns the ending with further seeds, as many as are affordable.

        They start from the model that the replays of causes start from.
        """
        unchanged, _ = self._doing_nothing()
        while unchanged and len(ending.by_seed) < CONFIRMED_SEEDS:
            if self.allowed - self.spent < self.last - self.replays.from_round:
                break
            again = self.replays.begin(change, len(ending.by_seed))
            self.replays.advance(again, self.last)
            over = self._over(_hold_out(again, self.replays.from_round), unchanged)
            ending = replace(ending, by_seed=(*ending.by_seed, over))
        return ending

    def _doing_nothing(self) -> tuple[Losses | None, bool]:
        """The hold-out losses with nothing changed, and whether they are the run's own; None if they cost too much.

        They are the run's own if the log has them at the end of the run. A run that ended too early has none.
        """
        logged = self.incident.hold_out
        if any(round_num in logged for round_num in self._ending):
            return logged, True
        if self._unchanged is None:
            if self.allowed - self.spent < self.last:
                return None, False
            self._unchanged = self.replays.begin_after(0, NO_CHANGE)
        self.replays.advance(self._unchanged, self.last)
        return _hold_out(self._unchanged, 0), False

    @property
    def _ending(self) -> range:
        """The rounds at the end: the last ENDING ones, as far as the rise had begun."""
        return range(min(self.last, max(self.incident.first, self.last - ENDING + 1)), self.last + 1)

    def _end(self, losses: Losses) -> float:
        return float(np.exp(np.mean([ln(losses[at]) for at in self._ending if at in losses])))

    def _over(self, changed: Losses, unchanged: Losses) -> float:
        """The mean of ln(changed / unchanged) over the rounds at the end that both have."""
        both = [at for at in self._ending if at in changed and at in unchanged]
        return float(np.mean([ln(changed[at]) - ln(unchanged[at]) for at in both]))

    @property
    def _before(self) -> list[float]:
        logged = self.incident.hold_out
        return [logged[at] for at in sorted(logged) if at < self.incident.first and np.isfinite(logged[at])]

    @property
    def _best_before(self) -> float:
        return min([*self._before, self.replays.loss])

    @property
    def _noise_before(self) -> float:
        """How far the log loss moves from one measured round to the next, median of the rounds before the rise."""
        steps = np.abs(np.diff(np.log(self._before)))
        return float(np.median(steps)) if len(steps) else 0.0

    def _recovers(self, replay: Replay, hold_out: Losses, at_fault: Collection[str]) -> float | None:
        """The share of the rise that is gone, from the first round of the rise to the end of the run.

        1. If `val_loss` rose, the share is of `val_loss`.
        2. If `train_loss` rose, it is of the own losses of the clients that take part with the remedy as well.
        3. If single clients' own losses rose, or if clients are at fault, it is of `val_loss`. If that is not above its
           level, it is of those own losses, without the losses of clients at fault.
        """
        incident, log = self.incident, self.clients
        level = incident.level(self.replays.loss) if incident.loss == "val_loss" else self.replays.loss
        of_hold_out = self._share(incident.hold_out, hold_out, level)
        if incident.loss == "val_loss" and not incident.hidden:
            return of_hold_out
        if of_hold_out is not None and (incident.hidden or at_fault):
            return of_hold_out
        excluded = {*replay.change.settings.get("federate.exclude", ())}
        return self._own(replay, {*(incident.hidden or log.clients)} - excluded - {*at_fault})

    def _failures_gone(self, replay: Replay) -> float | None:
        """The share of the run's failed updates, from the first round of the rise on, that is gone."""
        failed = int((self.clients.failed & (self.clients.rounds >= self.incident.first)).sum())
        left = sum(line.row["num_failed"] for line in replay.lines if line.round >= self.incident.first)
        return 1 - (left + replay.broken * self.replays.num_clients) / failed if failed else None

    def _own(self, replay: Replay, clients: set[str]) -> float | None:
        """The share of the rise that is gone in the mean loss of `clients`; None if they have none."""
        if replay.ended:
            return None
        log = self.clients
        losses = log.signals.get("loss_before", np.full(len(log.rounds), np.nan))
        weights = log.signals.get("num_examples", np.ones(len(log.rounds)))
        rows = zip(log.rounds.tolist(), log.clients, losses.tolist(), weights.tolist(), strict=True)
        logged = _means(row for row in rows if row[1] in clients)
        replayed = _means(
            (line.round, row["client"], row["loss_before"], row["num_examples"])
            for line in replay.lines
            for row in line.clients
            if row["client"] in clients
        )
        before = [logged[at] for at in sorted(logged) if at < self.incident.first][-_BEFORE:]
        return self._share(logged, replayed, float(np.exp(np.mean(np.log(before))))) if before else None

    def _share(self, unchanged: Losses, changed: Losses, level: float) -> float | None:
        """The share of the rise over `level` that is gone up to the end of the run.

        If the run's loss is not above `level` in these rounds, as after a spike, only the rise's own rounds count.
        """
        for until in (self.last, self.incident.until):
            both = [at for at in range(self.incident.first, until + 1) if at in unchanged and at in changed]
            without, with_change = ([by_round[at] for at in both] for by_round in (unchanged, changed))
            if both and height(without, level) > 0:
                return min(1.0, removed(without, with_change, level))
        return None


def _hold_out(replay: Replay, from_round: int) -> dict[int, float]:
    return dict(enumerate(replay.losses["val_loss"], start=from_round + 1))


def _means(rows: Iterable[tuple[int, str, float | None, float | None]]) -> dict[int, float]:
    """The weighted mean loss of each round, from (round, client, loss, weight), without losses that are not known."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for round_num, _, loss, weight in rows:
        if loss is not None and weight is not None and np.isfinite(loss) and loss > 0 and weight > 0:
            by_round.setdefault(round_num, []).append((loss, weight))
    return {at: sum(loss * w for loss, w in pairs) / sum(w for _, w in pairs) for at, pairs in by_round.items()}
