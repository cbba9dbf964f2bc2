"""The diagnosis in plain words, for diagnosis.md and diagnosis.html alike."""

import re
from collections.abc import Iterator, Sequence
from statistics import fmean

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.report.patch import flags, plain
from tasks.diagnose.report.story import Cause, Evidence, Remedy, Replay, Rise, Series, Story
from tasks.diagnose.report.vocabulary import SIGNALS

_NAMED = 5
"""Most clients named in one sentence."""
_PHASES = {"prune": "while pruning"}


def name_of(cause: str) -> str:
    """Returns how the cause is called in a sentence."""
    return CAUSES[cause].words.name if cause in CAUSES else cause.replace("_", " ")


def heading(cause: Cause) -> str:
    """Returns what stands above a cause: its name, its clients, its rounds."""
    told = name_of(cause.cause)
    if cause.clients:
        told += f": {who(cause.clients)}"
    if cause.rounds:
        told += f", {span(*cause.rounds)}"
    return told[:1].upper() + told[1:]


def signal(one: Evidence) -> str:
    """Returns what was measured, in words."""
    return SIGNALS.get(one.signal, one.signal.replace("_", " "))


def because(cause: Cause) -> str:
    """Returns what ends `the loss rose because …`."""
    if cause.cause not in CAUSES:
        return f"of {name_of(cause.cause)}" + (f" ({who(cause.clients)})" if cause.clients else "")
    words = CAUSES[cause.cause].words
    if cause.fault in words.by_fault and cause.clients:
        return words.by_fault[cause.fault].format(who(cause.clients))
    return words.because.format(who(cause.clients)) if cause.clients else words.alone


def headline(story: Story) -> str:
    """Returns the answer in one sentence."""
    return "".join(answer(story))


def answer(story: Story) -> tuple[str, str, str]:
    """Returns the answer in one sentence: what comes before the remedy's settings, those as flags, and what follows."""
    remedy = story.remedy
    if not remedy or not remedy.settings:
        return f"{_told(story)}.", "", ""
    command = flags(remedy.settings)
    return f"{_told(story)}; remedy: ", command, f"{'' if command else 'the settings below'}{_effect(remedy)}."


def _told(story: Story) -> str:
    rise = story.rise
    if not rise.detected:
        return _no_rise(rise)
    if not story.causes:
        return f"{_rose(rise)}; {_unproven(story)}"
    first = story.causes[0]
    told = f"{_rose(rise)} because {because(first)}{_proof(first, rise)}"
    if len(story.causes) > 1:
        told += f"; also because {joined([because(cause) for cause in story.causes[1:]])}"
    return told


def facts(story: Story) -> Iterator[tuple[str, str]]:
    """Yields what is known of: when, how far, how sure, why, the proof, the remedy; nothing without a rise."""
    rise = story.rise
    if rise.detected:
        yield "When", span(rise.round, rise.until)
        before, after = figure(rise.before), figure(rise.after) if rise.finite else "not finite"
        yield f"Loss of {who(rise.hidden)}" if rise.hidden and rise.finite else "Loss", f"{before} → {after}"
        yield "Sure that it rose", _sure(rise)
    if story.causes:
        first = story.causes[0]
        yield "Cause", name_of(first.cause)
        if first.clients:
            yield "Through", who(first.clients)
        if first.replay:
            yield "Goes away without it", removal(first.replay)
        if story.remedy:
            yield "The remedy takes back", percent(story.remedy.recovers)
    elif rise.detected:
        yield "Cause", "not proven"


def span(first: int | None, last: int | None) -> str:
    """Returns `round 3` or `rounds 3 to 5`."""
    if first is None or last is None or first == last:
        return f"round {'–' if first is None else first}"
    return f"rounds {first} to {last}"


def replayed(cause: Cause, rise: Rise) -> str:
    """Returns what the replay of a cause showed."""
    replay = cause.replay
    if not replay:
        return "It was not replayed."
    with_, without = during(replay, rise)
    told = f"Replayed from round {'–' if replay.from_round is None else replay.from_round}"
    told += f" over {count(replay.seeds, 'seed')}" if replay.seeds else ""
    what = "loss" if replay.loss in ("", rise.loss) else replay.loss
    told += f": {change_of(replay)} have a {what} of {_loss(with_)}; with nothing changed it is {_loss(without)}."
    if replay.removes is not None:
        told += f" That removes {removal(replay)} of the rise."
    return told


def against(causes: Sequence[str]) -> str:
    """Returns `Against faulty clients and different labels`."""
    return f"Against {joined([name_of(cause) for cause in causes])}"


def without_remedy(story: Story) -> Iterator[str]:
    """Yields a sentence for each cause against which no remedy is proposed."""
    for cause in story.causes:
        if cause.remedy:
            continue
        tried = any(cause.cause in one.against for one in story.remedies)
        if not tried:
            yield f"{against([cause.cause])}, no remedy was found."
        elif story.remedy:
            yield f"{against([cause.cause])}, no setting that was tried beside that takes back more."
        else:
            yield f"{against([cause.cause])}, no setting that was tried takes any of the rise back."


def effect(remedy: Remedy) -> str:
    """Returns what a remedy does, in sentences."""
    told = "What it takes back of the rise is not known."
    if remedy.recovers is not None:
        told = f"In the replay it takes back {percent(remedy.recovers)} of the rise"
        told += "." if remedy.loss_after is None else f": the loss is {figure(remedy.loss_after)} then."
    if remedy.extra_cost is not None:
        told += f" A round takes {times(remedy.extra_cost)} the time that it took."
    return told


