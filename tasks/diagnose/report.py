"""The diagnosis as JSON and as text for someone who knows neither the papers nor the statistics."""

from typing import Any

from tasks.diagnose.drift import Drift
from tasks.diagnose.observe import Observation

_SHOWN = 3


def to_json(seen: Observation, significance: float, limits: list[str]) -> dict[str, Any]:
    """Returns diagnosis.json: the contract's keys, `detection` (how the rise was tested) and `observations`.

    `causes` is empty and `verdict` is none, since no cause is proven by looking. An observation holds client, signal,
    value, expected (the cohort's median), before (the same client's), score, unusual, rounds, and says: a sentence.
    """
    rise = seen.increase
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
            "loss": seen.loss,
            "num_losses": seen.num_losses,
            "kind": rise.kind,
            "alarm": rise.alarm,
            "phase": seen.phase,
            "sparsity": list(seen.sparsity) if seen.sparsity else None,
            "noise": rise.noise,
            "correlation": rise.correlation,
            "visible": rise.visible,
            "significance": significance,
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


def headline(seen: Observation) -> str:
    """Returns the answer in one sentence."""
    rise = seen.increase
    sure = f"{100 * rise.confidence:.4g} %"
    if not rise.detected:
        tested = "" if rise.noise is None else f" (confidence in a rise: {sure})"
        return f"{seen.loss} did not rise beyond its noise in {count(seen.num_losses, 'measured round')}{tested}."
    phase = f" ({seen.phase})" if seen.phase else ""
    if rise.kind == "not_finite":
        return f"{seen.loss} went up in round {rise.round}{phase} and was not finite by round {rise.until}."
    change = f"from {_figure(rise.loss_before)} to {_figure(rise.loss_after)}"
    return f"{seen.loss} rose in round {rise.round}{phase} {change}, until round {rise.until} (confidence {sure})."


def to_markdown(seen: Observation, limits: list[str]) -> str:
    """Returns diagnosis.md: the answer, who drifted, what the data could not tell."""
    lines = ["# Why did the loss go up?", "", headline(seen), ""]
    if seen.increase.detected:
        lines += ["Its cause is not proven yet; below is what was observed.", ""]
    found = observations(seen)
    if found:
        lines += ["## Who drifted", ""]
        lines += ["| client | signal | value | cohort | before | unusual | |", "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {_cell(one['client'])} | {one['signal']} | {_figure(one['value'])} | {_figure(one['expected'])} "
            f"| {_figure(one['before'])} | {'yes' if one['unusual'] else 'no'} | {_cell(one['says'])} |"
            for one in found
        ]
        lines += ["", "Unusual is evidence, not blame: clients whose data changed look the same.", ""]
    healthy = ", ".join(_cell(client) for client in seen.healthy) or "none"
    lines += ["## Nothing unusual", "", f"Clients: {healthy}.", "", "## What the data could not tell", ""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in limits), ""])


def _says(one: Drift) -> str:
    what = {
        "update_norm": "sent updates of length {0}",
        "update_cosine": "sent updates with cosine {0} to their mean",
        "update_cosine_robust": "sent updates with cosine {0} to the robust centre",
        "loss_before": "had loss {0} on its own data before local work",
        "loss_change": "changed its own loss by {0} in its local work",
    }[one.signal].format(_figure(one.value))
    cohort = "" if one.expected is None else f", the median client {_figure(one.expected)}"
    before = "" if one.before is None else f", itself before {_figure(one.before)}"
    end = "" if one.unusual else ": within the usual spread"
    return f"Client {one.client} {what}{cohort}{before}{end}."


def _rounds(rounds: tuple[int, ...]) -> str:
    return ("round " if len(rounds) == 1 else "rounds ") + ", ".join(map(str, rounds))


def count(number: int, what: str) -> str:
    """Returns `1 round`, `2 rounds`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
