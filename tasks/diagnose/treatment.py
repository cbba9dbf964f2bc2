"""Which remedies are tried against the proven causes, and which of them are proposed."""

from collections.abc import Iterable, Sequence

import numpy as np

from tasks.diagnose.causes import Remedy, remedies
from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof, Tried
from tasks.diagnose.remedy_search import FROM_ROUND_1, Dose, Search, best_first, taken_back, worth_proposing
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import MARGIN, MORE
from tasks.settings import Settings


def worth_both(both: float, alone: float | None) -> bool:
    """Returns whether a remedy of two causes is proposed against both.

    Args:
        both: share of the rise that it takes back.
        alone: share that the best remedy of the first cause takes back; None if it has none.
    """
    return alone is None or both >= alone + MORE


def treat(
    trials: Trials, proven: Sequence[Proof], settings: Settings, findings: Findings, confirmation: Confirmation
) -> tuple[tuple[Tried, ...], dict[str, Tried]]:
    """Returns the remedies that were tried, the proposed one first, and the one that is proposed against each cause.

    1. The remedies of the first cause are tried alone, in a short replay with one seed.
    2. The remedies of a second cause are tried beside one of the first, whose cause hides what they do alone. It is the
       most fitting one that takes back at most MARGIN less than the best: a lower rate learns more slowly, so for a few
       rounds it takes back more of what the second cause does.
    3. The best of these comes first if it takes back clearly more than the best of the first.
    4. The best one is replayed to the end of the run, from where the short replays start and from round 1. If it ends
       worse than the run itself, the next one is.
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
        base = _base(alone.doses, best)
        joint = [base.tried.remedy | option for option in fit] if base else fit
        beside = search(joint, proven if best else [second])
        beside.go_on()
        share = taken_back(trials, best.change, proven) if best else None
        better = bool(beside.ranked) and worth_both(beside.ranked[0].gain, share)
        searches = [beside, *searches] if better else [*searches, beside]
    corrections = search((each for fit in options for each in fit if each.replayed and not each.settings), [first])
    corrections.go_on()
    winner = _winner(searches, confirmation) or _winner([corrections], confirmation)
    others = [dose for each in (*searches, corrections) for dose in each.doses if dose is not winner]
    # What failed at the run's end stands last, whatever it took back in the short replay.
    places = best_first([dose.tried.recovers - 2 * dose.failed for dose in others])
    tried = (*([winner.tried] if winner else []), *(others[place].tried for place in places))
    return tried, dict.fromkeys(winner.tried.against, winner.tried) if winner else {}


def _base(doses: Sequence[Dose], best: Dose | None) -> Dose | None:
    """The remedy of the first cause beside which those of a second are tried; None if there is none.

    It is the most fitting one that takes back at most MARGIN less than the best. If none takes anything back alone,
    because the second cause hides that, it is the one with the lowest hold-out loss.
    """
    if best is None or not worth_proposing(best.gain):
        return min(doses, key=lambda dose: dose.hold_out, default=None)
    return next(dose for dose in doses if dose.gain >= best.gain - MARGIN)


def _winner(searches: Sequence[Search], confirmation: Confirmation) -> Dose | None:
    """The remedy that is proposed; None if none helps.

    1. The best one is replayed to the end of the run.
    2. It wins if it holds with all seeds, if the hold-out loss comes down to the best one before the rise, and if it
       takes TAKEN_BACK of the harm back.
    3. If not, the one of the others is replayed whose hold-out loss is lowest in the short replay, and so on. If none
       wins, the one that holds with the lowest hold-out loss does.
    4. If the rounds are used up before any was replayed to the end, the next one is proposed without confirmation.
    5. No remedy is proposed that was tested less than one that failed: there, the shorter test is no evidence.
    """
    trials = searches[0].trials
    held: list[Dose] = []
    refuted = 0
    second = False
    while True:
        waiting = [dose for search in searches for dose in search.ranked if dose.waits]
        if (not waiting or second) and any(search.go_on() for search in searches):
            continue
        if second:
            # By the shares, the first one looked as good: all that fall below the level take everything back.
            waiting.sort(key=lambda dose: dose.hold_out)
        if refuted == FROM_ROUND_1 and not confirmation.affords_search(0, trials.window.last):
            break
        if not waiting or not _run_to_the_end(waiting[0], trials, confirmation):
            break
        dose, second = waiting[0], True
        if not dose.failed and dose.wins and dose.tested >= refuted and _holds_with_more_seeds(dose, confirmation):
            return dose
        if dose.failed:  # perhaps only with the other seeds
            refuted = max(refuted, dose.tested)
        else:
            held.append(dose)
    for dose in sorted(held, key=lambda dose: dose.tried.ending.hold_out if dose.tried.ending else np.inf):
        if dose.tested >= refuted and _holds_with_more_seeds(dose, confirmation):
            return dose
        if dose.failed:
            refuted = max(refuted, dose.tested)
    if refuted or held:
        return None
    plausible = (
        dose
        for dose in waiting
        if worth_proposing(dose.tried.recovers)
        and confirmation.promises(dose.change, trials.losses(dose.change, "val_loss"))
    )
    return next(plausible, None)


def _run_to_the_end(dose: Dose, trials: Trials, confirmation: Confirmation) -> bool:
    """Runs a short replay on to the end, and if it holds, one from round 1; returns whether the first is affordable."""
    of_failures, at_fault = dose.of_failures, dose.at_fault
    ending = confirmation.run_on(trials.replay(dose.change), of_failures, at_fault)
    if ending is None:
        return False
    dose.ends(ending)
    if not dose.failed and (whole := confirmation.from_round_one(dose.change, of_failures, at_fault)):
        dose.ends(whole)
    return True


def _holds_with_more_seeds(dose: Dose, confirmation: Confirmation) -> bool:
    """Whether a remedy also holds with further seeds, as many as are affordable."""
    if dose.tried.ending and not dose.failed:
        dose.ends(confirmation.with_more_seeds(dose.change, dose.tried.ending))
    return not dose.failed
