"""A setting, or the code, that is not as it was in another run: only a comparison of two runs claims it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.evidence.findings import ClientFinding


def _none(at: Situation) -> list[Candidate]:
    del at
    return []


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients, at
    return iter(())


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients, at
    return []


_WORDS = Words(
    "a changed setting",
    "the settings changed",
    "the settings changed",
    "With the setting as it was in the other run, the loss ends lower.",
)

CHANGED_SETTING = CauseKind(
    words=replace(
        _WORDS,
        by_fault={
            "code": Words(
                "changed code",
                "the code changed",
                "the code changed",
                "With the code of the other run, the loss ends lower.",
            )
        },
    ),
    candidates=_none,
    evidence=_evidence,
    remedies=_remedies,
)
