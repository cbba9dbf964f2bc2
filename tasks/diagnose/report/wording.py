"""The diagnosis in plain words, for diagnosis.md and diagnosis.html alike."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.diagnosis import (
    Budget,
    Cause,
    Curve,
    Diagnosis,
    Evidence,
    NotFinished,
    RemedyEnding,
    Removed,
    ReplayResult,
    RuledOut,
    TriedRemedy,
)
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, figure, joined, percent, span, who
from tasks.diagnose.report import ended_wording
from tasks.diagnose.report.patch import flags
from tasks.diagnose.report.vocabulary import SIGNALS
from tasks.errors import listed

_HEALTHY = 100
"""Most ids of clients with nothing unusual that a report lists."""
_ROUNDS = 5
"""Most rounds that the answer lists."""
_PHASES = {"prune": "while pruning"}


def name_of(cause: str) -> str:
    """Returns how the cause is called in a sentence."""
    return CAUSES[cause].words.name


def title(diagnosis: Diagnosis) -> str:
    """Returns the question that the report answers."""
    return "Why did the run end?" if diagnosis.question == "ended" else "Why did the loss go up?"


def removes(diagnosis: Diagnosis) -> str:
    """Returns the heading of a column: what a change in a replay takes away."""
    return "seeds that train" if ended_wording.is_ended(diagnosis.rise) else "rise removed"


def loss_heading(diagnosis: Diagnosis) -> str:
    """Returns the heading of a column: which loss a remedy leads to."""
    return "final val_loss" if ended_wording.is_ended(diagnosis.rise) else "hold-out loss at the end"


def heading(cause: Cause) -> str:
    """Returns the heading of a cause: its name, its clients, its rounds."""
    clients = f": {who(cause.clients)}" if cause.clients else ""
    text = f"{name_of(cause.cause)}{clients}, {span(*cause.rounds)}"
    return text[:1].upper() + text[1:]


def signal(measured: Evidence | ClientSignal) -> str:
    """Returns what was measured, in words."""
    return SIGNALS.get(measured.signal, measured.signal.replace("_", " "))


def observed(measured: ClientSignal) -> list[str]:
    """Returns the row of a table: the client, the signal, its value, the others', the client's before, and words."""
    figures = [figure(value) for value in (measured.value, measured.expected, measured.before)]
    return [measured.client, signal(measured), *figures, "yes" if measured.unusual else "no", measured.says]


def healthy(clients: Sequence[str]) -> str:
    """Returns the ids of clients, of more than 100 the first and how many more; empty for none."""
    more = " (all are in diagnosis.json)" if len(clients) > _HEALTHY else ""
    return listed(clients, _HEALTHY) + more


def because(cause: Cause) -> str:
    """Returns what ends `the loss rose because …`."""
    words = CAUSES[cause.cause].words
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
        end = f"{'' if command else 'the settings below'}), with which {ended_wording.trains(remedy, diagnosis)}."
        return f"{_finding(diagnosis)}; remedy: {remedy.says} (", command, end
    removes = (
        f"which removes {percent(remedy.recovers)} of the "
        f"{'failed updates' if 'non_finite' in remedy.against else 'rise'}"
        f"{'' if remedy.confirmed else ' in a short replay'}."
    )
    before = f"{_finding(diagnosis)}; remedy{'' if remedy.confirmed else ' (not confirmed)'}: {remedy.says}"
    if not remedy.settings:
        return f"{before}, {removes}", "", ""
    return (
        f"{before} (",
        command,
        f"{'' if command else 'the settings below'}), {removes}",
    )


def _finding(diagnosis: Diagnosis) -> str:
    rise, ending = diagnosis.rise, diagnosis.ending
    if ending is not None and ended_wording.is_ended(rise):
        return _ended(diagnosis, ending)
    if ending is not None:
        return f"{ended_wording.how(ending)}. {_risen(diagnosis)}"
    return _risen(diagnosis)


def _ended(diagnosis: Diagnosis, ending: Ending) -> str:
    if not diagnosis.causes or diagnosis.budget is None:
        return f"{ended_wording.finding(ending, [], '')}{ended_wording.unproven(diagnosis.budget)}"
    proof = ended_wording.proof(diagnosis.causes[0], diagnosis.budget)
    return ended_wording.finding(ending, [because(cause) for cause in diagnosis.causes], proof)


def _risen(diagnosis: Diagnosis) -> str:
    rise = diagnosis.rise
    if not rise.detected:
        return f"{_no_rise(rise)}{_outside(diagnosis.observations)}"
    if not diagnosis.causes:
        return f"{_rose(rise)}; {_unproven(diagnosis)}"
    first, *others = diagnosis.causes
    # Failed updates are left out of the loss: their cause is proven by the failures that are gone, not by a loss.
    text = (
        f"{_rose(rise)} because {because(first)}"
        f"{f' (proven by a replay of {first.replay.says})' if first.cause == 'non_finite' else ''}"
        f"{_proof(first.replay, rise) if first.cause != 'non_finite' else ''}"
    )
    if others:
        text += f", and because {joined([because(cause) for cause in others])}"
    return text


def facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yields (title, text) of what is known: when, how far, how sure, why, proof, remedy. Nothing without a rise."""
    rise = diagnosis.rise
    if ended_wording.is_ended(rise):
        yield from ended_wording.facts(diagnosis, [name_of(cause.cause) for cause in diagnosis.causes])
        return
    if rise.detected:
        finite = rise.kind != "not_finite"
        yield "When", span(rise.round, rise.until)
        before, after = figure(rise.loss_before), figure(rise.loss_after) if finite else "not finite"
        yield (
            f"Loss of {who(rise.clients)} on {'its' if len(rise.clients) == 1 else 'their'} own data"
            if rise.clients and finite
            else f"Loss ({rise.loss})",
            f"{before} → {after}",
        )
        yield "Confidence in the rise", _sure(rise)
    if diagnosis.causes:
        first = diagnosis.causes[0]
        yield "Cause", name_of(first.cause)
        if first.clients:
            yield "Clients", who(first.clients)
        yield (
            f"{'Failures' if first.cause == 'non_finite' else 'Rise'} removed without the cause",
            removal(first.replay.removes),
        )
        if diagnosis.remedy:
            yield (
                f"{'Failures' if first.cause == 'non_finite' else 'Rise'} removed by the remedy",
                percent(diagnosis.remedy.recovers),
            )
    elif rise.detected:
        yield "Cause", "not proven"


