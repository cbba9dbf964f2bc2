"""The answer in plain words, for diagnosis.md and diagnosis.html alike."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.diagnosis import Cause, Diagnosis, ReplayResult
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, figure, joined, percent, span, who
from tasks.diagnose.report import ended_wording
from tasks.diagnose.report.patch import flags
from tasks.diagnose.report.remedy_wording import removed
from tasks.diagnose.report.replay_wording import FAILURES, during, removal, shown, shown_before
from tasks.diagnose.report.vocabulary import name_of
from tasks.errors import listed

_ROUNDS = 5
"""Most rounds that the answer lists."""
_PHASES = {"prune": "while pruning"}
_GONE = {
    "data": "{} had faulty data in {}",
    "updates": "{} sent faulty updates in {}",
    "": "{} had faulty data or sent faulty updates in {}",
}
"""What ends `the loss rose because …` for a fault that has gone, by what was wrong."""


def title(diagnosis: Diagnosis) -> str:
    """Returns the question that the report answers."""
    if diagnosis.question == "ended":
        return "Why did the run end?"
    return "Why did the loss go up?" if diagnosis.rise.detected else "Did the loss go up?"


def heading(cause: Cause) -> str:
    """Returns the heading of a cause: its name, its clients, its rounds."""
    clients = f": {who(cause.clients)}" if cause.clients else ""
    return _capital(f"{name_of(cause.cause)}{clients}, {span(*cause.rounds)}")


def because(cause: Cause) -> str:
    """Returns what ends `the loss rose because …`."""
    words = CAUSES[cause.cause].words
    if cause.replay.of_log:
        return _GONE[cause.fault].format(who(cause.clients), span(*cause.rounds))
    if cause.fault in words.by_fault and cause.clients:
        return words.by_fault[cause.fault].format(who(cause.clients))
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
    removes = f"which removes {removed(remedy)}{'' if remedy.confirmed else ' in a short replay'}."
    before = f"{_finding(diagnosis)}; remedy{'' if remedy.confirmed else ' (not confirmed)'}: {remedy.says}"
    if not remedy.settings:
        return f"{before}, {removes}", "", ""
    return f"{before} (", command, f"{'' if command else 'the settings below'}), {removes}"


def _finding(diagnosis: Diagnosis) -> str:
    rise, ending = diagnosis.rise, diagnosis.ending
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


def _risen(diagnosis: Diagnosis) -> str:
    rise = diagnosis.rise
    if not rise.detected:
        return f"{_no_rise(rise)}{_outside(diagnosis.observations)}"
    if not diagnosis.causes:
        return f"{_rose(rise)}; {_unproven(diagnosis)}"
    first, *others = diagnosis.causes
    proof = _proof(first, rise)
    if others and shown_before(others[0], diagnosis):
        return f"{_rose(rise)} because {joined([because(cause) for cause in diagnosis.causes])}{proof}"
    text = f"{_rose(rise)} because {because(first)}{proof}"
    if others:
        text += f", and because {joined([because(cause) for cause in others])}"
    return text


def facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yields (title, text) of what is known: when, how far, how sure, why, proof, remedy. Nothing without a rise."""
    rise, causes = diagnosis.rise, diagnosis.causes
    if ended_wording.is_ended(rise):
        yield from ended_wording.facts(diagnosis, [name_of(cause.cause) for cause in causes])
        return
    if rise.detected:
        finite = rise.kind != "not_finite"
        yield "When", span(rise.round, rise.until)
        before, after = figure(rise.loss_before), figure(rise.loss_after) if finite else "not finite"
        yield (
            f"Loss of {who(rise.clients)} on {_own(rise.clients)} own data"
            if rise.clients and finite
            else f"Loss ({rise.loss})",
            f"{before} → {after}",
        )
        yield "Confidence in the rise", _sure(rise)
        if rise.chance:
            yield "At chance from", f"round {rise.chance.since} on (a guess: {figure(rise.chance.loss)})"
    if causes:
        yield "Cause" if len(causes) == 1 else "Causes", joined([name_of(cause.cause) for cause in causes])
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


def _no_rise(rise: Rise) -> str:
    needed = f"; {100 * (1 - rise.significance):.4g} % is needed"
    tested = f" (confidence in a rise: {_sure(rise)}{needed})" if rise.confidence else ""
    if rise.chance is not None:
        text = f"{_at_chance(rise.chance)}; its loss ({rise.loss}) did not rise"
    else:
        text = (
            f"The loss of the global model ({rise.loss}) did not rise beyond its noise in "
            f"{count(rise.num_losses, 'measured round')}{tested}"
        )
    pruned = [event for event in rise.events if event.phase == "prune"]
    if pruned:
        text += f"; while the model was pruned, {pruned[0].loss} rose in round {pruned[0].round}"
    return text


