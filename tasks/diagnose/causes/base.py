"""What a cause is: one record that says what speaks for it, how a replay takes it away, and what helps against it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks.diagnose.evidence.findings import ClientFinding, Findings
from tasks.diagnose.replay.change import Change, Surgery
from tasks.settings import Settings


@dataclass(frozen=True)
class Situation:
    """The findings and the settings by which a cause is judged.

    Attributes:
        findings: of the clients and the run.
        settings: of the run.
        last_sound: round of the model that the replays begin with.
    """

    findings: Findings
    settings: Settings
    last_sound: int = 1

    def is_minority(self, clients: Sequence[str]) -> bool:
        """Returns whether these are some of the clients, and fewer than half: what most clients do is no fault."""
        return 0 < len(clients) < len(self.findings.clients) / 2


@dataclass(frozen=True)
class Candidate:
    """A possible cause, and the change that takes it away.

    Attributes:
        cause: its name.
        change: what a replay does without it.
        clients: through which it acts; empty if through all.
        instead: another change, which is tried if the first removes less than half of the rise.
        replayed: whether a replay of the change decides. If not, today's data do not hold what the run had without the
            cause, so a test of its own decides: `before.py` or `hold_out.py`.
        fault: which fault of the cause the change takes away, a key of `words.by_fault`; empty if the cause has only
            one, or if its clients show which.
    """

    cause: str
    change: Change
    clients: tuple[str, ...] = ()
    instead: Change | None = None
    replayed: bool = True
    fault: str = ""


@dataclass(frozen=True)
class Remedy:
    """Settings that may undo a cause in a real federation, where data cannot be dealt anew.

    Attributes:
        says: what it is.
        settings: settings by their dotted names. Empty if the remedy is advice: data that their owner has to correct.
        surgery: what its replay does to the clients' examples, by the name that the report gives it.
    """

    says: str
    settings: dict[str, Any] = field(default_factory=dict)
    surgery: Mapping[str, Surgery] = field(default_factory=dict)

    @property
    def replayed(self) -> bool:
        """Whether a replay can try it; advice that changes no data cannot be tried."""
        return bool(self.settings or self.surgery)

    @property
    def change(self) -> Change:
        """The change that replays it; each call makes another one."""
        return Change(self.says, self.settings, surgery=self.surgery)

    def __or__(self, other: "Remedy") -> "Remedy | None":
        """Returns both remedies at once.

        None if they set one setting differently, or if the settings of one contain those of the other.
        """
        both = {**self.settings, **other.settings}
        for name in self.settings.keys() & other.settings.keys():
            if name == "federate.exclude":
                both[name] = sorted({*self.settings[name], *other.settings[name]})
            elif self.settings[name] != other.settings[name]:
                return None
        if both in (self.settings, other.settings):
            return None
        return Remedy(f"{self.says}, and {other.says}", both, {**self.surgery, **other.surgery})


class Indication(NamedTuple):
    """One measure that speaks for a cause.

    Attributes:
        signal: name of what was measured.
        value: its value.
        expected: the usual value; None if there is none.
        says: one sentence.
    """

    signal: str
    value: float
    expected: float | None
    says: str


@dataclass(frozen=True)
class Words:
    """A cause in plain words.

    Attributes:
        name: how it is called.
        because: ends `the loss rose because …` and `the loss is higher than it should be because …`; `{}` stands for
            the clients.
        alone: the same without clients.
        means: what the cause does, for a reader who does not know it.
        by_fault: the words for each fault that the cause can have.
    """

    name: str
    because: str
    alone: str
    means: str
    by_fault: Mapping[str, "Words"] = field(default_factory=dict)

    def of(self, fault: str) -> "Words":
        """Returns the words for a fault; the general ones if the fault has none or is empty."""
        return self.by_fault.get(fault, self)


def no_fault(clients: Sequence[ClientFinding]) -> str:
    """Returns that the cause has no kinds of fault."""
    del clients
    return ""


@dataclass(frozen=True)
class CauseKind:
    """One cause of the fixed vocabulary; its name is its key in the registry.

    Attributes:
        words: the cause in plain words.
        candidates: what the situation makes possible; empty if nothing speaks for the cause.
        evidence: what speaks for the cause once it is proven, of the clients through which it acts.
        remedies: what may help against it, of those clients, the most fitting first.
        fault: which fault the clients have, a key of `words.by_fault`; empty if they do not all have the same.
        evident: it is proposed by a sign that an ordinary run does not show, apart from its losses: clients that are
            odd, or settings other than those of plain averaging. Then a smaller effect counts. Label skew is not
            evident: ordinary runs have it. Overfitting is not: its only sign is the course of the losses.
        beside_another: it may be claimed as the second of two causes. The skews may not: the run has had them from the
            start, also while its loss fell. Overfitting may not: it explains only what no other cause does. Failures
            may not: they are judged before all other causes.
        skew: it is a difference that the clients' data have had from the start.
        changed_data: it is a change of the clients' data in the course of the run.
        fault_of_clients: its clients are at fault. In the other causes, honest clients can be named.
        harms_the_model: it makes the global model worse for all data, so the hold-out loss rises with it.
    """

    words: Words
    candidates: Callable[[Situation], list[Candidate]]
    evidence: Callable[[Sequence[ClientFinding], Situation], Iterator[Indication]]
    remedies: Callable[[tuple[str, ...], Situation], list[Remedy]]
    fault: Callable[[Sequence[ClientFinding]], str] = no_fault
    evident: bool = False
    beside_another: bool = False
    skew: bool = False
    changed_data: bool = False
    fault_of_clients: bool = False
    harms_the_model: bool = False
