"""Clients with wrong labels, wrong inputs or wrong updates; unusual data alone are no fault."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import leave_out, remembered, without
from tasks.diagnose.evidence.findings import ClientFinding, Findings
from tasks.diagnose.evidence.memory import relabelling_in_words
from tasks.diagnose.phrases import every_client, measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import labels_changed_back
from tasks.diagnose.standing.against import against
from tasks.settings import switch_kind


def _candidates(at: Situation) -> list[Candidate]:
    faulty = at.findings.faulty()
    if not at.is_minority(faulty):
        return []
    return [Candidate("faulty_clients", without(faulty), faulty, _labels_back(at.findings, faulty))]


def _labels_back(findings: Findings, faulty: tuple[str, ...]) -> Change | None:
    """Returns the change to the labels that the clients had; None if they are not known of every client.

    A client that is left out takes along what only it knows: if it is large, that alone raises the loss.
    """
    then = _labels_then(findings, faulty)
    if set(then) != set(faulty):
        return None
    says = f"the labels of {every_client(faulty)} changed back"
    return Change(f"with {says}", surgery={says: labels_changed_back(then)})


def _labels_then(findings: Findings, clients: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Returns, by client, the label that each label of today was; only clients of which that is known."""
    memories = {client.client: client.memory for client in findings.clients if client.client in clients}
    return {client: memory.relabelling for client, memory in memories.items() if memory and memory.relabelling}


def _correction(findings: Findings, clients: tuple[str, ...]) -> list[Remedy]:
    """Returns the advice to change the labels back; empty if it is not known how they were changed."""
    then = _labels_then(findings, clients)
    if not then or set(then) != set(clients):
        return []
    mistakes = dict.fromkeys(relabelling_in_words(then[client]) for client in clients)
    says = f"correct the labels of {every_client(clients)} (they were changed: {' or '.join(mistakes)})"
    return [Remedy(says, surgery={"labels changed back": labels_changed_back(then)})]


def _fault(clients: Sequence[ClientFinding]) -> str:
    if all(client.relabelled or (client.examined and not client.examined.is_far) for client in clients):
        return "labels"
    if all(client.changed or client.examined for client in clients):
        return "data"
    return "" if any(client.changed or client.examined for client in clients) else "updates"


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del at
    for client in clients:
        if client.examined is not None:
            yield from against(client.examined)
            continue
        yield from _of_data(client) if client.changed else _of_length(client)
        yield from _of_update(client)


def _of_data(client: ClientFinding) -> Iterator[Indication]:
    who = f"client {client.client}"
    yield Indication(
        "loss_on_its_data",
        client.loss,
        client.expected_loss,
        f"On the data of {who}, the model before the rise has a loss of {measured(client.loss)} and an accuracy of "
        f"{100 * client.accuracy:.0f} %. On hold-out data with the same labels, its loss is "
        f"{measured(client.expected_loss)} and its accuracy {100 * client.expected_accuracy:.0f} %.",
    )
    if client.shifted and client.learnable is not None:
        accuracy, most_frequent = client.learnable
        yield Indication(
            "learnable",
            accuracy,
            most_frequent,
            f"A model that is trained on one half of the data of {who} gets {100 * accuracy:.0f} % of the other half "
            f"right. The most frequent label alone gives {100 * most_frequent:.0f} %.",
        )
    yield from remembered(client)


def _of_length(client: ClientFinding) -> Iterator[Indication]:
    yield Indication(
        "update_norm",
        client.norm,
        1.0,
        f"The updates of client {client.client} are {measured(client.norm)} times as long as the median client's. Per "
        f"local step, they are {measured(client.grown)} times as long as its own updates before the rise.",
    )


def _of_update(client: ClientFinding) -> Iterator[Indication]:
    who = f"client {client.client}"
    if client.verified is False:
        yield Indication(
            "sent_over_trained",
            client.sent_over_trained,
            1.0,
            f"During the rise, {who} sent an update that is {measured(client.sent_over_trained)} times as long as the "
            "update that training on its data gives.",
        )
    if client.turned:
        yield Indication(
            "update_cosine_robust",
            client.cosine,
            client.cosine_before,
            f"The updates of {who} point away from the other clients' updates: the cosine is {client.cosine:.2f}. "
            f"Before the rise it was {measured(client.cosine_before)}.",
        )
    if client.uphill:
        yield Indication(
            "slope",
            client.slope,
            -1.0,
            f"The update of {who} raises the loss on its own data: its cosine to the gradient of this loss is "
            f"{measured(client.slope)}. Training gives a negative cosine.",
        )
    if math.isfinite(client.left_out):
        yield Indication(
            "left_out",
            client.left_out,
            0.0,
            f"Without {who}, the hold-out loss after a round is {_lower(-math.expm1(-client.left_out))}.",
        )


def _lower(share: float) -> str:
    size = f"{100 * abs(share):.1f} %"
    return "the same" if size == "0.0 %" else f"{size} {'lower' if share > 0 else 'higher'}"


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    multi_krum = switch_kind("federate.aggregator", "multi_krum", num_faulty=max(1, len(clients)))
    return [
        Remedy("aggregate with the geometric median (RFA)", switch_kind("federate.aggregator", "geometric_median")),
        Remedy("aggregate with multi-Krum", multi_krum),
        Remedy("aggregate with the coordinate-wise median", switch_kind("federate.aggregator", "median")),
        leave_out(clients, at.settings),
        *_correction(at.findings, clients),
    ]


_WORDS = Words(
    "faulty clients",
    "the updates or the data of {} are faulty",
    "some clients send faulty updates or data",
    "A faulty client has wrong labels, corrupt inputs or changed updates. Unusual data alone are no fault.",
)
_BECAUSE = {
    "labels": "the labels of {} are wrong",
    "data": "the data of {} are faulty",
    "updates": "the updates of {} are faulty",
}

FAULTY_CLIENTS = CauseKind(
    words=replace(_WORDS, by_fault={fault: replace(_WORDS, because=text) for fault, text in _BECAUSE.items()}),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    fault=_fault,
    evident=True,
    beside_another=True,
    changed_data=True,
    fault_of_clients=True,
)
