"""Did the clients' data change in the course of the run, and whose loss rose with them?"""

import logging
from pathlib import Path

from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.replay.computations import ComputationCache
from tasks.errors import UndriftError
from tasks.files import read_json
from tasks.round_log.read import ClientLog
from tasks.runtime.check_in import check_in
from tasks.settings import Settings

_log = logging.getLogger(__name__)


def data_changed(settings: Settings, workspace: Path) -> bool:
    """Returns whether the clients' data differ from the data that the run began with, as its checkpoints say.

    False without checkpoints or without data: then there is nothing to compare.
    """
    try:
        began_with = read_json(workspace / "models/checkpoints/federate/run.json")["identity"]["data"]
        return bool(check_in(workspace / "data/clients", settings.federate.exclude).digest != began_with)
    except (UndriftError, OSError, KeyError, TypeError):
        return False


def rises_with_changed_data(
    settings: Settings, workspace: Path, clients: ClientLog, cache: ComputationCache
) -> list[ClientRise]:
    """Returns the rises of the clients whose loss rose when their data changed; none if that cannot be known.

    Args:
        settings: of the run.
        workspace: with the clients' data and checkpoints.
        clients: clients.csv, the rounds of training.
        cache: of the replays' computations.
    """
    if not data_changed(settings, workspace) or not {"num_examples", "loss_before"} <= set(clients.signals):
        return []
    # TensorFlow takes seconds to import, and the data of most runs have not changed.
    from tasks.diagnose.evidence.remembered import risen_with_their_data

    try:
        return risen_with_their_data(settings, workspace, clients, cache)
    except UndriftError as exc:
        _log.info("it is not known which clients' data changed: %s", exc)
        return []
