"""What the logs and the replays could not tell, in sentences: a diagnosis that hides its limits misleads."""

from collections.abc import Iterator
from pathlib import Path

from tasks.detection.noise import FEWEST
from tasks.detection.null import MOST_DRAWS
from tasks.diagnose.investigation import Investigation
from tasks.diagnose.observe.loss_tests import tested_losses
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.observe.rise import SHARES, Rise
from tasks.diagnose.phrases import count
from tasks.round_log.read import ClientLog, RoundLog

FROM_DATA = (
    "No test of the losses alone finds this rise: it is known from the clients' data, which have changed in the course "
    "of the run."
)


def limits_of_logs(observation: Observation, rounds: RoundLog, clients: ClientLog) -> list[str]:
    """Returns what the logs could not tell."""
    return [
        *_of_the_loss(observation.rise, rounds),
        *_of_the_test(observation.rise),
        *_of_the_clients(observation, clients),
    ]


def not_replayed(rise: Rise, workspace: Path | None, rounds: RoundLog, most_rounds: int) -> list[str]:
    """Returns why no replay can decide about causes; empty if one can. `most_rounds` is federate.rounds."""
    trained = int((~rounds.pruning).sum())
    if rise.phase == "prune":
        return ["The loss rose while the model was pruned: those rounds are not replayed, so no cause is proven."]
    if workspace is None or not (workspace / "data" / "clients" / "preprocess.json").is_file():
        return [
            "The clients' data are not here, so the rounds could not be replayed: what was observed proposes causes, "
            "and proves none."
        ]
    if trained > most_rounds:
        return [
            f"The log has {trained} rounds of training, and federate.rounds is {most_rounds}: params.yaml is of "
            "another run, so no cause is proven."
        ]
    return []


def replay_failed(error: Exception) -> list[str]:
    """Returns that the replays ended in an error."""
    return [f"The rounds could not be replayed, so no cause is proven: {error}."]


def not_proven(replays: Investigation) -> list[str]:
    """Returns why the replays prove no cause; empty if they prove one."""
    if not replays.reproduced:
        return [
            "Run again with the data and settings in this folder, the loss did not rise: something was different then, "
            "so no cause is proven."
        ]
    if not replays.causes:
        return ["No change of one factor that was tried takes the rise away, so no cause is proven."]
    return []


def _of_the_loss(rise: Rise, rounds: RoundLog) -> Iterator[str]:
    num_rounds = len(rounds.rounds)
    if rise.num_losses < FEWEST:
        yield (
            f"{rise.loss} was measured in {count(rise.num_losses, 'round')}: whether it rose beyond its noise can be "
            f"told from {FEWEST} on."
        )
    elif rise.num_losses < num_rounds:
        yield (
            f"{rise.loss} was measured in {rise.num_losses} of {num_rounds} rounds: the rounds between two "
            "measurements cannot be told apart."
        )
    if rise.val_loss_round is not None:
        yield (
            f"The loss on the hold-out data rose too, from round {rise.val_loss_round}; the rise that came first is "
            "explained."
        )
    elif rise.loss != "val_loss" and "val_loss" in tested_losses(rounds):
        yield "The loss on the hold-out data did not rise beyond its noise: the model of all may be as good as before."
    elif rise.loss != "val_loss":
        yield (
            f"{rise.loss} was tested, not val_loss: the loss on the clients' own data goes on falling while a model "
            "overfits, and varies with the clients that were sampled."
        )
    if rise.sparsity is not None:
        yield (
            f"The rise coincides with rising sparsity, from {rise.sparsity[0]:.2g} to {rise.sparsity[1]:.2g}: pruning "
            "costs some loss, and whether anything else went wrong in those rounds cannot be told."
        )


def _of_the_test(rise: Rise) -> Iterator[str]:
    # A loss is tested in two ways, and each loss has its share.
    least = 2 / (MOST_DRAWS + 1) / min(SHARES)
    if rise.significance < least:
        yield (
            f"diagnose.significance {rise.significance:g} is below {least:.2g}: not every loss can be tested so "
            "strictly."
        )
    elif not rise.detected and rise.noise is not None:
        if rise.visible is None:
            yield "The loss is too noisy, or its curve too short, for any rise to be told from noise."
        else:
            size = f"{100 * rise.visible:.3g} % of the loss" if rise.relative else f"{rise.visible:.3g}"
            yield f"A rise by less than {size}, even a lasting one, cannot be told from noise on this curve."


def _of_the_clients(observation: Observation, clients: ClientLog) -> Iterator[str]:
    if not observation.rise.detected:
        yield "Without a rise, the clients were only searched for failures."
        return
    if not observation.drifts:
        yield "No client's signals in the rounds of the rise could be compared with anything."
        return
    if all(drift.before is None for drift in observation.drifts):
        yield (
            "No client is known from before the rise: honest clients with unusual data look like clients that drifted."
        )
    if all(drift.expected is None for drift in observation.drifts):
        yield "Fewer than 3 clients took part in a round: each could only be compared with its own past."
    if "update_cosine" in clients.signals and "update_cosine_robust" not in clients.signals:
        yield (
            "The cosine is that to the mean update: clients that drift together own the mean, and make honest ones "
            "look odd."
        )
