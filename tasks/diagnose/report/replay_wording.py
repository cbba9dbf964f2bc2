"""The sentences about replays: what one showed of a cause, what proves a cause, and what the replays cost."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.diagnosis import Cause, Curve, Diagnosis, NotFinished, Removed, ReplayResult, RuledOut
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, figure, percent, span
from tasks.diagnose.report import against_wording, ended_wording, standing_wording
from tasks.diagnose.report.vocabulary import words_of

FAILURES = "non_finite"
"""The cause whose harm is failed updates, and not a loss."""


_RULES = {
    "log_without": "A cause that has gone is proven if (1) the log shows it in the rows of a few clients right before "
    "the rise, and (2) in replays without these rows, the loss does not rise with any seed.",
    "log_before": "A cause that no replay can take away is proven if (1) the log of earlier rounds shows the run "
    "without it, and (2) in replays of these rounds that have it, the loss is clearly higher with each seed.",
    "hold_out": "The hold-out data are proven to be unlike the clients' data if, with each half of the clients left "
    "out of training, (1) the hold-out loss is above the loss on their data beyond chance and more than twice as high, "
    "and (2) their loss is nearer to the training loss than to the hold-out loss.",
}
"""What proves a cause, by the kind of its proof."""


def harm_of(cause: str, diagnosis: Diagnosis) -> str:
    """Returns what a replay without the cause takes away."""
    if cause == FAILURES:
        return "failed updates"
    if diagnosis.against is not None:
        return against_wording.HARM
    return "rise" if diagnosis.standing is None else standing_wording.HARM


def removes(diagnosis: Diagnosis) -> str:
    """Returns the heading of a column: what a change in a replay takes away."""
    if ended_wording.is_ended(diagnosis.rise):
        return "seeds that train"
    return f"{harm_of(diagnosis.verdict, diagnosis)} removed"


def outcome(diagnosis: Diagnosis) -> str:
    """Returns the heading of a column: what a replay without a cause showed."""
    return removes(diagnosis) if diagnosis.standing is None else standing_wording.outcome(diagnosis.standing)


def replayed(cause: Cause, diagnosis: Diagnosis) -> str:
    """Returns what the replay of a cause showed."""
    replay, rise = cause.replay, diagnosis.rise
    earlier = shown_before(cause, diagnosis)
    if earlier is not None:
        return f"The same replay as for {words_of(earlier).name} proves this: it takes both causes away."
    if ended_wording.is_ended(rise):
        return ended_wording.replayed(cause)
    if diagnosis.compared is not None:
        return against_wording.replayed(cause, *diagnosis.compared)
    if diagnosis.standing is not None:
        return standing_wording.replayed(cause, diagnosis.standing, alone=len(diagnosis.causes) == 1)
    changed, unchanged = during(replay, rise)
    loss = "loss" if replay.loss == rise.loss else replay.loss
    over = f" with {count(replay.seeds, 'seed')}" if replay.seeds else ""
    began = f"Replay of {rounds_of(replay)}{over}"
    if replay.kind == "log_before":
        return (
            f"{began}, with today's data: the mean {loss} is {shown(unchanged)}. In the run itself, these rounds were "
            f"before the change, and it was {shown(changed)}. So {removal(replay.removes)} of the rise comes from the "
            "change."
        )
    if replay.kind == "hold_out":
        what = "changed data" if CAUSES[cause.cause].changed_data else "hold-out data"
        return (
            f"{began}, each without half of the clients: the mean loss is {shown(changed)} on the data of the clients "
            f"that were left out, and {shown(unchanged)} on the hold-out data. So {removal(replay.removes)} of what "
            f"the hold-out loss is above the training loss comes from the {what}."
        )
    text = f"{began}: in {replay.says}, the mean {loss} is {shown(changed)}. "
    if replay.kind == "log_without":
        return (
            f"{text}In the run itself, it was {shown(unchanged)}. So {removal(replay.removes)} of the rise came from "
            f"{gone_since(cause)}."
        )
    return (
        f"{text}With nothing changed, it is {shown(unchanged)}. The change removes {removal(replay.removes)} of the "
        f"{harm_of(cause.cause, diagnosis)}."
    )


def gone_since(cause: Cause) -> str:
    """Returns what a cause that has gone is called: the fault, or as the cause is."""
    return "the fault" if CAUSES[cause.cause].fault_of_clients else f"the {words_of(cause).name}"


def shown_before(cause: Cause, diagnosis: Diagnosis) -> Cause | None:
    """Returns the earlier cause that the same replay proves; None if there is none."""
    earlier = diagnosis.causes[: diagnosis.causes.index(cause)]
    return next((each for each in earlier if each.replay == cause.replay), None)


def no_replay(diagnosis: Diagnosis) -> str:
    """Returns why there is no replay of a cause to show."""
    if diagnosis.budget is None:
        return "No round was replayed: the limits of this diagnosis say why."
    if diagnosis.ruled_out or diagnosis.not_finished:
        showed = "what each replay removed" if diagnosis.standing is None else "where the loss of each replay ended"
        return f"No replay is shown, because no cause is proven. The tables below say {showed}."
    if not diagnosis.budget.reproduced:
        return "No cause was replayed: the limits of this diagnosis say what the replay with nothing changed showed."
    return "No cause was replayed, because no possible cause was found."


def during(replay: ReplayResult, rise: Rise) -> tuple[float | None, float | None]:
    """Returns the mean loss in the rounds of the rise, changed and unchanged; None if it is not finite."""
    return _mean(replay.changed, replay, rise), _mean(replay.unchanged, replay, rise)


def _mean(losses: Curve, replay: ReplayResult, rise: Rise) -> float | None:
    """The mean over the rounds of the rise; over all rounds if none of them lies in the rise."""
    rounds = enumerate(losses, start=replay.from_round + 1)
    chosen = [loss for round_num, loss in rounds if round_num in rise.rounds] or list(losses)
    finite = [loss for loss in chosen if loss is not None]
    return fmean(finite) if finite and len(finite) == len(chosen) else None


def rounds_of(replay: ReplayResult) -> str:
    """Returns the rounds that were replayed."""
    length = max(len(replay.changed), len(replay.unchanged), 1)
    return span(replay.from_round + 1, replay.from_round + length)


def removal(removes: Removed) -> str:
    """Returns the share of the rise that a change removes, and its interval if it has one: `95 % (90 % to 98 %)`."""
    share, low, high = percent(removes.mean), percent(removes.low), percent(removes.high)
    if removes.low is None or removes.high is None or low == high == share:
        return share
    return f"{share} ({low} to {high})"


def shown(loss: float | None) -> str:
    """Returns a loss of a replay, or that it is not finite."""
    return "NaN or infinity" if loss is None else figure(loss)


def ruled_out(diagnosis: Diagnosis) -> str:
    """Returns what the table of the causes that are ruled out shows."""
    if diagnosis.standing is not None:
        return "The loss at the end of a replay without each cause."
    if ended_wording.is_ended(diagnosis.rise):
        return "In how many seeds the run trains if a cause is removed in a replay."
    return "The share of the rise that went away when each cause was removed in a replay."


def tried(cause: RuledOut | NotFinished, diagnosis: Diagnosis) -> list[str]:
    """Returns the row of a table: the cause, what was changed, what the replay showed, and why."""
    if diagnosis.standing is not None:
        shown, why = figure(cause.ends_at), "without it, the loss does not end lower by more than the noise of seeds"
    elif ended_wording.is_ended(diagnosis.rise):
        shown, why = percent(cause.removes), "the run does not train without it"
    else:
        shown, why = percent(cause.removes), "more than half of the rise stays without it"
    return [words_of(cause).name, cause.says, shown, cause.why or why]


def below_0(shares: Iterable[float | None]) -> Iterator[str]:
    """Yields what a negative share in a table means, if it shows one."""
    if any(share is not None and percent(share).startswith("-") for share in shares):
        yield "Below 0 %, the loss was higher with the change than without it."


def below_0_of(causes: Sequence[RuledOut | NotFinished], diagnosis: Diagnosis) -> Iterator[str]:
    """Yields the same for the table of causes that were tried, if it shows shares."""
    if diagnosis.standing is None:
        yield from below_0(cause.removes for cause in causes)


def spent(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields what proves a cause, and what the replays cost; nothing if there were none."""
    budget = diagnosis.budget
    if budget is None:
        return
    if diagnosis.against is not None:
        yield against_wording.RULE
    elif diagnosis.standing is not None:
        yield standing_wording.RULE
    else:
        yield ended_wording.rule(budget) if ended_wording.is_ended(diagnosis.rise) else _rule(diagnosis)
    seeds = f" No change was replayed with more than {count(budget.seeds, 'seed')}." if budget.seeds > 1 else ""
    if diagnosis.against is not None:  # a difference is its own remedy, if it has one
        yield f"The replays took {count(budget.rounds, 'round')} of at most {budget.allowed}.{seeds}"
        return
    remedies = (
        f"The replays of remedies took {count(budget.remedy_rounds, 'round')} of at most {budget.remedy_allowed}."
        if budget.remedy_allowed
        else "They are replays of remedies, too."
    )
    yield (f"The replays of causes took {count(budget.rounds, 'round')} of at most {budget.allowed}. {remedies}{seeds}")


def _rule(diagnosis: Diagnosis) -> str:
    first = diagnosis.causes[0] if diagnosis.causes else None
    if first and first.replay.kind in _RULES:
        return _RULES[first.replay.kind]
    harm = harm_of(diagnosis.verdict, diagnosis)
    goes = "go" if first and first.cause == FAILURES else "goes"
    rule = (
        f"A cause is proven if (1) at least half of the {harm} {goes} away without it, (2) other seeds confirm this, "
        f"and (3) no more specific cause explains the {harm} as well."
    )
    if len(diagnosis.causes) > 1 and not shown_before(diagnosis.causes[1], diagnosis):
        return f"{rule} A second cause is claimed if the loss falls clearly further without it; one seed is enough."
    return rule
