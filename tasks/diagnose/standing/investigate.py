"""From a run in which nothing rose to what has been in its way from the start: evidence, replays, verdict."""

from dataclasses import replace
from pathlib import Path

from tasks.diagnose.evidence.findings import no_findings
from tasks.diagnose.investigation import Investigation, Standing
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.standing.ends import ending_of, mean_loss
from tasks.diagnose.standing.examine import Examination
from tasks.diagnose.standing.look import look
from tasks.diagnose.standing.said import said, same_data, signals
from tasks.round_log.read import ClientLog, RoundLog
from tasks.settings import Settings


def investigate_standing(
    settings: Settings,
    workspace: Path,
    rounds: RoundLog,
    log: ClientLog,
    observation: Observation,
    cache: ComputationCache,
) -> Investigation:
    """Returns what was looked at, and what replays from round 1 say of each suspicion.

    Args:
        settings: of the run.
        workspace: with the clients' data.
        rounds: rounds.csv.
        log: clients.csv, the rounds of training.
        observation: what the logs show. If the loss rose, and the model is better than chance, the settings are not
            suspected: they can have made the rise, and then its own replays would have proven them.
        cache: of computations.

    Raises:
        UndriftError: the data are missing, or the replays cannot begin.
    """
    chance = observation.chance
    looked = look(settings, workspace, rounds, log, with_settings=not observation.rise.detected or chance is not None)
    examination, last = looked.examination, looked.last
    looked_for, not_examined = said(examination, log, looked.looks_at_settings)
    empty = Investigation(
        0,
        (1, last),
        True,
        (),
        (),
        (),
        {},
        no_findings(),
        0,
        0,
        looked_for=looked_for,
        clients_looked_at=_looked_at(examination),
        not_examined=not_examined,
        signals=signals(examination),
        notes=same_data(looked.sites.checked_in.clients),
    )
    if chance is not None and chance.never_learned and (dead := looked.first_model.dead_layers):
        # No replay can lower the loss of a model that cannot move.
        ending = ending_of(last)
        standing = Standing(mean_loss(looked.logged, ending), None, None, (ending[0], last))
        return replace(empty, dead_layers=dead, standing=standing)
    if not looked.suspects_anything:
        return empty
    # TensorFlow takes seconds to import, and most runs have no suspect.
    from tasks.diagnose.standing.search import searched

    return searched(looked, empty, cache)


def _looked_at(examination: Examination) -> tuple[str, ...]:
    """The clients of which it is known that their data are as the others'."""
    if not examination.compares:
        return ()
    return tuple(client for client in examination.clients if client not in examination.disputed)
