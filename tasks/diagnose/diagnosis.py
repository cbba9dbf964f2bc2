"""The answer as one frozen value, and its form in diagnosis.json.

Every number is rounded as diagnosis.json holds it. A number that is not known or not finite is None: JSON cannot hold
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Series = tuple[float | None, ...]
"""A loss per round, nats per example; None where it is not finite."""


@dataclass(frozen=True)
class Rise:
    """Whether, when and how far the loss rose.

    Attributes:
        detected: whether it rose beyond its noise.
        round: first round of the rise.
        until: last round of the rise.
        loss_before: the loss before it, nats per example.
        loss_after: the loss at its height.
        confidence: 1 minus the probability of a rise as clear by noise alone.
        loss: column of rounds.csv that was tested, `val_loss` or `train_loss`.
        num_losses: rounds in which that was measured.
        kind: `level`, `drift`, … as `tasks/detection/increase.py` names it; `not_finite`.
        alarm: the round after which the rise was sure.
        phase: phase of its first round: `federate`, `prune`; empty if not known.
        sparsity: of the model before and at the end of the rise, where it rose with the loss.
        noise: sd of the loss's noise.
        correlation: of the noise from one round to the next.
        visible: the least lasting rise that the test would have seen.
        significance: `diagnose.significance`.
        clients: those whose own loss rose, where the mean of all clients hides it.
    """

    detected: bool
    round: int | None
    until: int | None
    loss_before: float | None
    loss_after: float | None
    confidence: float
    loss: str
    num_losses: int
    kind: str
    alarm: int | None
    phase: str
    sparsity: tuple[float, float] | None
    noise: float | None
    correlation: float | None
    visible: float | None
    significance: float
    clients: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """What the logs show of one client: a signal in the rounds of the rise, or the rounds in which it failed.

    Attributes:
        client: id.
        signal: name of the signal.
        value: its value.
        expected: the median client's.
        before: the same client's before the rise.
        score: how unusual it is.
        unusual: whether that is beyond the usual spread.
        rounds: that were looked at, first and last; of failures, all.
        says: one sentence.
    """

    client: str
    signal: str
    value: float
    expected: float | None
    before: float | None
    score: float | None
    unusual: bool
    rounds: tuple[int, ...]
    says: str


@dataclass(frozen=True)
class Evidence:
    """What speaks for a cause: a signal, its value, what is usual, and one sentence."""

    signal: str
    value: float | None
    expected: float | None
    says: str


@dataclass(frozen=True)
class Removed:
    """The share of the rise that a change takes away, at most 1: mean over the seeds and its 90 % interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trial:
    """The rounds after `from_round` once more, with one factor changed.

    Attributes:
        says: what was changed, as `the same rounds without client 04`.
        change: the same as settings and data, for a program.
        from_round: round of the model that the replay starts from.
        rounds: that were run.
        loss: column that was compared.
        unchanged: that loss of each round with nothing changed, mean over the seeds.
        changed: the same with the change.
        seeds: over which it is the mean.
        removes: share of the rise that the change takes away.
    """

    says: str
    change: Mapping[str, Any]
    from_round: int
    rounds: int
    loss: str
    unchanged: Series
    changed: Series
    seeds: int
    removes: Removed


@dataclass(frozen=True)
class Remedy:
    """Settings that were tried against causes in a replay.

    Attributes:
        settings: by their dotted names.
        says: what it is.
        recovers: the share of the rise that it takes back.
        loss_after: mean loss in the rounds of the rise with it.
        against: the causes that it was tried against.
    """

    settings: Mapping[str, Any]
    says: str
    recovers: float
    loss_after: float | None
    against: tuple[str, ...]


@dataclass(frozen=True)
class Cause:
    """A cause that a replay proved.

    Attributes:
        cause: name in the fixed vocabulary.
        score: the share of the rise that it surely explains, 0 to 1.
        clients: through which it acts; empty: through all.
        fault: what is wrong of faulty clients, `labels`, `data` or `updates`; empty if that is not one thing.
        rounds: whose losses were compared, first and last.
        evidence: what speaks for it.
        trial: the replay without it.
        remedy: the proposed one; None if none takes anything back.
    """

    cause: str
    score: float
    clients: tuple[str, ...]
    fault: str
    rounds: tuple[int, int]
    evidence: tuple[Evidence, ...]
    trial: Trial
    remedy: Remedy | None


@dataclass(frozen=True)
class RuledOut:
    """A cause that was replayed and not proven, and the share of the rise that went away; None if it never ran."""

    cause: str
    says: str
    removes: float | None


@dataclass(frozen=True)
class Budget:
    """What the replays cost.

    Attributes:
        from_round: round of the model that they start from.
        rounds: that they took.
        allowed: that they may take.
        seeds: the most of any cause.
        compared: rounds whose losses are compared, first and last.
        reproduced: whether the rise came again with nothing changed.
    """

    from_round: int
    rounds: int
    allowed: int
    seeds: int
    compared: tuple[int, int]
    reproduced: bool


@dataclass(frozen=True)
class Diagnosis:
    """The answer: what rose, who drifted, the proven causes and their remedies.

    Attributes:
        rise: of the loss.
        healthy: clients with nothing unusual.
        observations: what the logs show of single clients.
        limits: what the data could not tell, a sentence each.
        causes: proven, the first to be believed first.
        ruled_out: replayed and not proven.
        remedies: tried, the best first.
        budget: of the replays; None where nothing was replayed.
        signals: what was measured of all clients; None where nothing was replayed.
    """

    rise: Rise
    healthy: tuple[str, ...]
    observations: tuple[Observation, ...]
    limits: tuple[str, ...]
    causes: tuple[Cause, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    budget: Budget | None = None
    signals: Mapping[str, Any] | None = field(default=None)
