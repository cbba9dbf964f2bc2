"""Clients that do far more or far less local work than the median client."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import FEDNOVA, slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.replay.change import Change


def _epochs(at: Situation) -> int:
    """Returns the whole number of passes nearest to the median client's, at least one."""
    return max(1, round(at.findings.usual_epochs))


def _same_work(at: Situation) -> dict[str, Any]:
    """Returns the settings of equal passes at every client, for the run's own kind of local work."""
    work, epochs = at.settings.federate.local_work, _epochs(at)
    if work.kind == "range":
        return {"federate.local_work.low": epochs, "federate.local_work.high": epochs}
    named = {"federate.local_work.by_client": dict.fromkeys(work.by_client, epochs)} if work.by_client else {}
    return {"federate.local_work.epochs": epochs, **named}


def _candidates(at: Situation) -> list[Candidate]:
    unequal = tuple(client.client for client in at.findings.clients if at.findings.works_unequally(client))
    if not unequal or at.settings.federate.local_work.kind == "same":
        return []
    return [
        Candidate(
            "unequal_local_work",
            Change(f"with {_epochs(at)} local epoch{'' if _epochs(at) == 1 else 's'} at every client", _same_work(at)),
            unequal,
        )
    ]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    usual, gap = at.findings.usual_epochs, at.findings.objective_gap
    for client in clients:
        yield Indication(
            "epochs",
            client.epochs,
            usual,
            f"The number of local epochs a round is {client.epochs:.3g} at client {client.client}, and {usual:.3g} at "
            "the median client.",
        )
    yield Indication(
        "objective_gap",
        gap,
        0.0,
        f"The unequal numbers of local steps move {100 * gap:.0f} % of the aggregation weight to other clients than "
        "intended (FedNova).",
    )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    return [Remedy("do the same local work at every client", _same_work(at)), FEDNOVA, slower(at)[0]]


UNEQUAL_LOCAL_WORK = CauseKind(
    words=Words(
        "unequal local work",
        "the local work of {} differs much from the other clients' work",
        "the clients do unequal amounts of local work",
        "A client that takes more training steps in a round moves the model farther. It outweighs the other clients in "
        "the average.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
)
