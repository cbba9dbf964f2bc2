"""The answer as one frozen value, and its form in diagnosis.json.

Every number is as diagnosis.json holds it, so that all reports of one run show the same digits. A number that is not
known or not finite is None: JSON cannot hold it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.investigation import ProofKind, Standing
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise

Question = Literal["rise", "ended", "standing", "against"]

Curve = tuple[float | None, ...]
"""A loss per round, nats per example; None where it is not finite."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a cause.

    Attributes:
        signal: name of what was measured.
        value: its value.
        expected: the usual value; None if there is none.
        says: one sentence.
    """

    signal: str
    value: float | None
    expected: float | None
    says: str


@dataclass(frozen=True)
class Removed:
    """The share of the harm that a change takes away, from -1 to 1: mean over the seeds and its 90 % interval.

    The harm is the rise, or the excess of a loss that did not rise: ln(loss / reference) of `Standing`.

    Attributes:
        mean: over the seeds.
        low: lower end of the interval; None for a single seed.
        high: upper end of the interval; None for a single seed.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReplayResult:
    """The rounds after `from_round` once more, with one factor changed.

    Attributes:
        says: what was changed, as `the same rounds without client 04`.
        change: the same as settings and data, for a program.
        from_round: round of the model that the replay starts from.
        loss: column of rounds.csv that was compared.
        unchanged: (R,) that loss with nothing changed, mean over the seeds.
        changed: (R,) the same with the change.
        seeds: number of seeds.
        removes: share of the harm that the change takes away.
        kind: what the two losses are of.
            `change`: replays with nothing changed, and with the change.
            `log_without`: the run's own log, and replays with nothing changed: the cause has gone since.
            `log_before`: replays with nothing changed, and the run's own log, from before the cause began.
            `hold_out`: the hold-out data, and clients' data that the model was not trained on.
        ends_at: hold-out loss at the end with the change, where nothing rose, nats per example.
    """

    says: str
    change: Mapping[str, Any]
    from_round: int
    loss: str
    unchanged: Curve
    changed: Curve
    seeds: int
    removes: Removed
    kind: ProofKind = "change"
    ends_at: float | None = None

    @property
    def of_log(self) -> bool:
        """Whether `unchanged` is the run's own logged loss."""
        return self.kind == "log_without"


@dataclass(frozen=True)
class RemedyEnding:
    """The hold-out loss at the end of the run with a remedy, and without.

    Attributes:
        from_round: round of the model that the replay started from; 0 is before round 1.
        last: last round of the replay.
        hold_out: hold-out loss of the replay in its last rounds, nats per example; None if not finite.
        unchanged: the same with nothing changed.
        logged: whether `unchanged` is the run's own loss; if not, it is a replay's.
        seeds: number of seeds.
    """

    from_round: int
    last: int
    hold_out: float | None
    unchanged: float | None
    logged: bool
    seeds: int


@dataclass(frozen=True)
class TriedRemedy:
    """Settings that were tried against causes in a replay.

    Attributes:
        settings: by their dotted names; empty for advice, as to correct data.
        says: what it is.
        recovers: share of the harm that it takes back, -1 to 1: up to the run's end if `ending` is known, else in a
            short replay.
        loss_after: mean loss in the rounds of the short replay, nats per example; None if not finite.
        against: names of the causes that it was tried against.
        confirmed: whether it was replayed to the run's end, and was no worse there than doing nothing.
        ending: how that replay ended; None if there was none.
    """

    settings: Mapping[str, Any]
    says: str
    recovers: float
    loss_after: float | None
    against: tuple[str, ...]
    confirmed: bool = False
    ending: RemedyEnding | None = None


