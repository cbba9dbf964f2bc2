"""From a comparison of two runs to the diagnosis: causes of the fixed vocabulary, remedies, and every difference."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tasks.diagnose.causes.base import Indication
from tasks.diagnose.compared.comparison import Comparison, Outcome
from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.compared.side import Side
from tasks.diagnose.diagnosis import (
    Against,
    Budget,
    Cause,
    DifferenceTried,
    Evidence,
    NotFinished,
    RemedyEnding,
    Removed,
    ReplayResult,
    TriedRemedy,
)
from tasks.diagnose.investigation import Standing
from tasks.diagnose.phrases import joined
from tasks.diagnose.replay.effect import Effect, ln
from tasks.diagnose.standing.against import against as speaks_against
from tasks.diagnose.standing.examine import Examination, Examined
from tasks.diagnose.verdict import SEEDS
from tasks.diagnose.written_signals import number, series


class Answer:
    """The parts of a diagnosis that a comparison of two runs gives."""

    def __init__(
        self,
        this: Side,
        other: Side,
        found: Sequence[Difference],
        compared: Comparison,
        examination: Examination | None,
    ) -> None:
        """Joins what is known.

        Args:
            this: the run whose loss is explained.
            other: the run with which it is compared.
            found: all differences; those that the comparison does not name were not tried.
            compared: what the replays showed.
            examination: what the clients' data show beside the hold-out data; None if no client is named.
        """
        self._other, self._found, self._compared = other, found, compared
        self._num_clients = len(this.digests)
        self._examined = {} if examination is None else examination.clients

    @property
    def standing(self) -> Standing:
        """How this run ends, how the other one does, and the noise of seeds."""
        compared = self._compared
        noise = number(compared.noise)
        return Standing(number(compared.loss), number(compared.reference), noise, compared.rounds)

    @property
    def against(self) -> Against:
        """The other run, and every difference with what became of it."""
        compared = self._compared
        tried: dict[Difference, tuple[Outcome, bool]] = {}
        for outcome in (*compared.not_finished, *compared.ruled_out):
            for each in outcome.differences:
                if outcome.by_seed and (each not in tried or len(outcome.differences) == 1):
                    tried[each] = (outcome, False)
        tried |= {each: (outcome, True) for outcome in compared.causes for each in outcome.differences}
        return Against(
            self._other.name,
            compared.worse,
            tuple(self._difference(each, *tried.get(each, (None, False))) for each in self._found),
        )

    def _difference(self, each: Difference, outcome: Outcome | None, proven: bool) -> DifferenceTried:
        with_others = outcome is not None and len(outcome.differences) + len(outcome.beyond) > 1
        return DifferenceTried(
            each.what,
            each.name,
            each.says,
            tried=outcome is not None,
            proven=proven,
            removes=None if outcome is None else _share(self._effect(outcome).mean),
            ends_at=None if outcome is None else number(outcome.ends_at),
            together=with_others,
        )

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The proven causes; differences of one name that were proven one after the other are one cause."""
        by_name: dict[str, Outcome] = {}
        for outcome in self._compared.causes:
            name = self._name(outcome)
            by_name[name] = self._joined(by_name[name], outcome) if name in by_name else outcome
        return tuple(self._cause(name, outcome) for name, outcome in by_name.items())

    @property
    def not_finished(self) -> tuple[NotFinished, ...]:
        """The differences of which it is not known."""
        return tuple(
            NotFinished(
                self._name(o),
                _says(o),
                _share(o.effect.mean) if o.effect.by_seed else None,
                o.why,
                self._fault(self._name(o), o),
                ends_at=number(o.ends_at) if o.by_seed else None,
            )
            for o in self._compared.not_finished
        )

    @property
    def remedies(self) -> tuple[TriedRemedy, ...]:
        """Those of the causes: the settings as they were."""
        return tuple(cause.remedy for cause in self.causes if cause.remedy is not None)

    @property
    def budget(self) -> Budget:
        """What the replays cost."""
        compared = self._compared
        return Budget(0, compared.spent, compared.allowed, SEEDS, compared.rounds, reproduced=True)

    def _joined(self, first: Outcome, second: Outcome) -> Outcome:
        """Two outcomes as one: the second was replayed with the differences of the first taken back, too."""
        both = (*first.differences, *second.differences)
        beyond = tuple(each for each in second.beyond if each not in both)
        return replace(second, differences=both, beyond=beyond, effect=self._effect(second))

    def _effect(self, outcome: Outcome) -> Effect:
        """The share of the whole difference of the losses that goes away, together with what was taken back before."""
        compared = self._compared
        if not outcome.beyond or not outcome.by_seed:
            return outcome.effect
        gap = ln(compared.loss) - ln(compared.reference)
        pairs = zip(compared.this, outcome.by_seed, strict=False)  # what is ruled out was replayed with one seed
        return Effect(tuple((ln(before) - ln(end)) / gap for before, end in pairs))

    def _name(self, outcome: Outcome) -> str:
        """The cause's name in the fixed vocabulary."""
        whats = {each.what for each in outcome.differences}
        if whats <= {"setting", "code"}:
            return "changed_setting"
        if whats == {"missing_client"}:
            return "missing_clients"
        named = [each for each in self._clients(outcome) if each.client in self._examined]
        if named and all(each.is_suspect for each in named):
            return "feature_shift" if all(each.is_shifted for each in named) else "faulty_clients"
        return "data_drift" if whats & {"client", "new_client"} else "changed_setting"

    def _clients(self, outcome: Outcome) -> list[Examined]:
        names = [client for each in outcome.differences for client in each.clients]
        return [self._examined[client] for client in names if client in self._examined]

    def _fault(self, name: str, outcome: Outcome) -> str:
        if {each.what for each in outcome.differences} == {"code"}:
            return "code"
        if name == "faulty_clients":
            return "data" if any(each.is_far for each in self._clients(outcome)) else "labels"
        num_clients = len({client for each in outcome.differences for client in each.clients})
        return "few" if name == "data_drift" and 2 * num_clients < self._num_clients else ""

    def _cause(self, name: str, outcome: Outcome) -> Cause:
        return Cause(
            name,
            max(0.0, _share(outcome.effect.low)),
            tuple(client for each in outcome.differences for client in each.clients),
            self._fault(name, outcome),
            (1, self._compared.rounds[1]),
            tuple(Evidence(s, number(v), number(e), says) for s, v, e, says in self._evidence(outcome)),
            ReplayResult(
                _says(outcome),
                _described(outcome, self._other.name),
                0,
                "val_loss",
                series(self._compared.curve),
                series(outcome.curve),
                len(outcome.by_seed),
                _removed(self._effect(outcome)),
                ends_at=number(outcome.ends_at),
            ),
            _remedy(name, outcome, self._compared),
            _advice(outcome, self._other.name),
        )

    def _evidence(self, outcome: Outcome) -> Iterator[Indication]:
        for each in outcome.differences:
            signal = {"setting": "changed_setting", "code": "changed_code"}.get(each.what, "changed_client")
            now = np.nan if each.now is None else each.now
            yield Indication(signal, now, each.then, each.says)
        for client in self._clients(outcome):
            yield from speaks_against(client)


