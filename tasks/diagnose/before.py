"""Causes that no replay can take away: the run's own log, from before they began, beside replays that have them."""

from dataclasses import replace

import numpy as np

from tasks.diagnose import verdict
from tasks.diagnose.causes import Candidate
from tasks.diagnose.gone import gone_effect, logged_losses
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Gone, Proof
from tasks.diagnose.replay.agreement import Disagreement, first_disagreement
from tasks.diagnose.replay.change import NO_CHANGE
from tasks.diagnose.replay.effect import Effect, height, removed
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import REMAINS
from tasks.diagnose.window import LEAST, LONGEST
from tasks.round_log.read import ClientLog

NOT_SHOWN = "the log and the known models do not show the run without it, just before the rise"
WITH_THEM = "the loss rises again in a replay in which they take part"
MOST_ROUNDS = verdict.SEEDS * LONGEST
"""Most rounds that the replays of `from_before` take."""


def from_before(
    replays: Replayer, incident: Incident, candidate: Candidate, until: int, log: ClientLog | None = None
) -> Proof | None:
    """Returns the proof of a cause that began after round `until` and cannot be taken away in a replay; None without.

    In rounds up to `until` the run itself was without the cause. Replays of the same rounds have it, since they have
    today's data. The level is the lowest loss that the run logged in them. The replays start from the last known model
    that is LEAST rounds or more before `until`. The cause is proven if both of these hold:
    1. With each seed, the replayed loss is above the logged one by REMAINS or more.
    2. Of its height above the level, the share that is not in the log passes the test of every cause.

    Args:
        replays: of the run.
        incident: the rise.
        candidate: the cause.
        until: last round in which the log shows the run without it.
        log: clients.csv, without rounds of pruning, if the replays must have its rows: the cause is not in the
            training.
    """
    start = max((saved for saved in replays.saved if saved <= until - LEAST), default=None)
    if start is None or incident.hidden:
        return None
    last = min(until, start + LONGEST)
    rounds = [r for r in range(start + 1, last + 1) if r in incident.logged]
    logged = [incident.logged[r] for r in rounds]
    if not logged:
        return None
    level = min(logged)
    series, shares = [], []
    for seed in range(verdict.SEEDS):
        replay = replays.begin_after(start, NO_CHANGE, seed)
        replays.advance(replay, last)
        if log is not None and not seed and first_disagreement(replay.lines, log, last):
            return None
        series.append(replay.losses[incident.loss])
        losses = [replay.losses[incident.loss][r - start - 1] for r in rounds]
        if not height(losses, level) - height(logged, level) >= REMAINS:
            return None
        shares.append(removed(losses, logged, level))
    effect = Effect(tuple(shares))
    if not effect.proven:
        return None
    unchanged = tuple(float(loss) for loss in np.mean(series, axis=0))
    before = tuple(incident.logged.get(r, np.nan) for r in range(start + 1, last + 1))
    return Proof(candidate, effect, incident.loss, unchanged, before, kind="log_before", from_round=start)


def came_back(
    trials: Trials, incident: Incident, candidate: Candidate, missing: tuple[int, int], found: Disagreement | None
) -> Proof | None:
    """Returns the proof that clients were missing that are there today; None without.

    1. The replay of the run first differs from the log in the round from which on these clients are missing in the log,
       and only in that they take part.
    2. In no seed does the loss rise with them.

    Args:
        trials: with the replay that changes nothing.
        incident: the rise.
        candidate: the missing clients.
        missing: first and last round in which they were missing.
        found: where that replay first differs from the log.
    """
    if found is None or found.round < missing[0] or not {*found.clients} <= {*candidate.clients}:
        return None
    effect = gone_effect(trials, incident)
    if not effect.proven:
        return None
    return Proof(
        replace(candidate, change=replace(candidate.change, settings={})),
        effect,
        trials.window.loss,
        logged_losses(trials, incident),
        trials.unchanged_mean(trials.window.loss),
        Gone(missing, ""),
        kind="log_without",
    )
