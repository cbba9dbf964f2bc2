"""The data of most clients changed in the course of the run: what the model learned is no longer right."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.evidence.memory import relabelling_in_words
from tasks.diagnose.phrases import every_client
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import labels_changed_back


def _candidates(at: Situation) -> list[Candidate]:
    drift = at.findings.drift
    if drift is None or not drift.certain:
        return []
    who = every_client(drift.clients)
    if not drift.then:
        then = Change(f"with the data that {who} had up to round {drift.last_before}")
        return [Candidate("data_drift", then, drift.clients, replayed=False)]
    says = f"the labels of {who} changed back"
    back = Change(f"with {says}", surgery={says: labels_changed_back(dict.fromkeys(drift.clients, drift.then))})
    return [Candidate("data_drift", back, drift.clients)]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    drift = at.findings.drift
    if drift is None:
        return
    changed = len(drift.clients)
    first = drift.clients[0]
    memory = drift.memories[first]
    since = "" if drift.first_after is None else f"; from round {drift.first_after} on, it has the same losses"
    yield Indication(
        "clients_with_changed_data",
        changed,
        0.0,
        f"The data of {changed} of {drift.num_clients} clients changed after round {drift.last_before}. Up to then, "
        f"the log has other losses than today's data give under the same models{since}. For example, client {first} "
        f"logged {memory.logged:.7g} in round {memory.round}, and today the loss is {memory.now:.7g}.",
    )
    if drift.then:
        yield Indication(
            "relabelled",
            changed,
            0.0,
            f"If the labels are changed back ({relabelling_in_words(drift.then)}), the losses equal the logged losses.",
        )
    hold_out = drift.hold_out
    if hold_out is not None and not hold_out.changed:
        yield Indication(
            "hold_out_as_before",
            hold_out.now,
            hold_out.logged,
            f"The hold-out data have not changed: the model after round {hold_out.round} has the logged loss on them. "
            "So they are unlike the clients' data of today.",
        )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    drift = at.findings.drift
    since = "" if drift is None else f" since round {drift.last_before}"
    return [
        Remedy(
            f"find out which data of {every_client(clients)} are right, those of before or those{since}; then correct "
            "the others, also the hold-out data"
        )
    ]


_WORDS = Words(
    "changed data of most clients",
    "the data of {} changed, which are most clients",
    "the data of most clients changed",
    "What the model learned before is no longer right for the data of most clients.",
)

DATA_DRIFT = CauseKind(
    words=replace(
        _WORDS,
        by_fault={
            "few": Words(
                "changed data",
                "the data of {} changed",
                "the data of some clients changed",
                "With the data that these clients had in the other run, the loss ends lower.",
            )
        },
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
    changed_data=True,
)
