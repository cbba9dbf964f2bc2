"""Clients whose updates are not finite."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import CLIPPED, leave_out, slower, without
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import measured
from tasks.diagnose.thresholds import BEYOND_SAYING


def _candidates(at: Situation) -> list[Candidate]:
    failed = at.findings.failed()
    return [Candidate("non_finite", without(failed), failed)] if at.is_minority(failed) else []


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del at
    for client in clients:
        step = client.first_broken
        since = "" if step is None else f". Its loss is not finite from local step {step + 1} on"
        yield Indication(
            "finite",
            0.0 if client.failed is None else float(client.failed),
            None,
            f"The update of client {client.client} was first not finite in round {client.failed}{since}.",
        )
        if not client.loss <= BEYOND_SAYING * client.expected_loss:
            yield Indication(
                "loss_on_its_data",
                client.loss,
                client.expected_loss,
                f"The model before the rise has a loss of {measured(client.loss)} on the data of this client, and of "
                f"{measured(client.expected_loss)} on hold-out data with the same labels.",
            )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    return [CLIPPED, *slower(at), leave_out(clients, at.settings)]


NON_FINITE = CauseKind(
    words=Words(
        "results that are not finite",
        "the results of {} contain NaN or infinity",
        "the clients' results contain NaN or infinity",
        "A calculation overflowed or divided by zero. An average with this result is not finite either.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    fault_of_clients=True,
)
