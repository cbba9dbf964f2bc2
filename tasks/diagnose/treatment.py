"""Which remedies are tried against the proven causes, and which of them are proposed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.diagnose.causes import Remedy, remedies
from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import LongReplay, Proof, Tried
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import MARGIN, MORE, NOTHING_HALFWAY, TAKEN_BACK
from tasks.diagnose.tournament import FAILURES
from tasks.settings import Settings


@dataclass
class Dose:
    """A remedy that was replayed for a few rounds.

    Attributes:
        change: the change by which it was replayed.
        gain: share of the rise that it takes back, by which the remedies are ranked.
        fall: fall of the log loss on the hold-out data where single clients' own losses rose; else 0. A client with
            wrong labels keeps its own loss, also where a robust rule keeps it from doing harm.
        tried: what is reported of it.
    """

    change: Change
    gain: float
    fall: float
    tried: Tried

    @property
    def waits(self) -> bool:
        """Whether it may be replayed to the run's end, and has not been."""
        return (worth_proposing(self.gain) or self.fall > NOTHING_HALFWAY) and self.tried.ending is None

    @property
    def failed(self) -> bool:
        """Whether its replay to the run's end showed that it is no remedy."""
        return self.tried.ending is not None and not (self.tried.confirmed and worth_proposing(self.tried.recovers))

    @property
    def wins(self) -> bool:
        """Whether its replay to the run's end leaves nothing to look for."""
        ending = self.tried.ending
        return ending is not None and not self.failed and ending.recovered and self.tried.recovers >= TAKEN_BACK

    @property
    def of_failures(self) -> bool:
        """Whether what it takes back are failed updates."""
        return FAILURES in self.tried.against

    def ends(self, ending: LongReplay) -> None:
        """Notes how its replay to the run's end ended."""
        recovers = self.tried.recovers if ending.recovers is None else ending.recovers
        self.tried = replace(self.tried, ending=ending, recovers=recovers)


def best_first(gains: Sequence[float]) -> list[int]:
    """Returns the places of the remedies, the one first that takes most back.

    Gains that agree to a hundredth are equal, and equal ones keep their order, the most fitting first: below the level
    before the rise there is nothing left to take back.
    """
    return sorted(range(len(gains)), key=lambda place: -round(gains[place], 2))


def worth_both(both: float, alone: float | None) -> bool:
    """Returns whether a remedy of two causes is proposed against both.

    Args:
        both: share of the rise that it takes back.
        alone: share that the best remedy of the first cause takes back; None if it has none.
    """
    return alone is None or both >= alone + MORE


def worth_proposing(gain: float) -> bool:
    """Returns whether a remedy takes anything back, to a hundredth of the rise."""
    return round(gain, 2) > 0


def takes_everything(gain: float) -> bool:
    """Returns whether no other remedy can take more back, to a hundredth of the rise."""
    return round(gain, 2) >= 1


def treat(
    trials: Trials, proven: Sequence[Proof], settings: Settings, findings: Findings, confirmation: Confirmation
) -> tuple[tuple[Tried, ...], dict[str, Tried]]:
    """Returns the remedies that were tried, the proposed one first, and the one that is proposed against each cause.

    1. The remedies of the first cause are tried alone, in a short replay with one seed.
    2. The remedies of a second cause are tried beside one of the first, whose cause hides what they do alone. It is the
       most fitting one that takes back at most MARGIN less than the best: a lower rate learns more slowly, so for a few
       rounds it takes back more of what the second cause does.
    3. The best of these comes first if it takes back clearly more than the best of the first.
    4. The best one is replayed to the end of the run. If it ends worse than the run itself, the next one is.
    5. A correction of data is proposed only if no settings help.

    Args:
        trials: in which the causes were proven.
        proven: the causes, the first one first; there may be none.
        settings: of the run.
        findings: of the clients.
        confirmation: replays to the end of the run.
    """
    if not proven:
        return (), {}
    first = proven[0]

    def fitting(cause: Proof) -> list[Remedy]:
        candidate = cause.candidate
        return remedies(candidate.cause, settings, candidate.clients, findings, trials.start)

    def search(options: Iterable[Remedy | None], against: Sequence[Proof]) -> Search:
        return Search(trials, confirmation, [each for each in options if each], against, first)

    options = [fitting(cause) for cause in proven]
    settings_of = [[each for each in fit if each.settings] for fit in options]
    alone = search(settings_of[0], [first])
    alone.go_on()
    best = alone.ranked[0] if alone.ranked else None
    searches = [alone]
    for second, fit in zip(proven[1:], settings_of[1:], strict=True):
        base = next((dose for dose in alone.doses if best and dose.gain >= best.gain - MARGIN), None)
        joint = [base.tried.remedy | option for option in fit] if base else fit
        beside = search(joint, proven if best else [second])
        beside.go_on()
        share = taken_back(trials, best.change, proven) if best else None
        better = bool(beside.ranked) and worth_both(beside.ranked[0].gain, share)
        searches = [beside, *searches] if better else [*searches, beside]
    corrections = search((each for fit in options for each in fit if not each.settings), [first])
    corrections.go_on()
    winner = _winner(searches, confirmation) or _winner([corrections], confirmation)
    others = [dose for each in (*searches, corrections) for dose in each.doses if dose is not winner]
    # What failed at the run's end stands last, whatever it took back in the short replay.
    places = best_first([dose.tried.recovers - 2 * dose.failed for dose in others])
    tried = (*([winner.tried] if winner else []), *(others[place].tried for place in places))
    return tried, dict.fromkeys(winner.tried.against, winner.tried) if winner else {}