@dataclass(frozen=True)
class Cause:
    """A cause that a replay proved.

    Attributes:
        cause: name in the fixed vocabulary.
        score: share of the harm that it explains at least, 0 to 1.
        clients: through which it acts; empty if through all.
        fault: what is wrong, a key of the cause's `words.by_fault`: of faulty clients `labels`, `data` or `updates`, of
            a learning rate `too_low`; empty if that is not one thing, or if the cause has only one fault.
        rounds: in which it acts, first and last, as far as they were compared.
        evidence: what speaks for it.
        replay: the rounds without it.
        remedy: the proposed one; None if none takes anything back.
        advice: what to do where no setting helps, a part of a sentence; empty if there is none.
    """

    cause: str
    score: float
    clients: tuple[str, ...]
    fault: str
    rounds: tuple[int, int]
    evidence: tuple[Evidence, ...]
    replay: ReplayResult
    remedy: TriedRemedy | None
    advice: str = ""


@dataclass(frozen=True)
class RuledOut:
    """A cause that was replayed and refuted.

    Attributes:
        cause: name in the fixed vocabulary.
        says: what was changed, as `the same rounds without client 04`.
        removes: share of the harm that went away, of all seeds that were run; None if no replay of it rose, or if other
            evidence refutes the cause.
        why: the evidence that refutes the cause, a part of a sentence; empty if its change removes too little.
        fault: as of a `Cause`.
        ends_at: hold-out loss at the end with the change, where nothing rose, nats per example; None if it was not
            replayed to the end.
    """

    cause: str
    says: str
    removes: float | None
    why: str = ""
    fault: str = ""
    ends_at: float | None = None


@dataclass(frozen=True)
class NotFinished:
    """A possible cause of which it is not known whether it is one.

    Attributes:
        cause: name in the fixed vocabulary.
        says: what was changed, or would have been.
        removes: share of the harm that went away, of all seeds that were run; None if it was not replayed.
        why: why it is not known, a part of a sentence.
        fault: as of a `Cause`.
        ends_at: as of a `RuledOut`.
    """

    cause: str
    says: str
    removes: float | None
    why: str
    fault: str = ""
    ends_at: float | None = None


@dataclass(frozen=True)
class Budget:
    """What the replays cost.

    Attributes:
        from_round: round of the model that they start from.
        rounds: number of rounds that the replays of causes took.
        allowed: number of rounds that they may take.
        seeds: the most seeds that any change was replayed with.
        compared: rounds whose losses are compared, first and last.
        reproduced: whether the loss rose again, or the run ended again, with nothing changed.
        chance: of a run that ended, the loss of a model that does not look at its inputs, nats per example.
        remedy_rounds: number of rounds that the replays of remedies took.
        remedy_allowed: number of rounds that they may take.
    """

    from_round: int
    rounds: int
    allowed: int
    seeds: int
    compared: tuple[int, int]
    reproduced: bool
    chance: float | None = None
    remedy_rounds: int = 0
    remedy_allowed: int = 0


@dataclass(frozen=True)
class Harm:
    """How much worse the loss is than it was before, or than it would be without the proven causes.

    Attributes:
        loss: the loss at its height, or at the end of a run in which nothing rose, nats per example; None if it is not
            finite.
        reference: the loss before the rise, or at the end without the proven causes; None if it is not known.
        noise: standard deviation of `loss`, nats per example: of one round around its level, or over seeds; None if not
            estimated.
    """

    loss: float | None
    reference: float | None
    noise: float | None


@dataclass(frozen=True)
class DifferenceTried:
    """One difference between two runs, and what became of it.

    Attributes:
        what: `setting`, `client` (its raw data changed), `new_client`, `missing_client` or `code`.
        name: of the settings, the client or the files.
        says: what is different, a sentence.
        tried: whether a replay took it back.
        proven: whether it is a cause.
        removes: share of the difference of the losses that went away, -1 to 1; None if it was not tried.
        ends_at: hold-out loss at the end without it, nats per example; None if it was not tried.
        together: whether it was taken back together with others.
    """

    what: str
    name: str
    says: str
    tried: bool
    proven: bool
    removes: float | None
    ends_at: float | None
    together: bool


