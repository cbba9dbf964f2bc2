"""Diagnoses a planted workspace and compares the answer with the truth: one row of the benchmark."""

import importlib
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bases import LEFT_OUT
from cases import Case
from losses import REAL, WORST, at_end, finite, gap, highest_over_lowest, log_of
from of_standing import of_standing
from plant import Planted
from remedy import WORSE, from_round_one, trains

from tasks.clients import CLIENTS, read_preprocessed
from tasks.diagnose import diagnosis
from tasks.diagnose.diagnosis import Diagnosis, to_json
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.step import diagnose_logs
from tasks.errors import UndriftError
from tasks.federate.record import RoundLine
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog, read_clients, read_rounds
from tasks.settings import Settings

ABOVE, OWN = 0.05, 0.5
"""In units of ln(loss). A rise is one of three:

1. val_loss or train_loss, if (a) the mean of ln(loss / the twin's loss) from the first changed round on is at least
   REAL, and (b) the mean loss of the 8 rounds from there on is at least exp(ABOVE) times that of the 3 rounds before.
2. A planted client's own loss before its local work, if it is at least exp(OWN) times its earlier one.
3. A failed client.

A standing cause did harm if the mean of the last 5 values of val_loss is at least exp(REAL) times the twin's.
"""

NEVER: dict[str, int | None] = {"round": None, "onset": None, "alarm": None}
_FIRST_TESTED = 8
"""The first round after which the detection is tested live."""


def measure(case: Case, planted: Planted, workspace: Path) -> dict[str, Any]:
    """Returns the numbers that score.py counts.

    The diagnosis has a cache of computations of its own, as in a process that diagnoses one run. So its seconds, like
    those of the training, contain what it takes to build and compile computations.
    """
    cache = ComputationCache()
    began = time.perf_counter()
    answer, rounds, clients, error = _answer(case, planted, workspace, cache)
    seconds = time.perf_counter() - began
    truth = case.what.causes
    result: dict[str, Any] = {
        "case": case.name,
        "plant": case.plant,
        "base": case.base,
        "seed": case.seed,
        "kind": case.what.kind if truth else "none",
        "left_out": case.base in LEFT_OUT,
        "rounds": case.what.rounds,
        "planted": list(truth),
        "also": list(case.what.also),
        "planted_clients": planted.clients,
        "onset": planted.onset,
        "spiked": planted.spiked,
        "error": error,
        "seconds": round(seconds, 2),
        "training_seconds": round(planted.training, 2),
        **_claimed(answer),
    }
    if case.what.kind == "ended":
        return result | _of_ended(answer, planted, workspace, cache)
    if case.what.kind == "standing":
        return result | {"live": NEVER} | of_standing(case, answer, planted, workspace, cache)
    assert rounds is not None, error
    assert clients is not None, error
    result |= _of_rise(case, planted, rounds, clients)
    if case.what.kind == "once":
        result |= _of_one_round(answer, planted)
    if answer and answer.causes and case.what.kind == "rise" and result["rose"] and "unnamed" not in truth:
        result |= _of_remedy(answer, planted, workspace, result["gaps"], cache)
    return result


def _answer(
    case: Case, planted: Planted, workspace: Path, cache: ComputationCache
) -> tuple[Diagnosis | None, RoundLog | None, ClientLog | None, str]:
    """Returns the diagnosis, the logs, and the error if there is none; an ended run may have logs without rows."""
    reports = workspace / "reports"
    try:
        if case.what.kind == "ended":
            return diagnose_logs(reports, planted.settings, workspace), None, None, ""
        rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
        return diagnosis(rounds, clients, planted.settings, workspace, cache), rounds, clients, ""
    except UndriftError as exc:
        return None, None, None, str(exc)


def _claimed(answer: Diagnosis | None) -> dict[str, Any]:
    """Returns what the diagnosis says, and where it contradicts itself."""
    if answer is None:
        return {"question": None, "detected": False, "causes": [], "clients": [], "called_faulty": [], "remedies": 0}
    causes = answer.causes
    named = sorted({client for one in causes if one.cause == "faulty_clients" for client in one.clients})
    content = to_json(answer)
    said: dict[str, Any] = {
        "question": content.get("question"),
        "detected": answer.rise.detected,
        "detected_round": answer.rise.round,
        "causes": [one.cause for one in causes],
        "clients": [list(one.clients) for one in causes],
        "called_faulty": named,
        "unusual": sorted({seen.client for seen in answer.observations if seen.unusual}),
        "remedies": sum(one.remedy is not None for one in causes),
        "ruled_out": [[one.cause, one.removes] for one in answer.ruled_out],
        "limits": list(answer.limits),
        "contradictions": _contradictions(content),
    }
    if answer.budget:
        said["replay_rounds"] = answer.budget.rounds
        said["allowed_rounds"] = answer.budget.allowed
    return said


def _contradictions(content: dict[str, Any]) -> list[str] | None:
    """Returns what contradicts itself in diagnosis.json; None if the rules are not there."""
    try:
        consistency = importlib.import_module("tasks.diagnose.consistency")
    except ModuleNotFoundError:
        return None
    return list(consistency.contradictions(content))


def _of_rise(case: Case, planted: Planted, rounds: RoundLog, clients: ClientLog) -> dict[str, Any]:
    """Returns whether the planted cause raised a loss, and when the detection would have seen it live."""
    begins = planted.begins
    gaps = {name: gap(_from(planted.lines, name, begins), _from(planted.twin, name, begins)) for name in rounds.losses}
    broken = any(not row["finite"] for line in planted.lines[begins - 1 :] for row in line.clients)
    above = {name: _above([line.row[name] for line in planted.lines], begins) for name in rounds.losses}
    own = max((_own_rise(clients, client, planted) for client in planted.clients), default=-math.inf)
    real = any(gaps[name] >= REAL and above[name] >= ABOVE for name in gaps)
    causes = case.what.causes
    return {
        "harmful": [cause for cause in causes if _harmful(cause, planted)],
        "gaps": gaps,
        "above": above,
        "rose": bool(causes) and (broken or real or own >= OWN),
        "own_rise": highest_over_lowest([line.row["val_loss"] for line in planted.lines]),
        "num_clients": len(set(clients.clients)),
        "live": _live(rounds, clients, planted.settings, planted.onset or begins) if causes else NEVER,
    }


