"""Clients that do far more or far less local work than the median client."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import FEDNOVA, slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import count
from tasks.diagnose.replay.change import Change
from tasks.diagnose.thresholds import UNEQUAL_WORK


def _epochs(at: Situation) -> int:
    """Returns the whole number of passes nearest to the median client's, at least one."""
    return max(1, round(at.findings.usual_epochs))


def _least_epochs(at: Situation) -> int:
    """Returns the whole number of passes nearest to those of the client with the fewest, at least one."""
    work = at.settings.federate.local_work
    if work.kind == "range":
        return work.low
    return max(1, round(min((c.epochs for c in at.findings.clients if np.isfinite(c.epochs)), default=1.0)))


def _differs_by_round(at: Situation) -> bool:
    """Returns whether work is drawn anew in each round, so widely that clients of one round work unequally.

    Their means over several rounds need not show that.
    """
    work = at.settings.federate.local_work
    return work.kind == "range" and work.high > UNEQUAL_WORK**2 * work.low


def _same_work(at: Situation, epochs: int | None = None) -> dict[str, Any]:
    """Returns the settings of equal passes at every client, for the run's own kind of local work; None: the median."""
    work, epochs = at.settings.federate.local_work, epochs or _epochs(at)
    if work.kind == "range":
        return {"federate.local_work.low": epochs, "federate.local_work.high": epochs}
    named = {"federate.local_work.by_client": dict.fromkeys(work.by_client, epochs)} if work.by_client else {}
    return {"federate.local_work.epochs": epochs, **named}


def _candidates(at: Situation) -> list[Candidate]:
    unequal = tuple(client.client for client in at.findings.clients if at.findings.works_unequally(client))
    if not (unequal or _differs_by_round(at)) or at.settings.federate.local_work.kind == "same":
        return []
    # If the median client already works too much, equal work at the median shows nothing: the least is tried too.
    usual, least = _epochs(at), _least_epochs(at)
    instead = _equal(at, least) if least != usual else None
    return [Candidate("unequal_local_work", _equal(at, usual), unequal, instead)]


def _equal(at: Situation, epochs: int) -> Change:
    return Change(f"with {count(epochs, 'local epoch')} at every client", _same_work(at, epochs))


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
