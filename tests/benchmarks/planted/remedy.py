"""Runs a remedy from round 1, as a user would who starts the training again with the proposed settings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from losses import at_end
from plant import Planted

from tasks.clients import CLIENTS, read_client, read_preprocessed
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replay, replayer
from tasks.diagnose.replay.surgery import features_aligned
from tasks.federate.state import ServerState
from tasks.preprocess import preprocess
from tasks.settings import Settings, with_settings

WORSE = 1.02
"""A mean loss is worse if it is more than this many times the other one: 2 % is noise."""


def from_round_one(
    remedy: Mapping[str, Any], planted: Planted, workspace: Path, cache: ComputationCache
) -> list[float]:
    """Returns val_loss after each round with the remedy's settings from round 1 to the last round.

    Before the onset, settings and data are the healthy ones with the remedy laid over them. From the onset on, they are
    the planted ones with the remedy laid over them. If the data were wrong from round 1 and the remedy changes
    `preprocess`, this step runs again, also for the hold-out data. A loss is infinite if no client is left.

    Raises:
        UndriftError: the settings do not allow the remedy.
    """
    if planted.raw is not None and any(name.startswith("preprocess.") for name in remedy):
        settings = with_settings(planted.settings, remedy)
        preprocess(settings, planted.raw)
        return _run(settings, planted.raw, Change("with the remedy", {}), cache).losses["val_loss"]
    change = _change(remedy)
    if planted.begins == 1:
        return _run(planted.settings, workspace, change, cache).losses["val_loss"]
    healthy = planted.healthy
    before = _run(healthy.settings, healthy.folder, change, cache, last=planted.begins - 1)
    last = planted.settings.federate.rounds
    if before.broken or before.ended:
        return [*before.losses["val_loss"], *before.losses["val_loss"][-1:] * (last - planted.begins + 1)]
    settings = [with_settings(one, remedy) for one in (healthy.settings, planted.settings)]
    after = _run(planted.settings, workspace, change, cache, planted.begins, before.state, settings)
    known = [line.row["val_loss"] for line in before.lines + after.lines]
    return [*known, *[np.inf] * (last - len(known))] if after.broken else after_ended(known, last)


def after_ended(losses: list[float], last: int) -> list[float]:
    """Returns the losses up to round `last`: after training ended, the model stays the same."""
    return [*losses, *losses[-1:] * (last - len(losses))]


def trains(losses: list[float], workspace: Path) -> bool:
    """Returns whether the mean loss at the end is below chance.

    Chance is the loss of a model that gives each class its frequency in the hold-out data: the entropy in nats.
    """
    _, y = read_client(read_preprocessed(workspace / CLIENTS).test)
    shares = np.bincount(y) / len(y)
    chance = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    return at_end(losses) < chance


def _change(remedy: Mapping[str, Any]) -> Change:
    surgery = {"aligned": features_aligned} if "preprocess.normalize" in remedy else {}
    return Change("with the remedy", remedy, surgery=surgery)


def _run(
    settings: Settings,
    folder: Path,
    change: Change,
    cache: ComputationCache,
    first: int = 1,
    state: ServerState | None = None,
    both: list[Settings] | None = None,
    last: int | None = None,
) -> Replay:
    """Returns the rounds `first` to `last` with the change; from `state`, if it is given."""
    with replayer(settings, folder, cache) as replays:
        replays.go_to(0)
        replay = replays.begin(change, 0)
        if state is not None and both is not None:
            replay.state = _carried(state, *both, replay.state)
            replay.next_round = first
        replays.advance(replay, last or replays.last_round)
    return replay


def _carried(state: ServerState, before: Settings, now: Settings, fresh: ServerState) -> ServerState:
    carried = replace(fresh, params=state.params)
    if now.federate.server_optimizer == before.federate.server_optimizer:
        carried = replace(carried, optimizer=state.optimizer)
    if now.federate.aggregator == before.federate.aggregator:
        carried = replace(carried, aggregator=state.aggregator)
    return carried
