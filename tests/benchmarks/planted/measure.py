"""Diagnoses a planted workspace and compares the answer with the truth: one row of the benchmark."""

import math
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from cases import ONSET, PLANTS, ROUNDS, Case
from plant import Planted

from tasks.diagnose import diagnosis
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import replayer
from tasks.diagnose.replay.surgery import features_aligned
from tasks.federate.record import RoundLine
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog, read_clients, read_rounds
from tasks.settings import Settings

REAL, ABOVE, OWN = 0.1, 0.05, 0.5
"""In units of ln(loss). A rise is one of three:

1. val_loss or train_loss, if (a) the mean of ln(loss / the twin's loss) from ONSET on is at least REAL, and (b) the
   mean loss of the 8 rounds from ONSET on is at least exp(ABOVE) times the mean loss of the 3 rounds before.
2. A planted client's own loss before its local work, if it is at least exp(OWN) times its earlier one.
3. A failed client.
"""

_FIRST_TESTED = 8
"""The first round after which the detection is tested live."""
_WORST = 1e6
"""The loss that is used if a loss is not finite, so that the mean of the logarithms is finite."""


def measure(case: Case, planted: Planted, workspace: Path, cache: ComputationCache) -> dict[str, Any]:
    """Returns the numbers that score.py counts; the cases of one process share the `cache` of computations."""
    rounds = read_rounds(workspace / "reports/rounds.csv")
    clients = read_clients(workspace / "reports/clients.csv")
    gaps = {name: gap(_from_onset(planted.lines, name), _from_onset(planted.twin, name)) for name in rounds.losses}
    broken = any(not row["finite"] for line in planted.lines[ONSET - 1 :] for row in line.clients)
    began = time.perf_counter()
    answer = diagnosis(rounds, clients, planted.settings, workspace, cache)
    seconds = time.perf_counter() - began
    causes, truth = answer.causes, PLANTS[case.plant].causes
    above = {name: _above([line.row[name] for line in planted.lines]) for name in rounds.losses}
    own = max((_own_rise(clients, client, planted.onset) for client in planted.clients), default=-math.inf)
    real = any(gaps[name] >= REAL and above[name] >= ABOVE for name in gaps)
    harmful = [cause for cause in truth if _harmful(cause, planted)]
    named = sorted({client for one in causes if one.cause == "faulty_clients" for client in one.clients})
    result: dict[str, Any] = {
        "case": case.name,
        "plant": case.plant,
        "base": case.base,
        "seed": case.seed,
        "planted": list(truth),
        "harmful": harmful,
        "planted_clients": planted.clients,
        "onset": planted.onset,
        "gaps": gaps,
        "above": above,
        "rose": broken or real or own >= OWN,
        "detected": answer.rise.detected,
        "detected_round": answer.rise.round,
        "causes": [one.cause for one in causes],
        "clients": [list(one.clients) for one in causes],
        "called_faulty": named,
        "ruled_out": [[one.cause, one.removes] for one in answer.ruled_out],
        "num_clients": len(set(clients.clients)),
        "limits": list(answer.limits),
        "live": _live(rounds, clients, planted.settings, planted.onset or ONSET),
        "seconds": round(seconds, 2),
    }
    if answer.budget:
        result["replay_rounds"] = answer.budget.rounds
        result["allowed_rounds"] = answer.budget.allowed
    if causes and truth and result["rose"]:
        remedy = causes[0].remedy and dict(causes[0].remedy.settings)
        result["remedy"] = remedy
        result["taken_back"] = _taken_back(remedy, planted, workspace, gaps, cache) if remedy else 0.0
    return result


def _harmful(cause: str, planted: Planted) -> bool:
    """Returns whether a cause of a pair raised the loss: by at least REAL over the same run without the cause."""
    if cause not in planted.without:
        return True
    return any(
        gap(_from_onset(planted.lines, name), _from_onset(planted.without[cause], name)) >= REAL
        for name in ("val_loss", "train_loss")
    )


_OWN_WINDOW = 3
"""Losses of a client whose mean is compared, on either side of the onset."""


