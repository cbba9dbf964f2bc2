"""The sentences about a run that ended before its last round."""

from collections.abc import Iterator
from statistics import fmean

from tasks.diagnose.diagnosis import Budget, Cause, Diagnosis, ReplayResult, TriedRemedy
from tasks.diagnose.ended.course import final_rounds
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, figure, joined, span, who


def is_ended(rise: Rise) -> bool:
    """Returns whether the end of the run, or a model that stays at chance, is explained, and not a rise of its loss."""
    return rise.of_an_end


def how(ending: Ending) -> str:
    """Returns `The run ended in round 2 because all 10 clients failed (their updates were not finite)`."""
    if ending.goes_on:
        return f"The model was broken in round {ending.since}, and it stayed at chance up to round {ending.round}"
    what = "The guard (federate.guard) ended the run" if ending.by_guard else "The run ended"
    phase = " (while pruning)" if ending.phase == "prune" else ""
    return f"{what} in round {ending.round}{phase} because {_reason(ending)}"


def finding(ending: Ending, causes: list[str], proof: str) -> str:
    """Returns how the run ended and why.

    Args:
        ending: of the run.
        causes: what ends `because …`, for each proven cause.
        proof: what ends the sentence about them.
    """
    first = (
        f" The first sign was in round {ending.since}." if ending.since < ending.round and not ending.goes_on else ""
    )
    return f"{how(ending)}.{first} The cause: {joined(causes)}{proof}" if causes else f"{how(ending)}.{first}"


def proof(cause: Cause, budget: Budget) -> str:
    """Returns ` (proven by replay with 3 seeds: …)`: the replay without the cause trains."""
    replay = cause.replay
    return (
        f" (proven by replay with {count(replay.seeds, 'seed')}: in {replay.says}, the run goes on, and val_loss is "
        f"{figure(_final(replay))} after {_rounds(replay)}; a model that learned nothing has {figure(budget.chance)})"
    )


def not_again(ending: Ending | None) -> str:
    """Returns `the run did not end again`; of a run that goes on, that its model was not broken again."""
    return "the model was not broken again" if ending and ending.goes_on else "the run did not end again"


def trains(remedy: TriedRemedy, diagnosis: Diagnosis) -> str:
    """Returns `the run trains: val_loss is 0.12 after 12 rounds`."""
    if remedy.loss_after is None:
        return "the run ends again"
    goes = "trains" if remedy.recovers > 0 else "does not train"
    return f"the run {goes}: val_loss is {figure(remedy.loss_after)} after {_rounds(diagnosis.causes[0].replay)}"


def facts(diagnosis: Diagnosis, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (title, text): when, why, since when, the cause, its clients and the remedy. `names` are the causes'."""
    ending = diagnosis.ending
    if ending is None:
        return
    if ending.goes_on:
        yield "At chance from", f"round {ending.since} on"
    else:
        yield "The run ended in", f"round {ending.round}"
        yield "Reason", _reason(ending)
        yield "First sign", f"round {ending.since}"
    yield "Cause", joined(names) if names else "not proven"
    if diagnosis.causes and diagnosis.causes[0].clients:
        yield "Clients", who(diagnosis.causes[0].clients)
    if diagnosis.remedy and diagnosis.budget:
        after = _rounds(diagnosis.causes[0].replay)
        yield f"val_loss after {after} with the remedy", figure(diagnosis.remedy.loss_after)
        yield "val_loss without learning (chance)", figure(diagnosis.budget.chance)


def replayed(cause: Cause) -> str:
    """Returns what the replay of a cause showed."""
    replay = cause.replay
    unchanged = _final(replay, changed=False)
    without = "the run ends again" if unchanged is None else f"it is {figure(unchanged)}"
    return (
        f"Replay of {span(replay.from_round + 1, replay.from_round + len(replay.changed))} with "
        f"{count(replay.seeds, 'seed')}: in {replay.says}, val_loss is {figure(_final(replay))} after "
        f"{_rounds(replay)}. With nothing changed, {without}."
    )


def rule(budget: Budget) -> str:
    """Returns what proves a cause."""
    return (
        "A cause is proven if the run trains without it, with every seed with which it does not train otherwise. A run "
        f"trains if it goes on, no client fails, and val_loss falls below chance ({figure(budget.chance)} nats): the "
        "loss of a model that does not look at its inputs. If a replay ends before the run's last round and starts "
        "from a model above chance, half of the way to it is enough."
    )


def _reason(ending: Ending) -> str:
    if not ending.failed or (ending.by_guard and not ending.failure.startswith("clients failed")):
        return ending.failure
    whose = "its update was" if len(ending.failed) == 1 else "their updates were"
    if not ending.not_finite:
        why = "the reason is in clients.csv"
    elif ending.not_finite == ending.failed:
        why = f"{whose} not finite"
    else:
        why = f"the update of {who(ending.not_finite)} was not finite; the other reasons are in clients.csv"
    if ending.all_failed and len(ending.failed) > 1:
        return f"all {len(ending.failed)} clients of that round failed ({why})"
    return f"{who(ending.failed)} failed ({why})"


def _rounds(replay: ReplayResult) -> str:
    return count(len(replay.changed), "round")


def _final(replay: ReplayResult, changed: bool = True) -> float | None:
    """The mean loss of the last rounds; None if one of them is not finite."""
    losses = (replay.changed if changed else replay.unchanged)[-final_rounds(len(replay.changed)) :]
    finite = [loss for loss in losses if loss is not None]
    return fmean(finite) if len(finite) == len(losses) else None
