"""The sentences about a loss that did not rise, but is higher than it should be."""

from collections.abc import Iterator

from tasks.diagnose.diagnosis import Cause, Diagnosis, ReplayResult
from tasks.diagnose.investigation import Standing
from tasks.diagnose.phrases import count, figure, joined, percent, span, who
from tasks.diagnose.report.vocabulary import words_of
from tasks.diagnose.thresholds import ENDING

HARM = "excess loss"
RULE = (
    "A cause is proven if (1) the hold-out loss ends lower without it, by more than the noise of seeds and in the mean "
    "over three of them, and (2) the loss on the data of the other clients does not end higher. A setting must also "
    "make a large difference, because another choice of a setting nearly always makes a small one."
)

WORDS = {
    "Noise": "Ups and downs of the loss that mean nothing. With other random numbers (another seed), the loss at the "
    "end is a little different. A lower loss counts only if the difference is larger than that.",
    "Replay": "The rounds are run again from the start, or from an early round. One thing is changed. All else stays "
    "the same, including the random numbers. A cause is proven only if the run ends with a clearly lower loss without "
    "it.",
    "Excess loss": "How much higher the loss at the end is with the proven causes than without them, on a logarithmic "
    "scale: a remedy that removes all of it ends at the loss without the causes.",
}


def higher(loss: str) -> str:
    """Returns how a sentence about the tested loss goes on: `, but it is higher than it should be`."""
    return f", but {'it' if loss == 'val_loss' else 'the hold-out loss (val_loss)'} is higher than it should be"


def proof(cause: Cause, standing: Standing) -> str:
    """Returns ` (proven by replay with 3 seeds: in …, val_loss ends at 0.19 instead of 0.31)`."""
    replay = cause.replay
    if replay.kind == "hold_out":
        unseen, hold_out = _of_hold_out(replay)
        return (
            f" (proven by replay: the loss is {unseen} on clients' data that the model was not trained on, and "
            f"{hold_out} on the hold-out data)"
        )
    return (
        f" (proven by replay with {count(replay.seeds, 'seed')}: in {replay.says}, {_is_at(replay.loss, standing)} "
        f"{figure(replay.ends_at)} instead of {figure(standing.loss)})"
    )


def facts(diagnosis: Diagnosis, standing: Standing) -> Iterator[tuple[str, str]]:
    """Yields (title, text): how high the loss is and would be, the cause, its clients and the remedy."""
    causes, remedy = diagnosis.causes, diagnosis.remedy
    yield f"Loss{_when(standing)} (val_loss, mean of {span(*standing.rounds)})", figure(standing.loss)
    if standing.noise is not None:
        yield "Its standard deviation over seeds", figure(standing.noise)
    if diagnosis.rise.chance:
        yield "Loss of a guess (chance)", figure(diagnosis.rise.chance.loss)
    if not causes:
        yield "Cause", "not proven"
        return
    yield f"Loss{_when(standing)} without the {'cause' if len(causes) == 1 else 'causes'}", figure(standing.reference)
    yield "Cause" if len(causes) == 1 else "Causes", joined([words_of(cause).name for cause in causes])
    clients = dict.fromkeys(client for cause in causes for client in cause.clients)
    if clients:
        yield "Clients", who([*clients])
    if remedy:
        yield "Excess loss removed by the remedy", percent(remedy.recovers)


def replayed(cause: Cause, standing: Standing, alone: bool) -> str:
    """Returns what the replay of a cause showed. Of a cause that stands alone, it takes all of the excess away."""
    replay = cause.replay
    if replay.kind == "hold_out":
        unseen, hold_out = _of_hold_out(replay)
        return (
            f"Replay of {span(replay.from_round + 1, replay.from_round + len(replay.changed))}, each without half of "
            f"the clients: at its end, the loss is {unseen} on the data of the clients that were left out, and "
            f"{hold_out} on the hold-out data."
        )
    share = "" if alone else f" The change removes {percent(replay.removes.mean)} of the {HARM}."
    return (
        f"Replay of {span(replay.from_round + 1, replay.from_round + len(replay.changed))} with "
        f"{count(replay.seeds, 'seed')}: in {replay.says}, {_is_at(replay.loss, standing)} "
        f"{figure(replay.ends_at)}. With nothing changed, {_is_at('it', standing)} {figure(standing.loss)} "
        f"(mean of {span(*standing.rounds)}).{share}"
    )


def _of_hold_out(replay: ReplayResult) -> tuple[str, str]:
    """The loss at the end on the data of clients that were left out, and on the hold-out data."""
    return figure(replay.changed[-1]), figure(replay.unchanged[-1])


def outcome(standing: Standing) -> str:
    """Returns the heading of a column: where the hold-out loss ends without a cause."""
    return f"loss{_when(standing)} (nothing changed: {figure(standing.loss)})"


def _acts_later(standing: Standing) -> bool:
    """Whether the rounds that are compared are those in which a fault acts that began later, and not only the last."""
    return standing.rounds[1] - standing.rounds[0] >= ENDING


def _when(standing: Standing) -> str:
    return " while the fault acts" if _acts_later(standing) else " at the end"


def _is_at(loss: str, standing: Standing) -> str:
    return f"{'its mean' if loss == 'it' else f'the mean {loss}'} is" if _acts_later(standing) else f"{loss} ends at"