def _of_one_round(answer: Diagnosis | None, planted: Planted) -> dict[str, Any]:
    """Returns whether a fault of one round is named with its client and round, and whether a loss shows it.

    It is named by a proven cause, by an observation, or in a sentence under `limits`.
    """
    onset, (client, *_) = planted.onset, planted.clients or [""]
    shown = {name: _once_gap(planted, name) for name in ("val_loss", "train_loss")}
    named = False
    if answer and onset:
        causes = [one for one in answer.causes if client in one.clients and one.rounds[0] <= onset <= one.rounds[1]]
        seen = [one for one in answer.observations if one.client == client and one.rounds and one.rounds[0] == onset]
        told = [each for each in answer.limits if _names(each, client) and re.search(rf"round {onset}\b", each)]
        named = bool(causes or seen or told)
    return {"once_named": named, "once_shown": max(shown.values()) >= REAL}


def _names(sentence: str, client: str) -> bool:
    return re.search(rf"client {re.escape(client)}\b", sentence, re.IGNORECASE) is not None


def _once_gap(planted: Planted, name: str) -> float:
    """Returns the largest ln(loss / the twin's loss) of the round of the fault and the round after it."""
    place = (planted.onset or planted.begins) - 1
    pairs = zip(planted.lines[place : place + 2], planted.twin[place : place + 2], strict=True)
    return max((log_of(ours.row[name]) - log_of(twins.row[name]) for ours, twins in pairs), default=-math.inf)


def _of_ended(answer: Diagnosis | None, planted: Planted, workspace: Path, cache: ComputationCache) -> dict[str, Any]:
    """Returns whether the proposed settings train, run from round 1."""
    read = read_preprocessed(workspace / CLIENTS)
    result: dict[str, Any] = {"rose": True, "harmful": [], "num_clients": len(read.sizes), "trains": False}
    remedy = answer and answer.remedy
    result["remedy"] = dict(remedy.settings) if remedy else None
    if remedy and remedy.settings:
        try:
            result["trains"] = trains(from_round_one(remedy.settings, planted, workspace, cache), workspace)
        except UndriftError as exc:
            result["remedy_error"] = str(exc)
    return result


def _of_remedy(
    answer: Diagnosis, planted: Planted, workspace: Path, gaps: dict[str, float], cache: ComputationCache
) -> dict[str, Any]:
    """Returns what the proposed settings take back if they are there from round 1, measured by val_loss."""
    remedy = answer.remedy
    result: dict[str, Any] = {"remedy": dict(remedy.settings) if remedy else None, "taken_back": None, "worse": None}
    if not remedy or not remedy.settings:
        return result
    try:
        losses = from_round_one(remedy.settings, planted, workspace, cache)
    except UndriftError as exc:
        return result | {"remedy_error": str(exc)}
    nothing = [line.row["val_loss"] for line in planted.lines]
    nothing += [WORST] * (len(losses) - len(nothing))
    ends = [at_end([finite(loss) for loss in each]) for each in (losses, nothing)]
    result |= {"ends": ends, "worse": ends[0] > WORSE * ends[1]}
    if gaps["val_loss"] >= REAL:
        left = gap(losses[planted.begins - 1 :], _from(planted.twin, "val_loss", planted.begins))
        result["taken_back"] = float(np.clip(1 - left / gaps["val_loss"], -1, 1))
    return result


def _harmful(cause: str, planted: Planted) -> bool:
    """Returns whether a cause of a pair raised the loss: by at least REAL over the same run without the cause."""
    if cause not in planted.without:
        return True
    begins = planted.begins
    return any(
        gap(_from(planted.lines, name, begins), _from(planted.without[cause], name, begins)) >= REAL
        for name in ("val_loss", "train_loss")
    )


_OWN_WINDOW = 3
"""Losses of a client whose mean is compared, on either side of the onset."""


def _own_rise(log: ClientLog, client: str, planted: Planted) -> float:
    """Returns ln of the ratio of two means: a client's first 3 losses from the onset on over its last 3 before it."""
    rows = log.of(client) & ~np.isnan(log.signals["loss_before"])
    rounds, losses = log.rounds[rows], log.signals["loss_before"][rows]
    after = [finite(loss) for loss in losses[rounds >= (planted.onset or planted.begins)][:_OWN_WINDOW]]
    before = [finite(loss) for loss in losses[rounds < planted.begins][-_OWN_WINDOW:]]
    return float(np.log(np.mean(after) / np.mean(before))) if after and before else -math.inf


def _above(losses: Sequence[float], begins: int) -> float:
    """Returns ln of the ratio of two means: the losses of 8 rounds from `begins` on over the last 3 known before."""
    after = [finite(loss) for loss in losses[begins - 1 : begins + 7] if not _missing(loss)]
    before = [finite(loss) for loss in losses[: begins - 1] if not _missing(loss)][-3:]
    return float(np.log(np.mean(after) / np.mean(before))) if after and before else -math.inf


def _missing(loss: float | None) -> bool:
    return loss is None or math.isnan(loss)


def _from(lines: Sequence[RoundLine], name: str, first: int) -> list[float]:
    return [line.row[name] for line in lines[first - 1 :]]


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
