"""The sentences about a rise of the loss, and about a loss that did not rise."""

from collections.abc import Sequence

from tasks.diagnose.diagnosis import Cause
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, figure, who
from tasks.diagnose.report.replay_wording import FAILURES, during, shown
from tasks.diagnose.report.vocabulary import OF_ALL_ROUNDS
from tasks.errors import listed

_ROUNDS = 5
"""Most rounds that the answer lists."""
_PHASES = {"prune": "while pruning"}


def no_rise(rise: Rise, looked_for: bool = False) -> str:
    """Returns that the loss did not rise; `looked_for` says whether a cause from the start was looked for in vain."""
    needed = f"; {100 * (1 - rise.significance):.4g} % is needed"
    tested = f" (confidence in a rise: {sure(rise)}{needed})" if rise.confidence else ""
    if rise.chance is not None:
        text = f"{at_chance(rise.chance)}; its loss ({rise.loss}) did not rise"
    else:
        text = (
            f"The loss of the global model ({rise.loss}) did not rise beyond its noise in "
            f"{count(rise.num_losses, 'measured round')}{tested}"
        )
    if looked_for:
        text += ", and there is no sign of a cause that keeps it higher than it should be"
    pruned = [event for event in rise.events if event.phase == "prune"]
    if pruned:
        text += f"; while the model was pruned, {pruned[0].loss} rose in round {pruned[0].round}"
    return text


def at_chance(chance: Chance) -> str:
    """Returns since when the model is no better than a guess."""
    learned = "never learned: it has been" if chance.never_learned else "has been"
    return (
        f"The model {learned} at chance since round {chance.since} (no better than the class frequencies, "
        f"{figure(chance.loss)})"
    )


def rose(rise: Rise) -> str:
    """Returns which loss rose, when, and from where to where."""
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
    hidden = f"The loss of {who(rise.clients)} on {own(rise.clients)} own data"
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


def outside(observations: Sequence[ClientSignal]) -> str:
    """Returns the clients with an unusual row, where nothing rose."""
    unusual = [each for each in observations if each.unusual and each.signal != "failures"]
    of_all_rounds = [each for each in unusual if each.signal in OF_ALL_ROUNDS]
    if of_all_rounds:
        odd = who(sorted({each.client for each in of_all_rounds}))
        return f", but the data or the updates of {odd} are unlike what is expected"
    outside = unusual
    if not outside:
        return ""
    rounds = sorted({number for each in outside for number in each.rounds})
    when = ("round " if len(rounds) == 1 else "rounds ") + listed([str(number) for number in rounds], _ROUNDS)
    clients = who(sorted({each.client for each in outside}))
    return f", but the updates or losses of {clients} are far outside the usual range in {when}"


def proof(cause: Cause, rise: Rise) -> str:
    """Returns ` (proven by replay: in …, the mean val_loss is 0.39 instead of 0.85)`."""
    replay = cause.replay
    changed, unchanged = during(replay, rise)
    # Failed updates are left out of the loss: their cause is proven by the failures that are gone, not by a loss.
    if cause.cause == FAILURES or (changed is None and unchanged is None):
        return f" (proven by a replay of {replay.says})"
    if replay.kind == "log_before":
        return (
            f" (proven by the log and a replay: in the rounds before, the mean {replay.loss} was {shown(changed)}, and "
            f"with today's data it is {shown(unchanged)})"
        )
    if replay.kind == "hold_out":
        return (
            f" (proven by replay: the mean loss is {shown(changed)} on clients' data that the model was not trained "
            f"on, and {shown(unchanged)} on the hold-out data)"
        )
    return (
        f" (proven by replay: in {replay.says}, the mean {replay.loss} is {shown(changed)} instead of "
        f"{shown(unchanged)})"
    )


def own(clients: Sequence[str]) -> str:
    """Returns `its` or `their`."""
    return "its" if len(clients) == 1 else "their"


def sure(rise: Rise) -> str:
    """Returns the confidence in a rise in percent."""
    return f"{100 * rise.confidence:.4g} %"
