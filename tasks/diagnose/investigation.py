"""What the replays showed, in plain values: the replays make it, the report reads it."""

from dataclasses import dataclass

from tasks.diagnose.causes import Candidate, Remedy
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.replay.effect import Effect


@dataclass(frozen=True)
class Gone:
    """A fault of single rounds: the log shows it, and training on today's data and settings does not give it.

    Attributes:
        rounds: first and last round in which the log shows it directly.
        fault: what was wrong, `data` or `updates`; empty if that is not one thing.
        evidence: the clients' rows in the log beside what training on their data gives.
    """

    rounds: tuple[int, int]
    fault: str
    evidence: tuple[Indication, ...]


@dataclass(frozen=True)
class Proof:
    """A cause that was replayed, proven or not.

    Attributes:
        candidate: the cause, and the change that takes it away.
        effect: the share of the rise that the change takes away, of all seeds that were run.
        loss: column that was compared, `val_loss` or `train_loss`.
        without: (R,) losses with nothing changed, mean over the seeds; of a fault that has gone, the logged losses.
        with_change: (R,) losses with the change; of a fault that has gone, the losses with nothing changed.
        gone: the fault, if it was one of single rounds that has gone since.
        why: why the cause is not proven, a part of a sentence; empty if it is proven, or if its change removes too
            little.
    """

    candidate: Candidate
    effect: Effect
    loss: str
    without: tuple[float, ...]
    with_change: tuple[float, ...]
    gone: Gone | None = None
    why: str = ""


@dataclass(frozen=True)
class Tried:
    """A remedy that was replayed."""

    remedy: Remedy
    recovers: float
    loss: float
    """Mean over the rounds of the rise."""
    against: tuple[str, ...]
    """The proven causes that it is against."""


@dataclass(frozen=True)
class Investigation:
    """What the replays showed.

    Attributes:
        from_round: round of the checkpoint that they began with.
        window: rounds whose losses are compared, first and last.
        reproduced: whether the rise came again with nothing changed.
        causes: proven, the first cause first.
        ruled_out: replayed, and refuted: their change removes less than half of the rise, or their evidence fails.
        tried: remedies, the best first.
        proposed: the remedy that is proposed against each proven cause, where one takes anything back.
        findings: of the clients.
        spent: rounds that the replays for causes took.
        allowed: rounds that they may take.
        seeds: the most seeds that any change was replayed with.
        not_finished: possible causes of which it is not known whether they are one, each with its reason.
        differs: where the replay that changes nothing first differs from the log, a sentence; empty if it does not.
    """

    from_round: int
    window: tuple[int, int]
    reproduced: bool
    causes: tuple[Proof, ...]
    ruled_out: tuple[Proof, ...]
    tried: tuple[Tried, ...]
    proposed: dict[str, Tried]
    findings: Findings
    spent: int
    allowed: int
    seeds: int = 1
    not_finished: tuple[Proof, ...] = ()
    differs: str = ""
