"""Clients with very different numbers of examples."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import FEDNOVA, SCAFFOLD, slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import sizes_made_equal
from tasks.diagnose.thresholds import SKEWED_SIZES


def _candidates(at: Situation) -> list[Candidate]:
    # Sizes that never changed are no cause of a rise that begins later. With equal sizes, a large client at fault has
    # less weight, which removes the rise, too.
    if not at.findings.size_skew > SKEWED_SIZES or at.findings.resized is False:
        return []
    surgery = {"sizes made equal": sizes_made_equal(at.settings.seed)}
    return [Candidate("quantity_skew", Change("with the same number of examples at every client", surgery=surgery))]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    everyone = at.findings.clients
    largest = max(everyone, key=lambda client: int(client.labels.sum()))
    share = float(largest.labels.sum() / sum(client.labels.sum() for client in everyone))
    yield Indication(
        "size_skew",
        at.findings.size_skew,
        0.0,
        f"The clients have different numbers of examples (Gini coefficient {at.findings.size_skew:.2f}; 0 is equal). "
        f"Client {largest.client} alone has {100 * share:.0f} % of the examples.",
    )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    equal = Remedy("give every client the same aggregation weight", {"federate.aggregator.weighting": "uniform"})
    return [equal, FEDNOVA, SCAFFOLD, slower(at)[0]]


QUANTITY_SKEW = CauseKind(
    words=Words(
        "different amounts of data",
        "the amount of data of {} differs much from the other clients' amounts",
        "the clients' amounts of data differ much",
        "A few large clients decide where the model goes, or very small clients pull it to and fro.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    skew=True,
)