def replayed(cause: Cause, rise: Rise) -> str:
    """Returns what the replay of a cause showed."""
    if ended_wording.is_ended(rise):
        return ended_wording.replayed(cause)
    replay = cause.replay
    changed, unchanged = during(replay, rise)
    loss = "loss" if replay.loss == rise.loss else replay.loss
    over = f" with {count(replay.seeds, 'seed')}" if replay.seeds else ""
    if replay.of_log:
        return (
            f"Replay from round {replay.from_round}{over}: in {replay.says}, the mean {loss} is {_loss(changed)}. In "
            f"the run itself, it was {_loss(unchanged)}. So {removal(replay.removes)} of the rise came from the fault."
        )
    return (
        f"Replay from round {replay.from_round}{over}: in {replay.says}, the mean {loss} is {_loss(changed)}. With "
        f"nothing changed, it is {_loss(unchanged)}. The change removes {removal(replay.removes)} of the "
        f"{'failed updates' if cause.cause == 'non_finite' else 'rise'}."
    )


def against(causes: Sequence[str]) -> str:
    """Returns `Against faulty clients and different labels`."""
    return f"Against {joined([name_of(cause) for cause in causes])}"


def without_remedy(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields a sentence for each cause against which no remedy is proposed."""
    for cause in diagnosis.causes:
        if cause.remedy:
            continue
        tried = any(cause.cause in remedy.against for remedy in diagnosis.remedies)
        if not tried:
            yield f"{against([cause.cause])}, no remedy was found."
        elif ended_wording.is_ended(diagnosis.rise):
            yield ended_wording.without_remedy(against([cause.cause]))
        elif diagnosis.remedy:
            yield f"{against([cause.cause])}, no setting that was tried in addition removes more of the rise."
        elif any(
            cause.cause in remedy.against and remedy.ending and not remedy.confirmed for remedy in diagnosis.remedies
        ):
            yield (
                f"{against([cause.cause])}, no remedy is proposed: with each remedy that was replayed to the end of "
                "the run, the hold-out loss ends higher than without it, or no better than chance."
            )
        else:
            yield f"{against([cause.cause])}, no setting that was tried removes any of the rise."


def effect(remedy: TriedRemedy, diagnosis: Diagnosis) -> str:
    """Returns what a remedy does: in a short replay only, or up to the end of the run."""
    if ended_wording.is_ended(diagnosis.rise):
        return f"In the replay, {ended_wording.trains(remedy, diagnosis)}."
    removes = f"{percent(remedy.recovers)} of the {'failed updates' if 'non_finite' in remedy.against else 'rise'}"
    ending = remedy.ending
    if ending is None:
        loss = "" if remedy.loss_after is None else f", in which the mean loss is {figure(remedy.loss_after)}"
        return f"Not confirmed: this removes {removes} in a short replay{loss}. The end of the run was not replayed."
    start = "" if ending.from_round == 0 else f" from round {ending.from_round + 1}"
    return (
        f"In a replay{start} to round {ending.last}, the hold-out loss ends at {figure(ending.hold_out)}; "
        f"{'in the run it ended' if ending.logged else 'in a replay with nothing changed it ends'} at "
        f"{figure(ending.unchanged)}. {_judged(ending)} This removes {removes}."
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


def tried(cause: RuledOut | NotFinished) -> list[str]:
    """Returns the row of a table: the cause, what was changed, the share of the rise that went away, and why."""
    why = cause.why or "its removal leaves more than half of the rise"
    return [name_of(cause.cause), cause.says, percent(cause.removes), why]


def spent(budget: Budget) -> str:
    """Returns what the replays cost."""
    if budget.chance is not None:
        return ended_wording.spent(budget)
    rounds, seeds = count(budget.rounds, "round"), count(budget.seeds, "seed")
    return (
        f"A cause is proven if (1) at least half of the rise goes away without it, (2) other seeds confirm this, and "
        f"(3) no more specific cause explains the rise as well. The replays took {rounds}. The budget was "
        f"{budget.allowed} rounds, with the replays that confirm a cause. Replays of remedies took "
        f"{count(budget.remedy_rounds, 'round')} of at most {budget.remedy_allowed}."
        f"{f' There were replays with up to {seeds}.' if budget.seeds > 1 else ''}"
    )


def _no_rise(rise: Rise) -> str:
    needed = f"; {100 * (1 - rise.significance):.4g} % is needed"
    tested = f" (confidence in a rise: {_sure(rise)}{needed})" if rise.confidence else ""
    if rise.chance is not None:
        text = f"The model {_at_chance(rise.chance)}; its loss ({rise.loss}) did not rise"
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
    learned = "never learned: it is" if chance.never_learned else "is"
    return (
        f"{learned} at chance since round {chance.since} (no better than the class frequencies, {figure(chance.loss)})"
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
        lost = f"; the model {_at_chance(rise.chance)}" if rise.chance else ""
        return f"The loss of the global model ({rise.loss}) rose{when} and was not finite in round {rise.until}{lost}"
    if rise.loss_before is None or rise.loss_after is None:
        return f"The loss of the global model ({rise.loss}) rose{when}"
    own = "its" if len(rise.clients) == 1 else "their"
    hidden = f"The loss of {who(rise.clients)} on {own} own data"
    loss = hidden if rise.clients else rise.loss
    return (
        f"{loss if rise.clients else f'The loss of the global model ({loss})'} rose{when} "
        f"from {figure(rise.loss_before)} to {figure(rise.loss_after)}"
        f"{' (the mean loss of all clients did not clearly rise)' if rise.clients else ''}"
        f"{f' (the model {_at_chance(rise.chance)})' if rise.chance else ''}"
    )


def _outside(observations: Sequence[ClientSignal]) -> str:
    """The clients with an unusual row, where nothing rose."""
    outside = [each for each in observations if each.unusual and each.signal != "failures"]
    if not outside:
        return ""
    rounds = sorted({number for each in outside for number in each.rounds})
    when = ("round " if len(rounds) == 1 else "rounds ") + listed([str(number) for number in rounds], _ROUNDS)
    return f", but the updates or losses of {who(sorted({each.client for each in outside}))} are far outside in {when}"


def _unproven(diagnosis: Diagnosis) -> str:
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
    if diagnosis.rise.phase == "prune":
        return "pruning raises the loss, and no other cause was tried"
    return "no cause is proven, because none was tried"


def _proof(replay: ReplayResult, rise: Rise) -> str:
    changed, unchanged = during(replay, rise)
    if changed is None and unchanged is None:
        return f" (proven by a replay of {replay.says})"
    return (
        f" (proven by replay: in {replay.says}, the mean {replay.loss} is {_loss(changed)} "
        f"instead of {_loss(unchanged)})"
    )


def during(replay: ReplayResult, rise: Rise) -> tuple[float | None, float | None]:
    """Returns the mean loss in the rounds of the rise, changed and unchanged; None if it is not finite."""
    return _mean(replay.changed, replay, rise), _mean(replay.unchanged, replay, rise)


def _mean(losses: Curve, replay: ReplayResult, rise: Rise) -> float | None:
    """The mean over the rounds of the rise; over all rounds if none of them lies in the rise."""
    rounds = enumerate(losses, start=replay.from_round + 1)
    chosen = [loss for round_num, loss in rounds if round_num in rise.rounds] or list(losses)
    finite = [loss for loss in chosen if loss is not None]
    return fmean(finite) if finite and len(finite) == len(chosen) else None


def removal(removes: Removed) -> str:
    """Returns the share of the rise that a change removes, and its interval if it has one: `95 % (90 % to 98 %)`."""
    share, low, high = percent(removes.mean), percent(removes.low), percent(removes.high)
    if removes.low is None or removes.high is None or low == high == share:
        return share
    return f"{share} ({low} to {high})"


def _loss(value: float | None) -> str:
    return "NaN or infinity" if value is None else figure(value)


def _sure(rise: Rise) -> str:
    return f"{100 * rise.confidence:.4g} %"
