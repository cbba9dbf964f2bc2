"""Puts what was observed and what the replays showed into diagnosis.json, in sentences that need no paper."""

import math
from typing import Any

from tasks.diagnose.causes import evidence_for, fault_of
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Investigation, Proof, Tried
from tasks.settings import Settings


def with_causes(diagnosis: dict[str, Any], seen: Investigation, settings: Settings) -> dict[str, Any]:
    """Returns the diagnosis with `verdict`, `causes`, and our own `ruled_out`, `remedies`, `replays` and `signals`."""
    return diagnosis | {
        "verdict": seen.causes[0].candidate.cause if seen.causes else "none",
        "causes": [_cause(proof, seen, settings) for proof in seen.causes],
        "ruled_out": [
            {
                "cause": proof.candidate.cause,
                "says": f"the same rounds {proof.candidate.change.says}",
                "removes": _share(proof.effect.mean) if proof.effect.by_seed else None,
            }
            for proof in seen.ruled_out
        ],
        "remedies": [_remedy(one) for one in seen.tried],
        "replays": {
            "from_round": seen.from_round,
            "rounds": seen.spent,
            "allowed": seen.allowed,
            "seeds": max((len(proof.effect.by_seed) for proof in seen.causes), default=1),
            "compared": list(seen.window),
            "reproduced": seen.reproduced,
        },
        "signals": _signals(seen.findings),
    }


def _cause(proof: Proof, seen: Investigation, settings: Settings) -> dict[str, Any]:
    candidate, effect = proof.candidate, proof.effect
    best = seen.proposed.get(candidate.cause)
    return {
        "cause": candidate.cause,
        "score": max(0.0, _share(effect.low if math.isfinite(effect.low) else effect.mean / 2)),
        "clients": list(candidate.clients),
        **fault_of(candidate.cause, candidate.clients, seen.findings),
        "rounds": list(seen.window),
        "evidence": [
            {"signal": signal, "value": _number(value), "expected": _number(expected), "says": says}
            for signal, value, expected, says in evidence_for(
                candidate.cause, candidate.clients, seen.findings, settings
            )
        ],
        "replay": {
            "change": candidate.change.described(),
            "says": f"the same rounds {candidate.change.says}",
            "from_round": seen.from_round,
            "rounds": min(len(proof.without), len(proof.with_change)),
            "loss": proof.loss,
            "loss_without": [_number(loss) for loss in proof.without],
            "loss_with": [_number(loss) for loss in proof.with_change],
            "seeds": len(effect.by_seed),
            "removes": {
                "mean": _share(effect.mean),
                "low": _share(effect.low) if math.isfinite(effect.low) else None,
                "high": _share(2 * effect.mean - effect.low) if math.isfinite(effect.low) else None,
            },
        },
        "remedy": None if best is None else {"settings": best.remedy.settings, "recovers": _share(best.recovers)},
    }


def _remedy(one: Tried) -> dict[str, Any]:
    return {
        "settings": one.remedy.settings,
        "says": one.remedy.says,
        "recovers": _share(one.recovers),
        "loss_after": _number(one.loss),
        "against": list(one.against),
    }


def _signals(found: Findings) -> dict[str, Any]:
    """The dear signals, of all clients: what the evidence was picked from."""
    clients: dict[str, dict[str, Any]] = {}
    for one in found.clients:
        values: dict[str, Any] = {
            name: _number(getattr(one, name))
            for name in (
                "loss",
                "usual_loss",
                "expected_loss",
                "accuracy",
                "expected_accuracy",
                "feature_distance",
                "norm",
                "norm_per_step",
                "grown",
                "slope",
                "cosine",
                "cosine_before",
                "cosine_during",
                "epochs",
                "left_out",
                "sent_over_trained",
            )
        }
        if one.memory is not None:
            kept = {name: _number(value) for name, value in (("logged", one.memory.logged), ("now", one.memory.now))}
            values["memory"] = {"round": one.memory.round, **kept}
        local = found.local_models.get(one.client)
        if local is not None:
            numbers = {name: value for name, value in vars(local).items() if name != "recalls"}
            values |= {name: _number(value) for name, value in numbers.items()}
            values["recalls"] = {str(label): _number(recall) for label, recall in sorted(local.recalls.items())}
        clients[one.client] = values
    return {
        "clients": clients,
        "label_skew": _number(found.label_skew),
        "size_skew": _number(found.size_skew),
        "steepness": _number(found.steepness),
        "dissimilarity": _number(found.dissimilarity),
        "objective_gap": _number(found.objective_gap),
        "train_trend": _number(found.train_trend),
        "val_trend": _number(found.val_trend),
        "local_drift": [_number(value) for value in found.local_drift],
    }


def _share(value: float) -> float:
    """A share of the rise: below the level before it, there is nothing left to take away."""
    return float(f"{min(1.0, max(-1.0, value)):.4g}")


def _number(value: float | None) -> float | None:
    """Six significant digits; None for what is not finite, which JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
