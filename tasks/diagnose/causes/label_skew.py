"""Clients whose labels are mixed differently."""

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import FEDPROX, SCAFFOLD, slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import labels_dealt_evenly
from tasks.diagnose.thresholds import SKEWED_LABELS
from tasks.settings import switch_kind
from tasks.skew import earth_mover


def _candidates(at: Situation) -> list[Candidate]:
    if not at.findings.label_skew > SKEWED_LABELS:
        return []
    # Labels of clients whose data have changed say nothing of the mix, so these clients keep them. If most clients'
    # data have changed, there is nothing else to deal.
    changed = at.findings.faulty() + at.findings.shifted()
    kept = changed if at.is_minority(changed) else ()
    surgery = {"labels dealt evenly": labels_dealt_evenly(at.settings.seed, kept)}
    even = Change("with the same label mix at every client", surgery=surgery)
    return [Candidate("label_skew", even, most_skewed(at.findings.clients))]


def most_skewed(clients: Sequence[ClientFinding]) -> tuple[str, ...]:
    """Returns the clients whose label mix is farther than SKEWED_LABELS from the mix of all, the farthest first."""
    total = np.sum([client.labels for client in clients], axis=0)
    mixes = {client.client: client.labels / max(1, client.labels.sum()) for client in clients}
    distance = {client: float(earth_mover(mix, total / total.sum())) for client, mix in mixes.items()}
    return tuple(sorted((c for c in distance if distance[c] > SKEWED_LABELS), key=lambda c: (-distance[c], c)))


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    skew, dissimilarity = at.findings.label_skew, at.findings.dissimilarity
    yield Indication(
        "label_skew",
        skew,
        0.0,
        f"The mean distance of the clients' label mixes to the mix of all data is {skew:.2f}: 0 is the same mix, 2 is "
        "no label in common.",
    )
    yield Indication(
        "dissimilarity",
        dissimilarity,
        1.0,
        f"The clients' gradients disagree: the dissimilarity B is {measured(dissimilarity)}; 1 means that all agree.",
    )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    work = at.settings.federate.local_work
    feddyn = Remedy("use dynamic regularisation (FedDyn)", switch_kind("federate.client", "feddyn"))
    once = Remedy("train one local epoch a round", {"federate.local_work.epochs": 1})
    shorter = [once] if work.epochs > 1 and work.kind == "same" else []
    public = Remedy("give every client a public set of 5 % of the examples", {"federate.shared_fraction": 0.05})
    return [SCAFFOLD, feddyn, FEDPROX, *shorter, *slower(at), public]


LABEL_SKEW = CauseKind(
    words=Words(
        "different label mixes",
        "the label mix of {} differs much from the mix of all clients",
        "the clients' label mixes differ much",
        "Each client trains the model mostly on the classes that it has, and the average forgets the other classes.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    skew=True,
)
