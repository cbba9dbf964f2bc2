"""Clients whose inputs became unlike the others', as by another device; their labels make sense."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import FEDPROX, STANDARDISED, leave_out, remembered, standardised, without
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.standing.against import against
from tasks.diagnose.thresholds import SHIFTED


def _candidates(at: Situation) -> list[Candidate]:
    shifted = at.findings.shifted()
    if not shifted:
        return []
    aligned = standardised()
    changes = [aligned, without(shifted)] if at.is_minority(shifted) else [aligned]
    return [Candidate("feature_shift", change, shifted) for change in changes]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del at
    for client in clients:
        if client.examined is not None:
            yield from against(client.examined)
            continue
        yield Indication(
            "feature_distance",
            client.feature_distance,
            SHIFTED,
            f"The features of client {client.client} are {client.feature_distance:.2g} standard deviations away from "
            "hold-out data that the model takes for the same classes. The labels of this client make sense.",
        )
        yield from remembered(client)


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    return [STANDARDISED, FEDPROX, leave_out(clients, at.settings)]


FEATURE_SHIFT = CauseKind(
    words=Words(
        "different inputs",
        "the inputs of {} look different from the other clients' inputs",
        "the clients' inputs look different",
        "The same thing is measured in another way, for example by another device: brighter, noisier, in another unit.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
    changed_data=True,
)
