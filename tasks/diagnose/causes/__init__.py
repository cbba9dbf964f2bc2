"""The causes of a rise: one module each, one registry, and the functions that a diagnosis calls.

docs/extending.md lists the files that a new cause touches.
"""

from collections.abc import Iterator
from dataclasses import replace

from tasks.diagnose.causes.architecture_variation import ARCHITECTURE_VARIATION
from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation
from tasks.diagnose.causes.changed_setting import CHANGED_SETTING
from tasks.diagnose.causes.client_learning_rate import CLIENT_LEARNING_RATE
from tasks.diagnose.causes.data_drift import DATA_DRIFT
from tasks.diagnose.causes.faulty_clients import FAULTY_CLIENTS
from tasks.diagnose.causes.feature_shift import FEATURE_SHIFT
from tasks.diagnose.causes.hold_out_shift import HOLD_OUT_SHIFT
from tasks.diagnose.causes.label_skew import LABEL_SKEW
from tasks.diagnose.causes.missing_clients import MISSING_CLIENTS
from tasks.diagnose.causes.non_finite import NON_FINITE
from tasks.diagnose.causes.overfitting import OVERFITTING
from tasks.diagnose.causes.quantity_skew import QUANTITY_SKEW
from tasks.diagnose.causes.server_learning_rate import SERVER_LEARNING_RATE
from tasks.diagnose.causes.unequal_local_work import UNEQUAL_LOCAL_WORK
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.thresholds import TOO_STEEP
from tasks.settings import Settings, value_at

CAUSES: dict[str, CauseKind] = {
    "non_finite": NON_FINITE,
    "missing_clients": MISSING_CLIENTS,
    "data_drift": DATA_DRIFT,
    "hold_out_shift": HOLD_OUT_SHIFT,
    "faulty_clients": FAULTY_CLIENTS,
    "architecture_variation": ARCHITECTURE_VARIATION,
    "unequal_local_work": UNEQUAL_LOCAL_WORK,
    "feature_shift": FEATURE_SHIFT,
    "server_learning_rate": SERVER_LEARNING_RATE,
    "quantity_skew": QUANTITY_SKEW,
    "label_skew": LABEL_SKEW,
    "client_learning_rate": CLIENT_LEARNING_RATE,
    "overfitting": OVERFITTING,
    "changed_setting": CHANGED_SETTING,
}
"""The causes, the most specific first: a cause is more specific if its removal touches fewer other things.

A lower client rate slows every rise, whatever causes it, so it stands near the end.
"""

_SHOWN = 5
"""Most clients of which the evidence speaks one by one."""


def order(findings: Findings) -> tuple[str, ...]:
    """Returns the names of the causes, the cause to be believed first at the front.

    Two causes may come right before the skews, in this order:
    1. the client rate, if local training diverges: on data without skew such training diverges less often, which
       explains nothing;
    2. missing clients, if they have been away for long: their return lowers the loss whatever raises it.
    """
    moved = [
        *(["client_learning_rate"] if findings.steepness > TOO_STEEP else []),
        *(["missing_clients"] if findings.absence is not None and not findings.absence.recent else []),
    ]
    rest = [cause for cause in CAUSES if cause not in moved]
    first_skew = next(i for i, cause in enumerate(rest) if CAUSES[cause].skew)
    return (*rest[:first_skew], *moved, *rest[first_skew:])


def candidates(
    findings: Findings, settings: Settings, last_sound: int = 1, of_own_loss: bool = False
) -> list[Candidate]:
    """Returns the causes that the findings and settings make possible, the most specific first.

    Args:
        findings: of the clients and the run.
        settings: of the run.
        last_sound: round of the model that the replays begin with.
        of_own_loss: whether the rise is that of single clients' own losses. Then the skews are left out: their replays
            give these clients other examples, so that the loss that rose is gone by construction.
    """
    at = Situation(findings, settings, last_sound)
    kinds = [kind for kind in CAUSES.values() if not (of_own_loss and kind.skew)]
    return [candidate for kind in kinds for candidate in kind.candidates(at)]


def evidence_for(cause: str, clients: tuple[str, ...], findings: Findings, settings: Settings) -> Iterator[Indication]:
    """Yields what speaks for a proven cause that acts through `clients`."""
    by_id = {client.client: client for client in findings.clients}
    named = [by_id[client] for client in clients if client in by_id]
    return CAUSES[cause].evidence(named[:_SHOWN], Situation(findings, settings))


def fault_of(cause: str, clients: tuple[str, ...], findings: Findings) -> str:
    """Returns the fault that all of `clients` have, a key of `words.by_fault`; empty if they do not have the same."""
    named = [client for client in findings.clients if client.client in clients]
    return CAUSES[cause].fault(named) if named else ""


def remedies(
    cause: str, settings: Settings, clients: tuple[str, ...], findings: Findings, last_sound: int = 1
) -> list[Remedy]:
    """Returns the remedies for a cause, each with only the settings that it changes.

    The order is: remedies that keep every client, remedies that leave clients out, advice; within them, the most
    fitting first. Settings that the run has already are no remedy, and no settings are
    tried twice.
    """
    raw = settings.model_dump(mode="json")
    # The order in which a run excludes clients is no difference.
    raw["federate"]["exclude"] = sorted(raw["federate"]["exclude"])
    fresh: list[Remedy] = []
    for remedy in CAUSES[cause].remedies(clients, Situation(findings, settings, last_sound)):
        changed = {name: value for name, value in remedy.settings.items() if value != value_at(raw, name)}
        new = changed not in [one.settings for one in fresh]
        if (changed and new) or not remedy.settings:
            fresh.append(replace(remedy, settings=changed))
    return fresh


__all__ = [
    "CAUSES",
    "Candidate",
    "Remedy",
    "candidates",
    "evidence_for",
    "fault_of",
    "order",
    "remedies",
]
