"""The diagnosis as JSON, and its answer in one sentence."""

from collections.abc import Mapping
from typing import Any

from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.story import read
from tasks.diagnose.report.wording import count, figure
from tasks.diagnose.report.wording import headline as _headline

__all__ = ["count", "headline", "observations", "to_json", "to_markdown"]

_SHOWN = 3


def to_json(seen: Observation, significance: float, limits: list[str]) -> dict[str, Any]:
    """Returns diagnosis.json: the contract's keys, `detection` (how the rise was tested) and `observations`.

    `causes` is empty and `verdict` is none, since no cause is proven by looking. An observation holds client, signal,
    value, expected (the cohort's median), before (the same client's), score, unusual, rounds, and says: a sentence.
    """
    rise = seen.rise
    return {
        "verdict": "none",
        "increase": {
            "detected": rise.detected,
            "round": rise.round,
            "until": rise.until,
            "loss_before": rise.loss_before,
            "loss_after": rise.loss_after,
            "confidence": rise.confidence,
        },
        "causes": [],
        "healthy": list(seen.healthy),
        "limits": limits,
        "detection": {
            "loss": rise.loss,
            "num_losses": rise.num_losses,
            "kind": rise.kind,
            "alarm": rise.alarm,
            "phase": rise.phase,
            "sparsity": list(rise.sparsity) if rise.sparsity else None,
            "noise": rise.noise,
            "correlation": rise.correlation,
            "visible": rise.visible,
            "significance": significance,
            "clients": list(rise.clients),
        },
        "observations": observations(seen),
    }


def observations(seen: Observation) -> list[dict[str, Any]]:
    """Returns failures, then all unusual signals, or of the three that drifted most where none is unusual."""
    shown = seen.unusual or tuple(dict.fromkeys(one.client for one in seen.drifts))[:_SHOWN]
    found: list[dict[str, Any]] = [
        {
            "client": client,
            "signal": "finite",
            "value": len(rounds),
            "expected": 0,
            "before": None,
            "score": None,
            "unusual": True,
            "rounds": list(rounds),
            "says": f"Client {client} failed in {_rounds(rounds)}: what it sent was left out of the average.",
        }
        for client, rounds in seen.failures.items()
    ]
    for client in shown:
        mine = [one for one in seen.drifts if one.client == client]
        for one in [one for one in mine if one.unusual] or mine[:1]:
            found.append(
                {
                    "client": one.client,
                    "signal": one.signal,
                    "value": one.value,
                    "expected": one.expected,
                    "before": one.before,
                    "score": one.score,
                    "unusual": one.unusual,
                    "rounds": list(seen.window or ()),
                    "says": _says(one),
                }
            )
    return found


def headline(diagnosis: Mapping[str, Any]) -> str:
    """Returns the answer of diagnosis.json in one sentence."""
    return _headline(read(diagnosis))


def _says(one: Drift) -> str:
    what = {
        "update_norm": "sent updates of length {0}",
        "update_cosine": "sent updates with cosine {0} to their mean",
        "update_cosine_robust": "sent updates with cosine {0} to the robust centre",
        "loss_before": "had loss {0} on its own data before local work",
        "loss_change": "changed its own loss by {0} in its local work",
    }[one.signal].format(figure(one.value))
    cohort = "" if one.expected is None else f", the median client {figure(one.expected)}"
    before = "" if one.before is None else f", itself before {figure(one.before)}"
    end = "" if one.unusual else ": within the usual spread"
    return f"Client {one.client} {what}{cohort}{before}{end}."


def _rounds(rounds: tuple[int, ...]) -> str:
    return ("round " if len(rounds) == 1 else "rounds ") + ", ".join(map(str, rounds))
