"""What the logs and the replays could not tell of a run that ended, in sentences."""

from pathlib import Path

from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.investigation import Investigation
from tasks.diagnose.limits import ONLY_SINGLE_ROUNDS, not_replayed, why_none_is_proven
from tasks.diagnose.observe.client_signals import MOST_SHOWN
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.phrases import count
from tasks.round_log.read import RoundLog
from tasks.settings import Settings

RUN_AGAIN = (
    "The round log has no round. So round 1 was run again with the data and settings in this folder, and the run ended "
    "in it. This report is about that round."
)
_MODEL = "models/global.h5"


def limits_of_ending(observation: Observation) -> list[str]:
    """Returns what the logs of a run that ended could not tell."""
    limits = []
    if len(observation.failures) > MOST_SHOWN:
        limits.append(
            f"{count(len(observation.failures), 'client')} failed. This report shows the {MOST_SHOWN} that failed most "
            "often. All clients are in clients.csv."
        )
    if observation.window is None:
        limits.append(f"No loss rose before the run ended. {ONLY_SINGLE_ROUNDS}")
    return limits


def why_not_replayed(
    rise: Rise, ending: Ending, workspace: Path | None, rounds: RoundLog, most_rounds: int
) -> list[str]:
    """Returns why no replay can decide about causes; empty if one can. `most_rounds` is federate.rounds."""
    if ending.phase == "prune":
        return ["The run ended while the model was pruned. Rounds of pruning are not replayed, so no cause is proven."]
    return not_replayed(rise, workspace, rounds, most_rounds)


def why_not_proven(replays: Investigation) -> list[str]:
    """Returns why the replays prove no cause; empty if they prove one."""
    if not replays.reproduced:
        return [
            "The run did not end again in a replay with the data and settings in this folder, and its loss fell. "
            "Something else was different in the run, so no cause is proven."
        ]
    return [] if replays.causes else [why_none_is_proven(replays)]


def unfinished(rounds: RoundLog, settings: Settings, workspace: Path | None) -> list[str]:
    """Returns that the log is shorter than the run was meant to be, if it does not say why.

    The settings are known only in a workspace. If the step `federate` was finished, early stopping has ended it.
    """
    trained, planned = int((~rounds.pruning).sum()), settings.federate.rounds
    if workspace is None or rounds.pruning.any() or trained >= planned or (workspace / _MODEL).is_file():
        return []
    if settings.federate.early_stopping.patience:
        return []
    return [
        f"The log has {count(trained, 'round')} of {planned}, and it does not say that the run failed. The run was "
        "killed, or it still goes on."
    ]
