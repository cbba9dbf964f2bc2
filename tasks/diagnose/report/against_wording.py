"""The sentences about a run that is compared with another one."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.diagnosis import Against, Cause, Diagnosis, DifferenceTried
from tasks.diagnose.investigation import Standing
from tasks.diagnose.phrases import figure, joined, percent, span, who
from tasks.diagnose.report.vocabulary import words_of
from tasks.diagnose.verdict import SEEDS

HARM = "difference of the losses"
RULE = (
    "Each difference is taken back alone, in halves where there are many: this run is run again from round 1, with "
    "that setting, those data or that code as in the other run. A difference is a cause if (1) without it, at least "
    f"half of the difference of the losses goes away, and (2) {SEEDS} seeds confirm that."
)
WORDS = {
    "Noise": "Ups and downs of the loss that mean nothing. With other random numbers (another seed), the loss at the "
    "end is a little different. A higher loss counts only if the difference is larger than that.",
    "Replay": "The run is run again from the start, with the same random numbers, and with one difference taken back.",
    "Difference of the losses": "How much higher the loss of this run is at the end than that of the other run, on a "
    "logarithmic scale.",
}
_LISTED = 6


def title(against: Against) -> str:
    """Returns the question that the report answers."""
    return f"{'Why is' if against.worse else 'Is'} the loss higher than in {against.other}?"


def finding(diagnosis: Diagnosis, against: Against, standing: Standing) -> str:
    """Returns the answer in one sentence, without its full stop."""
    this, other = figure(standing.loss), figure(standing.reference)
    if not against.worse:
        noise = "" if standing.noise is None else f" (standard deviation over seeds: {figure(standing.noise)})"
        return f"The loss is not higher than in {against.other} beyond the noise of seeds: {this} and {other}{noise}"
    harm = f"val_loss ends at {this} instead of {other}"
    if not diagnosis.causes:
        return f"{harm}, and no cause is proven{_among(against.differences)}"
    return f"{harm} because {joined([_because(cause, against) for cause in diagnosis.causes])}"


def _among(differences: Sequence[DifferenceTried]) -> str:
    if not differences:
        return ": no difference was found"
    tried = sum(each.tried for each in differences)
    return f" ({tried} of {len(differences)} differences {'was' if tried == 1 else 'were'} taken back)"


def _because(cause: Cause, against: Against) -> str:
    replay = cause.replay
    seeds = f"{replay.seeds} of {replay.seeds} seeds"
    back = replay.says.removeprefix("the same rounds ")
    return f"{because(cause, against)}: {back} it is {figure(replay.ends_at)} ({seeds})"


def because(cause: Cause, against: Against) -> str:
    """Returns what ends `the loss is higher because …`."""
    mine = [each for each in against.differences if each.proven and _is_of(each, cause)]
    kinds = {each.what for each in mine}
    clients = who(cause.clients) if cause.clients else ""
    if kinds == {"setting"}:
        return f"{joined([each.name for each in mine])} changed"
    if kinds == {"code"}:
        return "the code changed"
    if kinds == {"missing_client"}:
        return f"{clients} {'is' if len(cause.clients) == 1 else 'are'} gone"
    if kinds == {"new_client"}:
        return f"{clients} {'is' if len(cause.clients) == 1 else 'are'} new"
    if kinds == {"client"}:
        return f"the data of {clients} changed"
    return joined([f"{each.name} changed" for each in mine])


def _is_of(each: DifferenceTried, cause: Cause) -> bool:
    of_client = each.what in ("client", "new_client", "missing_client")
    return each.name in cause.clients if of_client else not cause.clients or cause.cause == "changed_setting"


def facts(diagnosis: Diagnosis, against: Against, standing: Standing) -> Iterator[tuple[str, str]]:
    """Yields (title, text): both losses, the noise, the cause and how much of the difference it takes away."""
    yield f"Loss at the end (val_loss, mean of {span(*standing.rounds)})", figure(standing.loss)
    yield f"The same of {against.other}", figure(standing.reference)
    if standing.noise is not None:
        yield "Its standard deviation over seeds", figure(standing.noise)
    if not against.worse:
        return
    if not diagnosis.causes:
        yield "Cause", "not proven"
        return
    yield "Cause" if len(diagnosis.causes) == 1 else "Causes", joined([words_of(c).name for c in diagnosis.causes])
    clients = dict.fromkeys(client for cause in diagnosis.causes for client in cause.clients)
    if clients:
        yield "Clients", who([*clients])
    yield f"{HARM.capitalize()} that goes away without it", percent(diagnosis.causes[0].replay.removes.mean)


def replayed(cause: Cause, against: Against, standing: Standing) -> str:
    """Returns what the replay of a cause showed."""
    replay = cause.replay
    return (
        f"Replay of {span(1, len(replay.changed))} with {replay.seeds} seeds: in {replay.says}, val_loss ends at "
        f"{figure(replay.ends_at)}. With nothing taken back, it ends at {figure(standing.loss)}, and in "
        f"{against.other} at {figure(standing.reference)}. The change removes {percent(replay.removes.mean)} of the "
        f"{HARM}."
    )


def rows(against: Against) -> Iterator[list[str]]:
    """Yields the row of a table for each difference: what, outcome, loss at the end without it."""
    for each in against.differences:
        outcome = "not tried" if not each.tried else "cause" if each.proven else "no cause"
        together = " (with others)" if each.together else ""
        share = "–" if each.removes is None else percent(each.removes)
        yield [each.says, f"{outcome}{together}", figure(each.ends_at), share]


HEADS = ("difference", "outcome", "loss at the end without it", f"{HARM} removed")


def not_tried(against: Against) -> Iterator[str]:
    """Yields which clients were not tried alone, if there are any."""
    left = [each.name for each in against.differences if not each.tried and each.what != "code"]
    if left and against.worse:
        more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        yield f"Not taken back: {joined(left[:_LISTED])}{more}."