@dataclass
class Search:
    """Short replays of some remedies, in their order, as far as they are needed.

    Attributes:
        trials: in which the causes were proven.
        confirmation: whose allowance of rounds the search shares.
        left: remedies that have not been tried.
        against: the causes that they are against.
        first: the cause in whose loss their effect is reported.
        doses: what was tried.
    """

    trials: Trials
    confirmation: Confirmation
    left: list[Remedy]
    against: Sequence[Proof]
    first: Proof
    doses: list[Dose] = field(default_factory=list)

    @property
    def ranked(self) -> list[Dose]:
        """The remedies that may be proposed, the best first."""
        able = [dose for dose in self.doses if not dose.failed]
        return [able[place] for place in best_first([dose.gain for dose in able])]

    def go_on(self) -> bool:
        """Tries remedies until one takes everything back, or the rounds are used up; returns whether any was tried."""
        before, rounds = len(self.doses), self.trials.window.last - self.trials.start
        while self.left and not any(takes_everything(dose.gain) for dose in self.doses[before:]):
            if self.doses and not self.confirmation.affords_search(rounds):
                break
            remedy = self.left.pop(0)
            change = remedy.change
            if self.trials.run(change):
                self.doses.append(self._dose(remedy, change))
        return len(self.doses) > before

    def _dose(self, remedy: Remedy, change: Change) -> Dose:
        causes = tuple(cause.candidate.cause for cause in self.against)
        loss = float(np.mean(self.trials.losses(change)))
        tried = Tried(remedy, taken_back(self.trials, change, [self.first]), loss, causes)
        fall = self.trials.fall(NO_CHANGE, change, "val_loss") if self.confirmation.incident.hidden else 0.0
        return Dose(change, taken_back(self.trials, change, self.against), fall, tried)


def taken_back(trials: Trials, change: Change, causes: Sequence[Proof]) -> float:
    """Returns the share of the rise that is gone: the mean over the loss that rose and those that prove the causes.

    Of failures, it is the share of failed clients that is gone: their losses need not show anything.
    """
    if any(cause.candidate.cause == FAILURES for cause in causes):
        return 1 - trials.failed(change) / max(1, trials.failed(NO_CHANGE))
    columns = dict.fromkeys([trials.window.loss, *(cause.loss for cause in causes)])
    return float(np.mean([trials.removed(change, column) for column in columns]))


def _winner(searches: Sequence[Search], confirmation: Confirmation) -> Dose | None:
    """The remedy that is proposed; None if none helps.

    1. The best one is replayed to the end of the run.
    2. It wins if it holds with all seeds, if the hold-out loss comes down to the best one before the rise, and if it
       takes TAKEN_BACK of the rise back.
    3. If not, the one of the others is replayed whose loss is lowest in the short replay, and so on. If none wins, the
       one that holds with the lowest hold-out loss does.
    4. If the rounds are used up before any held, the next one is proposed without confirmation.
    """
    held: list[Dose] = []
    second = False
    while True:
        waiting = [dose for search in searches for dose in search.ranked if dose.waits]
        if (not waiting or second) and any(search.go_on() for search in searches):
            continue
        if second:
            # By the shares, the first one looked as good: all that fall below the level take everything back.
            waiting.sort(key=lambda dose: dose.tried.loss)
        ending = confirmation.confirm(waiting[0].change, waiting[0].of_failures) if waiting else None
        if ending is None:
            break
        dose, second = waiting[0], True
        dose.ends(ending)
        if dose.wins and _holds_with_more_seeds(dose, ending, confirmation):
            return dose
        if not dose.failed:
            held.append(dose)
    for dose in sorted(held, key=lambda dose: dose.tried.ending.hold_out if dose.tried.ending else np.inf):
        if dose.tried.ending and _holds_with_more_seeds(dose, dose.tried.ending, confirmation):
            return dose
    trials = searches[0].trials
    plausible = (dose for dose in waiting if confirmation.promises(dose.change, trials.losses(dose.change, "val_loss")))
    return next(plausible, None)


def _holds_with_more_seeds(dose: Dose, ending: LongReplay, confirmation: Confirmation) -> bool:
    if not dose.failed:
        dose.ends(confirmation.with_more_seeds(dose.change, ending))
    return not dose.failed