@dataclass(frozen=True)
class Against:
    """The run with which this one is compared.

    Attributes:
        other: its name.
        worse: whether this run ends with a higher loss, beyond the noise of seeds.
        differences: all of them.
    """

    other: str
    worse: bool
    differences: tuple[DifferenceTried, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The answer: what rose, who drifted, the proven causes and their remedies.

    Attributes:
        rise: of the loss, or that there is none.
        healthy: clients that were looked at and showed nothing unusual: they never failed, no loss that rose is theirs,
            and no possible cause names them. Where nothing rose, `looked_for` says what was looked at.
        observations: what the logs show of single clients.
        limits: what the data could not tell, a sentence each.
        causes: proven, the first to be believed first.
        ruled_out: replayed and refuted.
        not_finished: possible causes of which it is not known whether they are one.
        remedies: tried, the best first.
        budget: of the replays; None if nothing was replayed.
        signals: what was measured of all clients, by name; None if nothing was replayed.
        question: what is answered: why the loss rose, why the run ended before its last round, why the loss is higher
            than it should be, although nothing rose, or why it is higher than that of another run.
        ending: how the run ended; None if it did not end early.
        looked_at: the rounds in which clients were compared, first and last; None if the log was checked only for
            failed updates and for single rounds that are far outside.
        not_looked_at: clients that could not be compared, in these rounds or where nothing rose, apart from those that
            failed.
        standing: how high the loss is at the end, and how high it would be; None if that is not the question.
        looked_for: what was looked at where nothing rose, a sentence each.
        not_examined: what was not looked at where nothing rose, a sentence each.
        against: the run with which this one is compared; None if that is not the question. `standing` then has both
            losses.
    """

    rise: Rise
    healthy: tuple[str, ...]
    observations: tuple[ClientSignal, ...]
    limits: tuple[str, ...]
    causes: tuple[Cause, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    not_finished: tuple[NotFinished, ...] = ()
    remedies: tuple[TriedRemedy, ...] = ()
    budget: Budget | None = None
    signals: Mapping[str, Any] | None = None
    ending: Ending | None = None
    looked_at: tuple[int, int] | None = None
    not_looked_at: tuple[str, ...] = ()
    standing: Standing | None = None
    looked_for: tuple[str, ...] = ()
    not_examined: tuple[str, ...] = ()
    against: Against | None = None

    @property
    def compared(self) -> tuple[Against, Standing] | None:
        """The other run, and how both runs end; None if this run is not compared with another one."""
        return None if self.against is None or self.standing is None else (self.against, self.standing)

    @property
    def question(self) -> Question:
        """Which question is answered."""
        if self.against is not None:
            return "against"
        if self.standing is not None:
            return "standing"
        return "ended" if self.ending and not self.ending.goes_on else "rise"

    @property
    def verdict(self) -> str:
        """The first cause; `none` if none is proven."""
        return self.causes[0].cause if self.causes else "none"

    @property
    def harm(self) -> Harm | None:
        """What is to be explained; None if there is nothing."""
        rise, standing = self.rise, self.standing
        if self.against is not None and not self.against.worse:
            return None
        if standing is not None:
            return Harm(standing.loss, standing.reference, standing.noise)
        if not rise.detected:
            return None
        unit = rise.loss_before if rise.relative else 1.0
        noise = None if rise.noise is None or unit is None else float(f"{rise.noise * unit:.6g}")
        return Harm(rise.loss_after, rise.loss_before, noise)

    @property
    def named(self) -> tuple[str, ...]:
        """The clients of the causes and of the rise, then the clients that were unusual or failed."""
        blamed = [client for cause in self.causes for client in cause.clients]
        unusual = [observation.client for observation in self.observations if observation.unusual]
        return tuple(dict.fromkeys([*blamed, *self.rise.clients, *unusual]))

    @property
    def remedy(self) -> TriedRemedy | None:
        """The remedy of the first cause that has one."""
        return next((cause.remedy for cause in self.causes if cause.remedy), None)

    @property
    def proposed(self) -> list[tuple[list[Cause], TriedRemedy]]:
        """The causes' remedies, each once, with its causes."""
        proposed: list[tuple[list[Cause], TriedRemedy]] = []
        for cause in self.causes:
            if cause.remedy is None:
                continue
            causes = next((against for against, each in proposed if each.settings == cause.remedy.settings), None)
            if causes is None:
                proposed.append(([cause], cause.remedy))
            else:
                causes.append(cause)
        return proposed

    @property
    def not_proposed(self) -> tuple[TriedRemedy, ...]:
        """The remedies that were tried and are not proposed against any cause."""
        proposed = [cause.remedy.settings for cause in self.causes if cause.remedy]
        return tuple(remedy for remedy in self.remedies if remedy.settings not in proposed)


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Returns diagnosis.json, in nothing but JSON's types.

    The keys of the contract, and `detection` (how the rise was tested) and `observations`. If the run ended early, also
    `ending`. If it is compared with another run, also `other`, `worse` and `differences`. If rounds were replayed, also
    `ruled_out`, `not_finished`, `remedies`, `replays` and `signals`.
    """
    content: dict[str, Any] = {
        "verdict": diagnosis.verdict,
        "question": diagnosis.question,
        "increase": _fields(diagnosis.rise, "detected", "round", "until", "loss_before", "loss_after", "confidence"),
        "harm": None if diagnosis.harm is None else asdict(diagnosis.harm),
        "causes": [_cause(cause) for cause in diagnosis.causes],
        "healthy": diagnosis.healthy,
        "not_looked_at": diagnosis.not_looked_at,
        "looked_for": diagnosis.looked_for,
        "not_examined": diagnosis.not_examined,
        "limits": diagnosis.limits,
        "detection": _fields(diagnosis.rise, "loss", "num_losses", "kind", "alarm", "phase", "sparsity", "noise")
        | _fields(diagnosis.rise, "correlation", "visible", "significance", "clients")
        | {
            "chance": None if diagnosis.rise.chance is None else asdict(diagnosis.rise.chance),
            "events": [asdict(event) for event in diagnosis.rise.events],
        },
        "observations": [asdict(observation) for observation in diagnosis.observations],
    }
    if diagnosis.ending is not None and not diagnosis.ending.goes_on:
        content["ending"] = _fields(diagnosis.ending, "round", "since", "failure", "by_guard", "failed")
    if diagnosis.against is not None:
        content |= _fields(diagnosis.against, "other", "worse")
        content["differences"] = [asdict(each) for each in diagnosis.against.differences]
    if diagnosis.budget is not None:
        content |= {
            "ruled_out": [_tried(cause) for cause in diagnosis.ruled_out],
            "not_finished": [_tried(cause) for cause in diagnosis.not_finished],
            "remedies": [asdict(remedy) for remedy in diagnosis.remedies],
            "replays": {name: value for name, value in asdict(diagnosis.budget).items() if value is not None},
            "signals": diagnosis.signals,
        }
    return {name: _plain(value) for name, value in content.items()}


def _cause(cause: Cause) -> dict[str, Any]:
    fault = {"fault": cause.fault} if cause.fault else {}
    remedy = None if cause.remedy is None else _fields(cause.remedy, "settings", "says", "recovers", "confirmed")
    return {
        **_fields(cause, "cause", "score", "clients", "rounds"),
        **fault,
        "evidence": [asdict(evidence) for evidence in cause.evidence],
        "replay": _replay(cause.replay),
        "remedy": remedy,
        **({"advice": cause.advice} if cause.advice else {}),
    }


def _tried(cause: RuledOut | NotFinished) -> dict[str, Any]:
    known = {name: value for name, value in (("fault", cause.fault), ("ends_at", cause.ends_at)) if value}
    return _fields(cause, "cause", "says", "removes", "why") | known


def _replay(replay: ReplayResult) -> dict[str, Any]:
    return {
        **_fields(replay, "change", "says", "from_round", "loss", "seeds", "of_log", "kind"),
        "rounds": min(len(replay.unchanged), len(replay.changed)),
        "loss_without": replay.unchanged,
        "loss_with": replay.changed,
        "removes": asdict(replay.removes),
    }


def _fields(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _plain(value: Any) -> Any:
    """The value with lists in place of tuples, and dicts in place of other mappings."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
