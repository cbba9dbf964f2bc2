"""What the logs and the replays could not tell, in sentences: a diagnosis that hides its limits misleads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.detection.noise import FEWEST
from tasks.detection.null import MOST_DRAWS
from tasks.diagnose.causes import CAUSES
from tasks.diagnose.investigation import Investigation
from tasks.diagnose.observe.client_signals import MOST_SHOWN
from tasks.diagnose.observe.events import SHARES, Event
from tasks.diagnose.observe.loss_tests import tested_losses
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count, every_client, figure, joined, measured, span, who
from tasks.round_log.read import ClientLog, RoundLog

if TYPE_CHECKING:  # its import takes TensorFlow's
    from tasks.diagnose.evidence.unseen import Unseen

NEAR_CHANCE = "Changes of its loss near that are no rise."
NONE_TRIED = "No cause was tried"
ALL_RULED_OUT = "every cause that was tried is ruled out"
NOT_LOOKED_AT = "Not looked at:"
WHY_NONE = ("o cause is proven", "none is proven", "can prove a cause")
"""Parts of the limits that say why no cause is proven."""
NOT_KNOWN = "It is not known whether the cause is"
ONLY_SINGLE_ROUNDS = (
    "So the clients were checked only for failed updates, and for single rounds in which an update or a loss is far "
    "outside the usual range."
)
FROM_DATA = (
    "No test of the losses alone finds this rise. It was found because the data of these clients changed during the "
    "run."
)


def limits_of_logs(
    observation: Observation, rounds: RoundLog, clients: ClientLog, looked_for: Sequence[str] = ()
) -> list[str]:
    """Returns what the logs could not tell. `looked_for` is what was looked at besides, where nothing rose."""
    return [
        *_of_chance(observation.rise),
        *_of_the_loss(observation.rise, rounds),
        *(_of_event(event, observation.rise) for event in observation.rise.events),
        *_of_the_test(observation.rise),
        *_of_the_clients(observation, clients, looked_for),
    ]


def not_replayed(rise: Rise, workspace: Path | None, rounds: RoundLog, most_rounds: int) -> list[str]:
    """Returns why no replay can decide about causes; empty if one can. `most_rounds` is federate.rounds."""
    trained = int((~rounds.pruning).sum())
    if rise.phase == "prune":
        return ["The loss rose while the model was pruned. Rounds of pruning are not replayed, so no cause is proven."]
    if workspace is None or not (workspace / "data" / "clients" / "preprocess.json").is_file():
        return [
            "The clients' data are missing in this folder, so no round could be replayed. Only a replay can prove a "
            "cause."
        ]
    if trained > most_rounds:
        return [
            f"The log has {trained} rounds of training, but federate.rounds is {most_rounds}. So params.yaml is of "
            "another run, and no cause is proven."
        ]
    return []


def replay_failed(error: Exception) -> list[str]:
    """Returns that the replays ended in an error."""
    return [f"The rounds could not be replayed, so no cause is proven: {error}."]


def not_proven(replays: Investigation, own_losses: Sequence[str] = ()) -> list[str]:
    """Returns why the replays prove no cause, and what they could not tell; empty if they prove one.

    `own_losses` are the clients whose own losses rose, where the mean of all clients hides it.
    """
    unlike = _unlike_hold_out(replays.findings.unseen)
    if replays.causes:
        return unlike
    if not replays.reproduced and replays.differs:
        return [
            "The loss did not rise again in a replay with the data and settings in this folder. Something else was "
            f"different in the run, so no cause is proven. {replays.differs}"
        ]
    if not replays.reproduced:
        return [
            "The replay gives the numbers of the log again, but in the rounds that were compared "
            f"({span(*replays.window)}), the loss is not clearly above its level before. So no cause is proven."
        ]
    return [why_none_is_proven(replays), *_skews_left_out(own_losses), *unlike]


def no_standing_cause(replays: Investigation) -> list[str]:
    """Returns why no cause of a loss that did not rise is proven; empty if one is, or if there was no suspect."""
    if replays.causes or replays.standing is None:
        return []
    if not replays.reproduced:
        return [
            "A replay with the data and settings in this folder does not give the losses of the log. Something else "
            f"was different in the run, so no cause is proven. {replays.differs}".rstrip()
        ]
    return [*_dead(replays.dead_layers), why_none_is_proven(replays)]


def _dead(layers: Sequence[str]) -> Iterator[str]:
    if layers:
        whose = f"layer {layers[0]}" if len(layers) == 1 else f"layers {joined(list(layers))}"
        yield (
            f"All weights of the {whose} are zero in the first model, and the gradient of the loss in them is exactly "
            "zero, whatever the rest of the model learns. So no data, no client and no setting can move them. Give "
            "these layers random initial weights (in Keras, `kernel_initializer`)."
        )


def _skews_left_out(own_losses: Sequence[str]) -> Iterator[str]:
    """Skews are no candidates for single clients' own losses (`causes.candidates`)."""
    if own_losses:
        skews = joined([kind.words.name for kind in CAUSES.values() if kind.skew])
        yield (
            f"{NOT_LOOKED_AT} {skews}. Their replays give the clients other examples, so the loss of {who(own_losses)} "
            "would change even if the skew was not its cause."
        )