def times(cost: float | None) -> str:
    """Returns `1.05 ×`, a dash for None."""
    return "–" if cost is None else f"{cost:.3g} ×"


def spent(story: Story) -> str:
    """Returns what the replays cost; empty if that is not known."""
    budget = story.budget
    if budget is None or budget.rounds is None:
        return ""
    allowed = "" if budget.allowed is None else f" of {budget.allowed} allowed"
    seeds = "" if budget.seeds is None else f", over {count(budget.seeds, 'seed')}"
    return f"The replays took {count(budget.rounds, 'round')}{allowed}{seeds}."


def _no_rise(rise: Rise) -> str:
    over = "" if rise.num_losses is None else f" in {count(rise.num_losses, 'measured round')}"
    tested = f" (confidence in a rise: {_sure(rise)})" if rise.confidence else ""
    hidden = f", but the own loss of {who(rise.hidden)} did, which the mean hides" if rise.hidden else ""
    return f"{rise.loss} did not rise beyond its noise{over}{tested}{hidden}"


def _rose(rise: Rise) -> str:
    phase = f" ({_PHASES.get(rise.phase, rise.phase)})" if rise.phase not in ("", "federate") else ""
    when = f" in round {rise.round}{phase}" if rise.round is not None else ""
    if not rise.finite:
        end = "" if rise.until is None else f" by round {rise.until}"
        if rise.hidden:
            return f"The updates of {who(rise.hidden)} were not finite{when}{end.replace(' by ', ' to ')}"
        return f"{rise.loss} went up{when} and was not finite{end}"
    if rise.before is None or rise.after is None:
        return f"{rise.loss} rose{when}"
    what = rise.loss
    if rise.hidden:
        own = "its" if len(rise.hidden) == 1 else "their"
        what = f"The loss of {who(rise.hidden)} on {own} own data, hidden in the mean of all,"
    return f"{what} rose{when} from {figure(rise.before)} to {figure(rise.after)}"


def _unproven(story: Story) -> str:
    if story.ruled_out:
        ruled = joined(list(dict.fromkeys(name_of(one.cause) for one in story.ruled_out)))
        return f"no cause could be proven (tried and ruled out: {ruled})"
    if story.rise.phase == "prune":
        return "pruning costs some loss, and no other cause was tried"
    return "no cause could be proven, as none was tried"


def _proof(cause: Cause, rise: Rise) -> str:
    if not cause.replay:
        return " (not replayed)"
    with_, without = during(cause.replay, rise)
    says = cause.replay.says or "the same rounds with that changed"
    if with_ is None and without is None:
        return f" (proven by replay: {says})"
    return f" (proven by replay: {says} have a loss of {_loss(with_)} instead of {_loss(without)})"


def during(replay: Replay, rise: Rise) -> tuple[float | None, float | None]:
    """Returns the mean loss in the rounds of the rise, changed and unchanged; None where it is not finite."""
    start = replay.from_round or 0
    length = max(len(replay.changed), len(replay.unchanged))
    rounds = range(start + 1, start + 1 + length)
    inside = [k for k, at in enumerate(rounds) if rise.round is None or rise.round <= at <= (rise.until or at)]
    return _mean(replay.changed, inside), _mean(replay.unchanged, inside)


def _mean(losses: Series, places: Sequence[int]) -> float | None:
    chosen = [losses[k] for k in places if k < len(losses)] or list(losses)
    known = [loss for loss in chosen if loss is not None]
    return fmean(known) if known and len(known) == len(chosen) else None


def _effect(remedy: Remedy) -> str:
    return "" if remedy.recovers is None else f", which takes back {percent(remedy.recovers)} of the rise"


def removal(replay: Replay) -> str:
    """Returns the share of the rise that the change removes, and its interval if it has one: `95 % (90 % to 98 %)`."""
    share, low, high = percent(replay.removes), percent(replay.low), percent(replay.high)
    if replay.low is None or replay.high is None or low == high == share:
        return share
    return f"{share} ({low} to {high})"


def change_of(replay: Replay) -> str:
    """Returns what was changed, in words, or else as it stands in the file."""
    return replay.says or plain(replay.change) or "–"


def who(clients: Sequence[str]) -> str:
    """Returns `client 03`, `clients 03 and 07`, or the first five `and 3 more`."""
    if len(clients) == 1:
        return f"client {clients[0]}"
    more = [f"{len(clients) - _NAMED} more"] if len(clients) > _NAMED else []
    return f"clients {joined([*clients[:_NAMED], *more])}"


def joined(parts: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def clean(text: str) -> str:
    """Returns `text` without what cannot be printed, line ends and marks that turn the direction of writing."""
    spaced = re.sub(r"\s", " ", text)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in spaced)


def count(number: int, what: str) -> str:
    """Returns `1 round`, `2 rounds`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def figure(value: float | None) -> str:
    """Returns three digits, a dash for None."""
    return "–" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Returns a fraction as a whole percentage, a dash for None."""
    return "–" if value is None else f"{round(100 * value)} %"  # a little below 0 is not `-0`


def _loss(value: float | None) -> str:
    return "NaN or infinity" if value is None else figure(value)


def _sure(rise: Rise) -> str:
    return "–" if rise.confidence is None else f"{100 * rise.confidence:.4g} %"
