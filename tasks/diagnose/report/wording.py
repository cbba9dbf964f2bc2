"""The answer in plain words, for diagnosis.md and diagnosis.html alike."""

from collections.abc import Iterator

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.diagnosis import Cause, Diagnosis
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.investigation import Standing
from tasks.diagnose.phrases import figure, joined, percent, span, who
from tasks.diagnose.report import against_wording, ended_wording, rise_wording, standing_wording
from tasks.diagnose.report.patch import flags
from tasks.diagnose.report.remedy_wording import removed
from tasks.diagnose.report.replay_wording import FAILURES, removal, shown_before
from tasks.diagnose.report.vocabulary import DISPUTED, words_of

_GONE = {
    "data": "{} had faulty data in {}",
    "updates": "{} sent faulty updates in {}",
    "": "{} had faulty data or sent faulty updates in {}",
}
"""What ends `the loss rose because …` for a fault that has gone, by what was wrong."""


def title(diagnosis: Diagnosis) -> str:
    """Returns the question that the report answers."""
    if diagnosis.against is not None:
        return against_wording.title(diagnosis.against)
    if diagnosis.question == "ended":
        return "Why did the run end?"
    if diagnosis.question == "standing":
        return f"{'Why is' if diagnosis.causes else 'Is'} the loss higher than it should be?"
    return "Why did the loss go up?" if diagnosis.rise.detected else "Did the loss go up?"


def heading(cause: Cause) -> str:
    """Returns the heading of a cause: its name, its clients, its rounds."""
    clients = f": {who(cause.clients)}" if cause.clients else ""
    return _capital(f"{words_of(cause).name}{clients}, {span(*cause.rounds)}")


def because(cause: Cause) -> str:
    """Returns what ends `the loss rose because …` and `the loss is higher than it should be because …`."""
    if cause.replay.of_log and CAUSES[cause.cause].fault_of_clients:
        return _GONE[cause.fault].format(who(cause.clients), span(*cause.rounds))
    words = words_of(cause)
    return words.because.format(who(cause.clients)) if cause.clients else words.alone


def headline(diagnosis: Diagnosis) -> str:
    """Returns the answer in one sentence."""
    return "".join(answer(diagnosis))


def answer(diagnosis: Diagnosis) -> tuple[str, str, str]:
    """Returns the answer in one sentence: the text before the remedy's settings, the settings as flags, the rest."""
    remedy = diagnosis.remedy
    if not remedy:
        return f"{_finding(diagnosis)}.", "", ""
    command = flags(remedy.settings)
    if ended_wording.is_ended(diagnosis.rise):
        trains = f", with which {ended_wording.trains(remedy, diagnosis)}."
        before = f"{_finding(diagnosis)}; remedy: {remedy.says}"
        if not remedy.settings:
            return f"{before}{trains}", "", ""
        return f"{before} (", command, f"{'' if command else 'the settings below'}){trains}"
    removes = f"which removes {removed(remedy, diagnosis)}{'' if remedy.confirmed else ' in a short replay'}."
    before = f"{_finding(diagnosis)}; remedy{'' if remedy.confirmed else ' (not confirmed)'}: {remedy.says}"
    if not remedy.settings:
        return f"{before}, {removes}", "", ""
    return f"{before} (", command, f"{'' if command else 'the settings below'}), {removes}"


def _finding(diagnosis: Diagnosis) -> str:
    rise, ending = diagnosis.rise, diagnosis.ending
    if diagnosis.compared is not None:
        return against_wording.finding(diagnosis, *diagnosis.compared)
    if diagnosis.standing is not None:
        return _stands(diagnosis, diagnosis.standing)
    if ending is not None and ended_wording.is_ended(rise):
        return _ended(diagnosis, ending)
    if ending is not None:
        return f"{ended_wording.how(ending)}. {_risen(diagnosis)}"
    return _risen(diagnosis)


def _ended(diagnosis: Diagnosis, ending: Ending) -> str:
    if not diagnosis.causes or diagnosis.budget is None:
        return f"{ended_wording.finding(ending, [], '')} {_capital(_unproven(diagnosis))}"
    proof = ended_wording.proof(diagnosis.causes[0], diagnosis.budget)
    return ended_wording.finding(ending, [because(cause) for cause in diagnosis.causes], proof)


def _stands(diagnosis: Diagnosis, standing: Standing) -> str:
    rise = diagnosis.rise
    if not diagnosis.causes:
        calm = f"{rise_wording.no_rise(rise)}{rise_wording.outside(diagnosis.observations)}"
        return f"{calm}, and {_unproven(diagnosis)}"
    if rise.chance is not None:
        harm = rise_wording.at_chance(rise.chance)
    elif any(event.phase != "prune" for event in rise.events):
        harm = "The hold-out loss (val_loss) has been higher than it should be from the start"
    else:
        harm = f"The loss of the global model ({rise.loss}) did not rise{standing_wording.higher(rise.loss)}"
    return _caused(harm, standing_wording.proof(diagnosis.causes[0], standing), diagnosis)