def why_none_is_proven(replays: Investigation) -> str:
    """Returns why no cause is proven: none was tried, some are not finished, or all are ruled out."""
    if replays.not_finished:
        candidates = [proof.candidate for proof in replays.not_finished]
        names = dict.fromkeys(CAUSES[each.cause].words.of(each.fault).name for each in candidates)
        return (
            f"No cause is proven. {NOT_KNOWN} {' or '.join(names)}: the table of the causes that are not finished says "
            "why."
        )
    if replays.ruled_out:
        return f"No cause is proven, because {ALL_RULED_OUT}."
    return (
        f"{NONE_TRIED}, so none is proven. In the clients' data, in their updates and in the settings, Undrift found "
        "no possible cause that a replay can take away."
    )


def _unlike_hold_out(unseen: "Unseen | None") -> list[str]:
    if unseen is None or unseen.overfits:
        return []
    return [
        f"A model that was trained without {every_client(unseen.clients)} has a loss of {measured(unseen.loss)} on the "
        f"data of these clients, and of {measured(unseen.hold_out)} on the hold-out data. So the hold-out data are "
        "unlike the clients' data, and overfitting is not claimed."
    ]


def _of_the_loss(rise: Rise, rounds: RoundLog) -> Iterator[str]:
    num_rounds = len(rounds.rounds)
    if rise.num_losses < FEWEST:
        yield (
            f"{rise.loss} was measured in only {count(rise.num_losses, 'round')}. A rise beyond the noise can be found "
            f"from {FEWEST} measured rounds on."
        )
    elif rise.num_losses < num_rounds:
        yield (
            f"{rise.loss} was measured in only {rise.num_losses} of {num_rounds} rounds. A rise that began between two "
            "measured rounds is dated to the second one."
        )
    if rise.loss == "val_loss" or rise.val_loss_round is not None:
        pass
    elif "val_loss" in tested_losses(rounds):
        levels = f" ({_levels(rise.other)} in the same rounds)" if rise.other else ""
        yield (
            f"The loss on the hold-out data (val_loss) did not rise beyond its noise{levels}, so the global model can "
            "be as good as before."
        )
    else:
        yield (
            f"{rise.loss} was tested, because val_loss has too few values. {rise.loss} does not show overfitting. It "
            "also depends on which clients take part in a round."
        )
    if rise.sparsity is not None:
        yield (
            f"The sparsity rose from {rise.sparsity[0]:.2g} to {rise.sparsity[1]:.2g} in the same rounds. Pruning "
            "raises the loss, so another cause in these rounds cannot be seen."
        )


