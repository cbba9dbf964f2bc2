"""The sentences about remedies: what one does, where it ends, and why none is proposed."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.diagnosis import Cause, Diagnosis, RemedyEnding, TriedRemedy
from tasks.diagnose.phrases import figure, joined, percent
from tasks.diagnose.report import ended_wording
from tasks.diagnose.report.replay_wording import FAILURES, harm_of
from tasks.diagnose.report.vocabulary import words_of


def loss_heading(diagnosis: Diagnosis) -> str:
    """Returns the heading of a column: which loss a remedy leads to."""
    return "final val_loss" if ended_wording.is_ended(diagnosis.rise) else "hold-out loss at the end"


def against(causes: Sequence[Cause]) -> str:
    """Returns `Against faulty clients and different labels`."""
    return f"Against {joined([words_of(cause).name for cause in causes])}"


def removed(remedy: TriedRemedy, diagnosis: Diagnosis) -> str:
    """Returns `86 % of the rise`."""
    return f"{percent(remedy.recovers)} of the {harm_of(FAILURES if FAILURES in remedy.against else '', diagnosis)}"


def without_remedy(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields why no remedy is proposed, a sentence for all causes with the same reason."""
    causes: dict[str, list[Cause]] = {}
    for cause in diagnosis.causes:
        if not cause.remedy:
            causes.setdefault(_why_none(cause, diagnosis), []).append(cause)
    for why, alike in causes.items():
        yield f"{against(alike)}, {why}"


def _why_none(cause: Cause, diagnosis: Diagnosis) -> str:
    tried = [remedy for remedy in diagnosis.remedies if cause.cause in remedy.against]
    harm = harm_of(cause.cause, diagnosis)
    if cause.advice:
        return f"no setting helps. Advice: {cause.advice}."
    if cause.replay.of_log:
        return "no remedy was tried: the cause has gone, so a replay has nothing to remedy."
    if not tried:
        return "no remedy was tried."
    if ended_wording.is_ended(diagnosis.rise):
        return "no setting that was tried lets the run train with every seed."
    if diagnosis.remedy:
        return f"no setting that was tried in addition removes more of the {harm}."
    if any(remedy.ending and not remedy.confirmed for remedy in tried):
        stays = "clients still fail" if cause.cause == FAILURES else f"the {harm} stays"
        return (
            "no remedy is proposed: with each remedy that was replayed to the end of the run, the hold-out loss ends "
            f"higher than without it or no better than chance, or {stays}."
        )
    helping = [remedy for remedy in tried if round(remedy.recovers, 2) > 0]
    if helping and any(remedy.ending for remedy in tried):
        return "no remedy is proposed: none helps up to the end of the run, or was tested as long as one that does not."
    if helping:
        return f"no remedy is proposed: where one removes some of the {harm}, the model learns nothing."
    return f"no setting that was tried removes any of the {harm}."


def effect(remedy: TriedRemedy, diagnosis: Diagnosis) -> str:
    """Returns what a remedy does: in a short replay only, or up to the end of the run."""
    if ended_wording.is_ended(diagnosis.rise):
        return f"In the replay, {ended_wording.trains(remedy, diagnosis)}."
    ending = remedy.ending
    if ending is None:
        loss = "" if remedy.loss_after is None else f", in which the mean loss is {figure(remedy.loss_after)}"
        return (
            f"Not confirmed: this removes {removed(remedy, diagnosis)} in a short replay{loss}. The end of the run was "
            "not replayed."
        )
    start = "" if ending.from_round == 0 else f" from round {ending.from_round + 1}"
    return (
        f"In a replay{start} to round {ending.last}, the hold-out loss ends at {figure(ending.hold_out)}; "
        f"{'in the run it ended' if ending.logged else 'in a replay with nothing changed it ends'} at "
        f"{figure(ending.unchanged)}. {_judged(ending)} This removes {removed(remedy, diagnosis)}."
    )


def _judged(ending: RemedyEnding) -> str:
    if ending.seeds == 1:
        return "Other seeds were not tried."
    return f"It is no worse than doing nothing in the mean over {ending.seeds} seeds."


def ends(remedy: TriedRemedy, diagnosis: Diagnosis) -> str:
    """Returns, for a table, where the hold-out loss of a remedy ends: `0.21 (run: 0.63)`."""
    if ended_wording.is_ended(diagnosis.rise):
        return figure(remedy.loss_after)
    ending = remedy.ending
    if ending is None:
        return "not replayed to the end"
    beside = "run" if ending.logged else "nothing changed"
    return f"{figure(ending.hold_out)} ({beside}: {figure(ending.unchanged)})"


def order(diagnosis: Diagnosis) -> str:
    """Returns in which order the remedies stand that are not proposed."""
    failed = any(remedy.ending and not remedy.confirmed for remedy in diagnosis.not_proposed)
    return "The best is first." if not failed else "The best is first; what failed at the end of the run is last."