def _own_rise(log: ClientLog, client: str, onset: int | None) -> float:
    """Returns ln of the ratio of two means: a client's first 3 losses from `onset` on over its last 3 before ONSET."""
    rows = log.of(client) & ~np.isnan(log.signals["loss_before"])
    rounds, losses = log.rounds[rows], log.signals["loss_before"][rows]
    after = [_finite(loss) for loss in losses[rounds >= (onset or ONSET)][:_OWN_WINDOW]]
    before = [_finite(loss) for loss in losses[rounds < ONSET][-_OWN_WINDOW:]]
    return float(np.log(np.mean(after) / np.mean(before))) if after and before else -math.inf


def _above(losses: Sequence[float]) -> float:
    """Returns ln of the ratio of two means: the losses of the 8 rounds from ONSET on over the last 3 known before."""
    after = [_finite(loss) for loss in losses[ONSET - 1 : ONSET + 7] if not _missing(loss)]
    before = [_finite(loss) for loss in losses[: ONSET - 1] if not _missing(loss)][-3:]
    return float(np.log(np.mean(after) / np.mean(before))) if after and before else -math.inf


def _missing(loss: float | None) -> bool:
    return loss is None or math.isnan(loss)


def _finite(loss: float) -> float:
    return min(loss, _WORST)


def gap(losses: Sequence[float], twin: Sequence[float]) -> float:
    """Returns the mean over the rounds of ln(loss / the twin's loss). A loss that is missing or over 1e6 is 1e6."""
    return float(np.mean([_log(a) - _log(b) for a, b in zip_longest(losses, twin)]))


def _log(loss: float | None) -> float:
    known = loss is not None and math.isfinite(loss)
    return math.log(max(_finite(loss), 1e-9) if known else _WORST)


def _from_onset(lines: Sequence[RoundLine], name: str) -> list[float]:
    return [line.row[name] for line in lines[ONSET - 1 :]]


def _taken_back(
    remedy: dict[str, Any], planted: Planted, workspace: Path, gaps: dict[str, float], cache: ComputationCache
) -> float | None:
    """Returns the fraction of the gap that the remedy's settings close from ONSET on; None if the gap is below REAL."""
    name = "val_loss" if gaps["val_loss"] >= REAL else "train_loss"
    if gaps[name] < REAL:
        return None
    surgery = {"aligned": features_aligned} if "preprocess.normalize" in remedy else {}
    with replayer(planted.settings, workspace, cache) as replays:
        replays.go_to(ONSET - 1)
        replay = replays.begin(Change("with the remedy", remedy, surgery=surgery), 0)
        replays.advance(replay, ROUNDS)
    left = gap(replay.losses[name], _from_onset(planted.twin, name))
    return float(np.clip(1 - left / gaps[name], 0, 1))


def _live(rounds: RoundLog, clients: ClientLog, settings: Settings, onset: int) -> dict[str, int | None]:
    """Tests the log after each round, as in a live run; returns the round that first shows a rise, and its onset."""
    for now in range(_FIRST_TESTED, int(rounds.rounds[-1]) + 1):
        rise = observe(*_cut(rounds, clients, now), settings.diagnose.significance).rise
        # A false alarm before the onset is counted elsewhere as a claim. Here it must not hide a later alarm.
        if rise.detected and (rise.until or 0) >= onset:
            return {"round": now, "onset": rise.round, "alarm": rise.alarm}
    return {"round": None, "onset": None, "alarm": None}


def _cut(rounds: RoundLog, clients: ClientLog, now: int) -> tuple[RoundLog, ClientLog]:
    kept, rows = rounds.rounds <= now, clients.rounds <= now
    losses = {name: Measurements(one.values[kept], one.given[kept]) for name, one in rounds.losses.items()}
    sparsity = rounds.sparsity
    if sparsity is not None:
        sparsity = Measurements(sparsity.values[kept], sparsity.given[kept])
    num = int(kept.sum())
    return (
        RoundLog(rounds.rounds[kept], rounds.phases[:num], losses, sparsity),
        ClientLog(
            clients.rounds[rows],
            tuple(np.array(clients.clients)[rows].tolist()),
            {name: values[rows] for name, values in clients.signals.items()},
            clients.failed[rows],
            clients.not_finite[rows],
        ),
    )
