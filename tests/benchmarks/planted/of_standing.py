"""Measures a case whose cause was there from round 1: against the twin, at the end of the run."""

from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from losses import REAL, at_end, end_gap, finite, highest_over_lowest
from plant import Planted
from planted_data import sizes_of
from remedy import WORSE, from_round_one

from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.replay.computations import ComputationCache
from tasks.errors import UndriftError


def of_standing(
    case: Case, answer: Diagnosis | None, planted: Planted, workspace: Path, cache: ComputationCache
) -> dict[str, Any]:
    """Returns whether the cause did harm, and what the proposed settings take back, run from round 1."""
    losses, twin = ([line.row["val_loss"] for line in lines] for lines in (planted.lines, planted.twin))
    harm = end_gap(losses, twin)
    result: dict[str, Any] = {
        "harmful": list(case.what.causes),
        "gaps": {"val_loss": harm},
        "rose": harm >= REAL,
        "own_rise": highest_over_lowest(losses),
        "num_clients": len(sizes_of(workspace)),
    }
    remedy = answer and answer.remedy
    if not remedy or not remedy.settings or not result["rose"] or "unnamed" in case.what.causes:
        return result
    result |= {"remedy": dict(remedy.settings), "taken_back": None, "worse": None}
    try:
        cured = from_round_one(remedy.settings, planted, workspace, cache)
    except UndriftError as exc:
        return result | {"remedy_error": str(exc)}
    return result | taken_back(cured, losses, twin)


def taken_back(cured: list[float], nothing: list[float], twin: list[float]) -> dict[str, Any]:
    """Returns the share of the gap to the twin at the end that is taken back, and whether doing nothing is better.

    Args:
        cured: val_loss after each round with the remedy, from round 1.
        nothing: the same of the planted run, which ends above the twin.
        twin: the same of the healthy run.
    """
    ends = [at_end([finite(loss) for loss in each]) for each in (cured, nothing)]
    share = 1 - end_gap(cured, twin) / end_gap(nothing, twin)
    return {"ends": ends, "worse": ends[0] > WORSE * ends[1], "taken_back": float(np.clip(share, -1, 1))}