def _at_chance(chance: Chance) -> str:
    learned = "never learned: it has been" if chance.never_learned else "has been"
    return (
        f"The model {learned} at chance since round {chance.since} (no better than the class frequencies, "
        f"{figure(chance.loss)})"
    )


def _rose(rise: Rise) -> str:
    phase = f" ({_PHASES.get(rise.phase, rise.phase)})" if rise.phase not in ("", "federate") else ""
    when = f" in round {rise.round}{phase}"
    if rise.kind == "not_finite":
        if rise.clients:
            return (
                f"The updates of {who(rise.clients)} were not finite{when}"
                f"{f' and up to round {rise.until}' if rise.until != rise.round else ''}"
            )
        return (
            f"The loss of the global model ({rise.loss}) rose{when} and was not finite in round {rise.until}"
            f"{_remarks(rise)}"
        )
    if rise.loss_before is None or rise.loss_after is None:
        return f"The loss of the global model ({rise.loss}) rose{when}{_remarks(rise)}"
    hidden = f"The loss of {who(rise.clients)} on {_own(rise.clients)} own data"
    return (
        f"{hidden if rise.clients else f'The loss of the global model ({rise.loss})'} rose{when} "
        f"from {figure(rise.loss_before)} to {figure(rise.loss_after)}{_remarks(rise)}"
    )


def _remarks(rise: Rise) -> str:
    """What a loss of few clients hides, and since when the model is at chance, in brackets; empty for neither."""
    remarks = ["the mean loss of all clients did not clearly rise"] if rise.clients else []
    if rise.chance:
        learned = "the model never learned: it has been" if rise.chance.never_learned else "the model has been"
        since = "since then" if rise.chance.since == rise.round else f"since round {rise.chance.since}"
        remarks.append(f"{learned} at chance {since}")
    return f" ({'; '.join(remarks)})" if remarks else ""


def _outside(observations: Sequence[ClientSignal]) -> str:
    """The clients with an unusual row, where nothing rose."""
    outside = [each for each in observations if each.unusual and each.signal != "failures"]
    if not outside:
        return ""
    rounds = sorted({number for each in outside for number in each.rounds})
    when = ("round " if len(rounds) == 1 else "rounds ") + listed([str(number) for number in rounds], _ROUNDS)
    clients = who(sorted({each.client for each in outside}))
    return f", but the updates or losses of {clients} are far outside the usual range in {when}"


def _unproven(diagnosis: Diagnosis) -> str:
    """That no cause is proven, and what became of the causes that were tried, or why none was."""
    said = [
        f"{state}: {joined(list(dict.fromkeys(name_of(cause) for cause in causes)))}"
        for state, causes in (
            ("ruled out", [each.cause for each in diagnosis.ruled_out]),
            ("not finished", [each.cause for each in diagnosis.not_finished]),
        )
        if causes
    ]
    if said:
        return f"no cause is proven ({'; '.join(said)})"
    rise, budget = diagnosis.rise, diagnosis.budget
    if rise.phase == "prune":
        return "rounds of pruning are not replayed, so no cause is proven"
    if budget is None:
        return "no cause is proven, because no round could be replayed"
    if budget.reproduced:
        return "no cause is proven, because no possible cause was found"
    again = ended_wording.not_again(diagnosis.ending) if ended_wording.is_ended(rise) else "the loss did not rise again"
    return f"no cause is proven, because {again} in a replay with nothing changed"


def _proof(cause: Cause, rise: Rise) -> str:
    replay: ReplayResult = cause.replay
    changed, unchanged = during(replay, rise)
    # Failed updates are left out of the loss: their cause is proven by the failures that are gone, not by a loss.
    if cause.cause == FAILURES or (changed is None and unchanged is None):
        return f" (proven by a replay of {replay.says})"
    return (
        f" (proven by replay: in {replay.says}, the mean {replay.loss} is {shown(changed)} instead of "
        f"{shown(unchanged)})"
    )


def _own(clients: Sequence[str]) -> str:
    return "its" if len(clients) == 1 else "their"


def _sure(rise: Rise) -> str:
    return f"{100 * rise.confidence:.4g} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
