"""Which remedies are tried against the proven causes, and which of them are proposed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.causes import Remedy, remedies
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof, Tried
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import MORE
from tasks.diagnose.tournament import FAILURES
from tasks.settings import Settings


@dataclass(frozen=True)
class Dose:
    """A remedy, and the change by which it was replayed."""

    remedy: Remedy
    change: Change


def best_first(shares: Sequence[float]) -> list[int]:
    """Returns the places of the remedies, the one first that takes most back.

    Shares that agree to a hundredth are equal, and equal ones keep their order, the most fitting first: below the level
    before the rise there is nothing left to take back.
    """
    return sorted(range(len(shares)), key=lambda place: -round(shares[place], 2))


def worth_both(both: float, alone: float | None) -> bool:
    """Returns whether a remedy of two causes is proposed against both.

    Args:
        both: share of the rise that it takes back.
        alone: share that the best remedy of the first cause takes back; None if it has none.
    """
    return alone is None or both >= alone + MORE


def worth_proposing(share: float) -> bool:
    """Returns whether a remedy takes anything back, to a hundredth of the rise."""
    return round(share, 2) > 0


def treat(
    trials: Trials, proven: Sequence[Proof], settings: Settings, findings: Findings
) -> tuple[tuple[Tried, ...], dict[str, Tried]]:
    """Returns the remedies that were tried, the best first, and the one that is proposed against each cause.

    1. The remedies of the first cause are tried alone.
    2. The remedies of a second cause are tried beside the best of the first, whose cause hides what they do alone.
    3. The best of these is proposed against both causes if it takes back clearly more than the best of the first.
    4. A remedy that takes nothing back is not proposed.

    Args:
        trials: in which the causes were proven.
        proven: the causes, the first one first; there may be none.
        settings: of the run.
        findings: of the clients.
    """
    if not proven:
        return (), {}
    first = proven[0]

    def fitting(cause: Proof) -> list[Remedy]:
        candidate = cause.candidate
        return remedies(candidate.cause, settings, candidate.clients, findings, trials.start)

    alone = _replayed(trials, fitting(first), [first])
    best = alone[0] if alone else None
    tried = [_tried(trials, dose, first, [first]) for dose in alone]
    against = {first.candidate.cause: tried[0]} if tried else {}
    for second in proven[1:]:
        options = fitting(second)
        joint = [best.remedy | option for option in options] if best else options
        beside = _replayed(trials, filter(None, joint), proven)
        results = [_tried(trials, dose, first, proven if best else [second]) for dose in beside]
        tried += results
        share = _taken_back(trials, best.change, proven) if best else None
        if beside and worth_both(_taken_back(trials, beside[0].change, proven), share):
            against |= dict.fromkeys(results[0].against, results[0])
    ranked = [tried[place] for place in best_first([remedy.recovers for remedy in tried])]
    return tuple(ranked), {cause: remedy for cause, remedy in against.items() if worth_proposing(remedy.recovers)}


def _replayed(trials: Trials, proposed: Iterable[Remedy], causes: Sequence[Proof]) -> list[Dose]:
    """Replays the remedies that the settings allow; returns them, the one first that takes most back."""
    doses = [Dose(remedy, _change(remedy)) for remedy in proposed]
    able = [dose for dose in doses if trials.run(dose.change)]
    return [able[place] for place in best_first([_taken_back(trials, dose.change, causes) for dose in able])]


def _change(remedy: Remedy) -> Change:
    surgery = {"features standardised by each client": features_aligned} if remedy.aligned else {}
    return Change(remedy.says, remedy.settings, surgery=surgery)


def _taken_back(trials: Trials, change: Change, causes: Sequence[Proof]) -> float:
    """The share of the rise that is gone: the mean over the loss that rose and the losses that prove the causes.

    Of failures, it is the share of failed clients that is gone: their losses need not show anything.
    """
    if any(cause.candidate.cause == FAILURES for cause in causes):
        return 1 - trials.failed(change) / max(1, trials.failed(NO_CHANGE))
    columns = dict.fromkeys([trials.window.loss, *(cause.loss for cause in causes)])
    return float(np.mean([trials.removed(change, column) for column in columns]))


def _tried(trials: Trials, dose: Dose, first: Proof, against: Sequence[Proof]) -> Tried:
    loss = float(np.mean(trials.losses(dose.change)))
    causes = tuple(cause.candidate.cause for cause in against)
    return Tried(dose.remedy, _taken_back(trials, dose.change, [first]), loss, causes)
