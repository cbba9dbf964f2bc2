"""Clients that train only a part of the model (HeteroFL)."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.replay.change import Change
from tasks.settings import Settings


def _whole_model(settings: Settings) -> dict[str, Any]:
    """Returns the settings of the whole model at every client."""
    return {"federate.width": dict.fromkeys(settings.federate.width, 1.0)}


def _candidates(at: Situation) -> list[Candidate]:
    narrow = tuple(sorted(client for client, width in at.settings.federate.width.items() if width < 1))
    whole = Change("with the whole model at every client", _whole_model(at.settings))
    return [Candidate("architecture_variation", whole, narrow)] if narrow else []


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del at
    for client in clients:
        yield Indication(
            "width",
            client.width,
            1.0,
            f"Client {client.client} trains only {100 * client.width:.0f} % of the hidden units. The other units are "
            "trained without its data.",
        )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    return [Remedy("train the whole model at every client", _whole_model(at.settings))]


ARCHITECTURE_VARIATION = CauseKind(
    words=Words(
        "models of different sizes",
        "the local training of {} covers only a part of the global model",
        "some clients train only a part of the global model",
        "Parameters that only some clients train are averaged over fewer clients. They fit the other clients' data "
        "less well.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
)