def _says(outcome: Outcome) -> str:
    backs = joined([each.back for each in (*outcome.beyond, *outcome.differences)])
    return f"the same rounds {backs}"


def _described(outcome: Outcome, other: str) -> dict[str, object]:
    taken = (*outcome.beyond, *outcome.differences)
    described: dict[str, object] = {"settings": {n: v for each in taken for n, v in each.settings.items()}}
    clients = [client for each in taken for client in each.clients]
    if clients:
        described["data_of"] = {other: clients}
    return described


def _remedy(name: str, outcome: Outcome, compared: Comparison) -> TriedRemedy | None:
    """The settings as they were, which the proof has replayed; None if the cause is no setting."""
    settings = {n: v for each in outcome.differences for n, v in each.settings.items()}
    if not settings or any(each.what != "setting" or each.whole for each in outcome.differences):
        return None
    last = compared.rounds[1]
    seeds = len(outcome.by_seed)
    ending = RemedyEnding(0, last, number(outcome.ends_at), number(compared.loss), logged=False, seeds=seeds)
    says = f"set {joined(list(settings))} back"
    share = _share(outcome.effect.mean)
    return TriedRemedy(settings, says, share, number(outcome.ends_at), (name,), confirmed=True, ending=ending)


def _advice(outcome: Outcome, other: str) -> str:
    """What to do where no setting helps; empty if a setting is the cause."""
    whats = {each.what for each in outcome.differences}
    clients = [client for each in outcome.differences for client in each.clients]
    who = f"{'client' if len(clients) == 1 else 'clients'} {joined(clients[:5])}"
    if whats == {"missing_client"}:
        return f"bring {who} back"
    if whats == {"new_client"}:
        return f"look at the data of {who}; until they are mended, leave {who} out (federate.exclude)"
    if "client" in whats:
        return f"look at what changed in the data of {who}, mend it, and run again"
    if "code" in whats:
        return f"compare the code with that of {other}"
    return "" if outcome.differences[0].settings and not outcome.differences[0].whole else f"divide the data as {other}"


def _share(value: float) -> float:
    return float(f"{min(1.0, max(-1.0, value)):.4g}") if np.isfinite(value) else 0.0


def _removed(effect: Effect) -> Removed:
    return Removed(_share(effect.mean), _share(effect.low), _share(2 * effect.mean - effect.low))
