"""What the replays showed, in plain values: the replays make it, the report reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.diagnose.causes import Candidate, Remedy
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.thresholds import AS_GOOD

ProofKind = Literal["change", "log_without", "log_before", "hold_out"]
"""What the two losses of a proof are of. See `ReplayResult.kind`."""


@dataclass(frozen=True)
class Gone:
    """What the log shows, and training on today's data and settings does not give: it has gone since.

    Attributes:
        rounds: first and last round in which the log shows it directly.
        fault: what was wrong, `data` or `updates`; empty if that is not one thing.
    """

    rounds: tuple[int, int]
    fault: str


@dataclass(frozen=True)
class Standing:
    """How high the hold-out loss of a run in which nothing rose is at its end, and how high it would be.

    Attributes:
        loss: with nothing changed, nats per example: geometric mean of the last rounds, mean over the seeds; None if it
            is not finite.
        reference: the same with all proven causes taken away; None if none is proven.
        noise: standard deviation of `loss` over the seeds, nats per example; None with one seed.
        rounds: at the end, of which the mean is taken, first and last.
    """

    loss: float | None
    reference: float | None
    noise: float | None
    rounds: tuple[int, int]


@dataclass(frozen=True)
class Proof:
    """A cause that was replayed, proven or not.

    Attributes:
        candidate: the cause, and the change that takes it away.
        effect: the share of the harm that the change takes away, of all seeds that were run: of the rise, or of the
            excess ln(loss / reference) of a loss that did not rise.
        loss: column that was compared, `val_loss` or `train_loss`.
        without: (R,) losses with nothing changed, mean over the seeds; of a fault that has gone, the logged losses.
        with_change: (R,) losses with the change; of a fault that has gone, the losses with nothing changed.
        gone: the fault, if it has gone since.
        evidence: what speaks for the cause, if it came out of the proof itself.
        kind: what is compared; see `ReplayResult`.
        from_round: round of the model that the proof's replays start from; None: as all others.
        why: why the cause is not proven, a part of a sentence; empty if it is proven, or if its change removes too
            little.
        since: first round in which the cause acts, where nothing rose.
    """

    candidate: Candidate
    effect: Effect
    loss: str
    without: tuple[float, ...]
    with_change: tuple[float, ...]
    gone: Gone | None = None
    evidence: tuple[Indication, ...] = ()
    kind: ProofKind = "change"
    from_round: int | None = None
    why: str = ""
    since: int = 1

    @property
    def seeds(self) -> int:
        """The number of seeds; of the test of the hold-out data, each half of the clients is left out with each."""
        number = len(self.effect.by_seed)
        return -(-number // 2) if self.kind == "hold_out" else number


@dataclass(frozen=True)
class LongReplay:
    """How a run with a remedy ends, beside the run as it was.

    Attributes:
        from_round: round of the model that the replay started from; 0 is before round 1.
        last: last round of the replay.
        hold_out: hold-out loss at the end with the remedy and the run's own seed, geometric mean of the last rounds.
        unchanged: the same with nothing changed.
        logged: whether `unchanged` is the run's own loss; if not, it is a replay's.
        by_seed: ln(hold-out loss with the remedy / with nothing changed) at the end, by seed.
        recovers: share of the harm that is gone up to the last round; None if the run's loss is not above its level.
        beats_chance: whether `hold_out` is below the loss of a model that ignores its input.
        recovered: whether the hold-out loss comes down to the best one before the rise.
    """

    from_round: int
    last: int
    hold_out: float
    unchanged: float
    logged: bool
    by_seed: tuple[float, ...]
    recovers: float | None
    beats_chance: bool
    recovered: bool

    @property
    def holds(self) -> bool:
        """Whether the remedy ends no worse than doing nothing, mean over the seeds, and better than chance."""
        return self.beats_chance and self.over <= AS_GOOD

    @property
    def over(self) -> float:
        """ln(hold-out loss with the remedy / with nothing changed) at the end, mean over the seeds."""
        return float(np.mean(self.by_seed))


@dataclass(frozen=True)
class Tried:
    """A remedy that was replayed."""

    remedy: Remedy
    recovers: float
    """Share of the rise that it takes back: up to the run's end if its ending is known, else in a short replay.

    If only the training loss rose, because of clients at fault, it is the share of what they cost the hold-out data.
    """
    loss: float
    """Mean over the rounds that are compared, in a short replay."""
    against: tuple[str, ...]
    """The proven causes that it is against."""
    ending: LongReplay | None = None
    """What its replay to the run's end showed; None if it was replayed for a few rounds only."""

    @property
    def confirmed(self) -> bool:
        """Whether its replay to the run's end held."""
        return self.ending is not None and self.ending.holds


@dataclass(frozen=True)
class Investigation:
    """What the replays showed.

    Attributes:
        from_round: round of the checkpoint that they began with.
        window: rounds whose losses are compared, first and last.
        reproduced: whether the rise came again with nothing changed.
        causes: proven, the first cause first.
        ruled_out: replayed, and refuted: their change removes less than half of the harm, or their evidence fails.
        tried: remedies, the best first.
        proposed: the remedy that is proposed against each proven cause, where one takes anything back.
        findings: of the clients.
        spent: rounds that the replays for causes took.
        allowed: rounds that they may take.
        chance: of a run that ended, the loss of a model that does not look at its inputs, nats per example.
        spent_on_remedies: rounds that the replays of remedies took.
        allowed_for_remedies: rounds that they may take.
        seeds: the most seeds that any change was replayed with.
        not_finished: possible causes of which it is not known whether they are one, each with its reason.
        differs: where the replay that changes nothing first differs from the log, a sentence; empty if it does not.
        standing: how high the loss is at the end, and how high it would be, where nothing rose; None of
            another question.
        looked_for: what was looked at where nothing rose, a sentence each.
        clients_looked_at: the clients at which it was looked for.
        not_examined: what was not looked at where nothing rose, a sentence each.
        signals: what was measured of the clients where nothing rose, for diagnosis.json; None: that of `findings`.
        observations: what speaks against clients that no replay blames, where nothing rose.
        notes: what else was seen of the clients, a sentence each.
        dead_layers: of a model that is at chance, the layers that no training can move.
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
    chance: float | None = None
    spent_on_remedies: int = 0
    allowed_for_remedies: int = 0
    seeds: int = 1
    not_finished: tuple[Proof, ...] = ()
    differs: str = ""
    standing: Standing | None = None
    looked_for: tuple[str, ...] = ()
    clients_looked_at: tuple[str, ...] = ()
    not_examined: tuple[str, ...] = ()
    signals: Mapping[str, Any] | None = None
    observations: tuple[ClientSignal, ...] = ()
    notes: tuple[str, ...] = ()
    dead_layers: tuple[str, ...] = ()
