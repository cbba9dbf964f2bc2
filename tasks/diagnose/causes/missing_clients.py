"""Clients that took part before and stay away: the model forgets what only they knew."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import count, every_client, measured, span
from tasks.diagnose.replay.change import Change
from tasks.settings import switch_kind


def _back(clients: Sequence[str], at: Situation) -> dict[str, Any]:
    """Returns the settings with which the clients take part again.

    None if no setting keeps them away, or if the data of one are not there any more.
    """
    federate, changed = at.settings.federate, dict[str, Any]()
    if not {*clients} <= {client.client for client in at.findings.clients} | {*federate.exclude}:
        return changed
    if federate.faults.kind == "absent" and {*clients} & {*federate.faults.clients}:
        changed |= switch_kind("federate.faults", "none")
    if {*clients} & {*federate.exclude}:
        changed["federate.exclude"] = sorted({*federate.exclude} - {*clients})
    return changed


def _candidates(at: Situation) -> list[Candidate]:
    absence = at.findings.absence
    if absence is None:
        return []
    back = _back(absence.clients, at)
    change = Change(f"with {every_client(absence.clients)} taking part", back)
    return [Candidate("missing_clients", change, absence.clients, replayed=bool(back))]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    absence = at.findings.absence
    if absence is None:
        return
    who = every_client(absence.clients)
    was = "was" if len(absence.clients) == 1 else "were"
    chance = (
        f"In {count(absence.missed, 'round')} of these, the run's sampling drew one of them."
        if absence.chance == 0
        else f"If sampling alone decided, the chance of that would be {measured(absence.chance)} for one client."
    )
    yield Indication(
        "rounds_missed",
        absence.missed,
        0.0,
        f"Before round {absence.first}, {who} took part in {count(absence.took_part, 'round')}. In "
        f"{span(absence.first, absence.last)}, {who} {was} missing and had not failed. {chance}",
    )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del at
    return [Remedy(f"bring {every_client(clients)} back; no setting replaces what only they know")]


MISSING_CLIENTS = CauseKind(
    words=Words(
        "missing clients",
        "the updates of {} are missing",
        "some clients took part before and stay away",
        "The model forgets what only the missing clients know.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
)