def _of_chance(rise: Rise) -> Iterator[str]:
    chance = rise.chance
    if chance is None:
        return
    since = "The model never learned: it" if chance.never_learned else "The model"
    then = ""
    if not rise.detected:
        then = f" {NEAR_CHANCE}"
    elif rise.kind == "level" and rise.rounds and rise.rounds[0] > chance.since:
        then = " The rise is reported because the loss went above that."
    yield (
        f"{since} has been at chance since round {chance.since}. A guess that knows only how frequent each class is "
        f"has a val_loss of {figure(chance.loss)}, and the model is no better.{then}"
    )


def _of_event(event: Event, rise: Rise) -> str:
    own = "its" if len(event.clients) == 1 else "their"
    whose = f"the loss of {who(event.clients)} on {own} own data" if event.clients else event.loss
    levels = "" if event.loss_before is None else f", from {figure(event.loss_before)}"
    levels += " to NaN or infinity" if event.loss_after is None else f" to {figure(event.loss_after)}"
    when = span(event.round, event.until)
    if _is_same(event, rise):
        first = ", because it rose first" if rise.val_loss_round is not None else ""
        return f"In {when}, {whose} rose too{levels}. This report explains {rise.loss}{first}."
    while_pruning = " while the model was pruned" if event.phase == "prune" else ""
    return f"Another rise: {whose} rose in {when}{while_pruning}{levels}. This report does not explain it."


def _is_same(event: Event, rise: Rise) -> bool:
    """Whether an event is the explained rise in the other loss. train_loss shows an update one round later."""
    if event.loss == rise.loss or event.clients or event.phase != rise.phase or not rise.rounds:
        return False
    later = 1 if event.loss == "train_loss" else -1
    return any(event.round - shift <= rise.rounds[-1] and event.until - shift >= rise.rounds[0] for shift in (0, later))


def _levels(levels: tuple[float, float]) -> str:
    return f"{figure(levels[0])} before, {figure(levels[1])}"


def _of_the_test(rise: Rise) -> Iterator[str]:
    # The first of the ranks is never claimed, and each loss has its share.
    least = 2 / (MOST_DRAWS + 1) / min(SHARES)
    if rise.significance < least:
        yield (
            f"diagnose.significance is {rise.significance:g}. At a level below {least:.2g}, not every loss can be "
            "tested."
        )
    elif not rise.detected and rise.noise is not None:
        if rise.visible is None:
            yield "The loss is too noisy, or its curve is too short: no rise can be separated from the noise."
        else:
            size = f"{100 * rise.visible:.3g} % of the loss" if rise.relative else f"{rise.visible:.3g}"
            yield f"On this curve, a rise by less than {size} cannot be separated from the noise, even if it lasts."


def _of_the_clients(observation: Observation, clients: ClientLog, looked_for: Sequence[str]) -> Iterator[str]:
    if not clients.ids:
        yield "The log has no numbers of single clients, so no client can be named."
        return
    failed, unusual = len(observation.failures), len(observation.unusual)
    if max(failed, unusual) > MOST_SHOWN:
        yield (
            f"{count(failed, 'client')} failed and {count(unusual, 'client')} had unusual signals. This report shows "
            f"at most {MOST_SHOWN} of each: those that failed most often, and those that drifted most. All clients are "
            "in clients.csv."
        )
    if not observation.rise.detected:
        if not looked_for:
            yield f"The loss did not rise. {ONLY_SINGLE_ROUNDS}"
        return
    if not observation.drifts:
        yield "No client could be compared with other clients, or with its own past, in the rounds of the rise."
        return
    if all(drift.before is None for drift in observation.drifts):
        yield (
            "The log shows no client before the rounds that were compared, so an honest client with unusual data looks "
            "like a client that drifted."
        )
    if all(drift.expected is None for drift in observation.drifts):
        yield "Fewer than 3 clients took part in a round, so each client is compared with its own past only."
    if "update_cosine" in clients.signals and "update_cosine_robust" not in clients.signals:
        yield (
            "The log has only the cosine to the mean update. Several clients that drift together turn the mean, and "
            "then honest clients look unusual."
        )