def _risen(diagnosis: Diagnosis) -> str:
    rise = diagnosis.rise
    if not rise.detected:
        disputed = any(DISPUTED in sentence for sentence in diagnosis.not_examined)
        found = rise_wording.no_rise(rise, bool(diagnosis.looked_for) and not disputed)
        most = f", but the data of half of the clients or more {DISPUTED}" if disputed else ""
        return f"{found}{most}{rise_wording.outside(diagnosis.observations)}"
    if not diagnosis.causes:
        return f"{rise_wording.rose(rise)}; {_unproven(diagnosis)}"
    return _caused(rise_wording.rose(rise), rise_wording.proof(diagnosis.causes[0], rise), diagnosis)


def _caused(harm: str, proof: str, diagnosis: Diagnosis) -> str:
    """The harm and its causes; `proof` is of the first one."""
    first, *others = diagnosis.causes
    if others and shown_before(others[0], diagnosis):
        return f"{harm} because {joined([because(cause) for cause in diagnosis.causes])}{proof}"
    text = f"{harm} because {because(first)}{proof}"
    if others:
        text += f", and because {joined([because(cause) for cause in others])}"
    return text


def facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yields (title, text) of what is known: when, how far, how sure, why, proof, remedy. Nothing without a rise."""
    rise, causes = diagnosis.rise, diagnosis.causes
    if ended_wording.is_ended(rise):
        yield from ended_wording.facts(diagnosis, [words_of(cause).name for cause in causes])
        return
    if diagnosis.compared is not None:
        yield from against_wording.facts(diagnosis, *diagnosis.compared)
        return
    if diagnosis.standing is not None:
        yield from standing_wording.facts(diagnosis, diagnosis.standing)
        return
    if rise.detected:
        finite = rise.kind != "not_finite"
        yield "When", span(rise.round, rise.until)
        before, after = figure(rise.loss_before), figure(rise.loss_after) if finite else "not finite"
        yield (
            f"Loss of {who(rise.clients)} on {rise_wording.own(rise.clients)} own data"
            if rise.clients and finite
            else f"Loss ({rise.loss})",
            f"{before} → {after}",
        )
        yield "Confidence in the rise", rise_wording.sure(rise)
        if rise.chance:
            yield "At chance from", f"round {rise.chance.since} on (a guess: {figure(rise.chance.loss)})"
    if causes:
        yield "Cause" if len(causes) == 1 else "Causes", joined([words_of(cause).name for cause in causes])
        clients = dict.fromkeys(client for cause in causes for client in cause.clients)
        if clients:
            yield "Clients", who([*clients])
        harm = "Failures" if causes[0].cause == FAILURES else "Rise"
        yield f"{harm} removed without {_the_causes(diagnosis)}", removal(causes[0].replay.removes)
        if diagnosis.remedy:
            yield f"{harm} removed by the remedy", percent(diagnosis.remedy.recovers)
    elif rise.detected:
        yield "Cause", "not proven"


def _the_causes(diagnosis: Diagnosis) -> str:
    """What the first cause's replay takes away."""
    if len(diagnosis.causes) == 1:
        return "the cause"
    return "both causes" if shown_before(diagnosis.causes[1], diagnosis) else "the first cause"


def _unproven(diagnosis: Diagnosis) -> str:
    """That no cause is proven, and what became of the causes that were tried, or why none was."""
    said = [
        f"{state}: {joined(list(dict.fromkeys(words_of(cause).name for cause in causes)))}"
        for state, causes in (("ruled out", diagnosis.ruled_out), ("not finished", diagnosis.not_finished))
        if causes
    ]
    if said:
        of = "" if diagnosis.standing is None else " that makes it higher than it should be"
        return f"no cause is proven{of} ({'; '.join(said)})"
    rise, budget = diagnosis.rise, diagnosis.budget
    if rise.phase == "prune":
        return "rounds of pruning are not replayed, so no cause is proven"
    if budget is None:
        return "no cause is proven, because no round could be replayed"
    if budget.reproduced:
        return "no cause is proven, because no possible cause was found"
    if diagnosis.standing is not None:
        return "no cause is proven, because a replay with nothing changed does not give the logged losses"
    again = ended_wording.not_again(diagnosis.ending) if ended_wording.is_ended(rise) else "the loss did not rise again"
    return f"no cause is proven, because {again} in a replay with nothing changed"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
