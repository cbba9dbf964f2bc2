"""Short replays of remedies: what each takes back of the rise, and how it ends where it is replayed to the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.diagnose.causes import CAUSES, Remedy
from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.investigation import LongReplay, Proof, Tried
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import AS_GOOD, MARGIN, TAKEN_BACK
from tasks.diagnose.tournament import FAILURES

FROM_ROUND_1 = 2
"""The test of a remedy that was replayed from round 1 to the end of the run."""


@dataclass
class Dose:
    """A remedy that was replayed for a few rounds.

    Attributes:
        change: the change by which it was replayed.
        gain: share of the harm that it takes back, by which the remedies are ranked.
        hold_out: mean hold-out loss in the rounds that are compared.
        at_fault: the clients at fault, against which it is.
        tried: what is reported of it.
    """

    change: Change
    gain: float
    hold_out: float
    at_fault: tuple[str, ...]
    tried: Tried

    @property
    def waits(self) -> bool:
        """Whether it may be replayed to the run's end, and has not been."""
        return worth_proposing(self.gain) and self.tried.ending is None

    @property
    def tested(self) -> int:
        """How far it was tested: 0 in a short replay, 1 from there to the run's end, FROM_ROUND_1 from round 1."""
        ending = self.tried.ending
        return 0 if ending is None else 1 if ending.from_round else FROM_ROUND_1

    @property
    def failed(self) -> bool:
        """Whether a replay to the run's end showed that it is no remedy.

        1. It ends worse than doing nothing, or no better than chance.
        2. It takes nothing back. If that is not known, as where only the losses of clients at fault rose, it must end
           better than doing nothing.
        """
        ending = self.tried.ending
        if ending is None:
            return False
        helps = ending.recovers is not None or ending.over < -AS_GOOD
        return not (ending.holds and helps and worth_proposing(self.tried.recovers))

    @property
    def wins(self) -> bool:
        """Whether its replay to the run's end leaves nothing to look for."""
        ending = self.tried.ending
        return ending is not None and not self.failed and ending.recovered and self.tried.recovers >= TAKEN_BACK

    @property
    def of_failures(self) -> bool:
        """Whether what it takes back are failed updates."""
        return FAILURES in self.tried.against

    @property
    def leaves_out(self) -> bool:
        """Whether it excludes clients."""
        return "federate.exclude" in self.change.settings

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


def worth_proposing(gain: float) -> bool:
    """Returns whether a remedy takes anything back, to a hundredth of the rise."""
    return round(gain, 2) > 0


def takes_everything(gain: float) -> bool:
    """Returns whether no other remedy can take more back, to a hundredth of the rise."""
    return round(gain, 2) >= 1


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
        """The remedies that may be proposed, the best first.

        One that keeps every client comes before the best if it takes back at most MARGIN less: for a few rounds,
        leaving clients out takes back what their absence took back in the proof.
        """
        able = [dose for dose in self.doses if not dose.failed]
        ranked = [able[place] for place in best_first([dose.gain for dose in able])]
        near = [dose for dose in ranked if dose.gain >= ranked[0].gain - MARGIN]
        first = next((dose for dose in near if not dose.leaves_out), None)
        return [*([first] if first else []), *(dose for dose in ranked if dose is not first)]

    def go_on(self) -> bool:
        """Tries remedies until one takes everything back, or the rounds are used up; returns whether any was tried."""
        before, rounds = len(self.doses), self.trials.window.last - self.trials.start
        while self.left and not any(takes_everything(dose.gain) for dose in self.doses[before:]):
            if self.confirmation.spent and not self.confirmation.affords_search(rounds, self.trials.window.last):
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
        at_fault = {client for cause in self.against if _of_fault(cause) for client in cause.candidate.clients}
        hold_out = float(np.mean(self.trials.losses(change, "val_loss")))
        return Dose(change, taken_back(self.trials, change, self.against), hold_out, tuple(sorted(at_fault)), tried)


def taken_back(trials: Trials, change: Change, causes: Sequence[Proof]) -> float:
    """Returns the share of the harm that is gone.

    1. Of failures, it is the share of failed clients that is gone: their losses need not show anything.
    2. Of a rise of the training loss by clients at fault, it is the share of what they cost the hold-out data. A client
       with wrong labels keeps its own loss, also if a robust rule keeps it from doing harm.
    3. Else it is the share of the rise: the mean over the loss that rose and the losses that prove the causes.
    """
    if any(cause.candidate.cause == FAILURES for cause in causes):
        return 1 - trials.failed(change) / max(1, trials.failed(NO_CHANGE))
    if trials.window.loss == "train_loss" and len(causes) == 1 and _of_fault(causes[0]):
        return _of_hold_out(trials, change, causes[0].candidate.change)
    columns = dict.fromkeys([trials.window.loss, *(cause.loss for cause in causes)])
    return float(np.mean([trials.removed(change, column) for column in columns]))


def _of_hold_out(trials: Trials, change: Change, without: Change) -> float:
    """The fall of the log hold-out loss over its fall without the cause, from -1 to 1; 0 if the cause costs nothing."""
    costs = trials.fall(NO_CHANGE, without, "val_loss")
    return float(np.clip(trials.fall(NO_CHANGE, change, "val_loss") / costs, -1, 1)) if costs > 0 else 0.0


def _of_fault(cause: Proof) -> bool:
    return CAUSES[cause.candidate.cause].fault_of_clients
