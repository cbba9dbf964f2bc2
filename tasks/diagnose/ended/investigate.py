"""From a run that ended to the causes that replays prove, and to settings with which the run trains."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from tasks.diagnose.causes import Candidate
from tasks.diagnose.ended.course import good_enough, trains
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.ended.remedies import treated
from tasks.diagnose.ended.survival import Survival
from tasks.diagnose.ended.suspects import Steepness, steepness_of, suspects
from tasks.diagnose.evidence.collect import find
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.evidence.sent import capture
from tasks.diagnose.investigation import Investigation, Proof
from tasks.diagnose.replay.change import NO_CHANGE
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.thresholds import PROVEN
from tasks.diagnose.verdict import SEEDS
from tasks.diagnose.window import LEAST, LONGEST, allowed_rounds
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog
from tasks.settings import Settings

_IN_PAIRS = 3
"""Most candidates of which pairs are made, if none alone lets the run train."""


def investigate_ending(
    settings: Settings,
    folder: Path,
    ending: Ending,
    clients: ClientLog,
    budget: float,
    cache: ComputationCache | None = None,
) -> Investigation:
    """Replays the run from its last sound model with one factor after the other changed.

    A cause is proven if the run trains without it, with every seed with which it does not train otherwise.

    Args:
        settings: of the run.
        folder: its workspace.
        ending: of the run.
        clients: clients.csv.
        budget: rounds that the replays for causes may take, over the rounds of one replay.
        cache: of computations; None: an own one.

    Raises:
        UndriftError: the data are missing, or the replays cannot begin.
    """
    with replayer(settings, folder, cache) as replays:
        replays.go_to(ending.sound_after)
        probe = Probe(replays.model)
        steepness = steepness_of(replays, probe)
        findings = _findings(replays, probe, ending, clients, steepness)
        start = replays.from_round
        wrong = ending.since if ending.goes_on else ending.round
        last = min(max(start + LONGEST, wrong + LEAST - 1), replays.last_round)
        survival = Survival(replays, last, strict=settings.federate.guard == "stop", at_chance=ending.goes_on)
        # Confirmation comes on top: two more seeds of one change and of none.
        allowed = allowed_rounds(budget, replays.last_round) + 2 * (SEEDS - 1) * survival.length
        survival.limit = allowed
        unchanged = survival.run(NO_CHANGE)
        again = unchanged is not None and not trains(unchanged, survival.below)
        search = _Search(survival)
        if again:
            for candidate in suspects(ending, findings, steepness, clients, replays.settings, start):
                if search.needs_no_other:
                    break
                search.enter(candidate)
        proven = search.proven() if again else []
        spent = survival.spent
        survival.limit = spent + allowed
        tried, proposed = treated(survival, proven, replays.settings, findings, steepness)
        claimed = {proof.candidate.cause for proof in proven}
        return Investigation(
            from_round=start,
            window=(start + 1, last),
            reproduced=again,
            causes=tuple(proven),
            ruled_out=tuple(search.proof(each) for each in search.entered if search.refuted(each, claimed)),
            tried=tried,
            proposed=proposed,
            findings=findings,
            spent=spent,
            allowed=allowed,
            spent_on_remedies=survival.spent - spent,
            allowed_for_remedies=allowed,
            chance=survival.chance,
            seeds=max((len(proof.effect.by_seed) for proof in proven), default=1),
            not_finished=tuple(search.not_finished(claimed)),
        )


def _findings(replays: Replayer, probe: Probe, ending: Ending, clients: ClientLog, steepness: Steepness) -> Findings:
    """What is known of the clients at the last sound model; the steepness is that of more clients than usual."""
    sent = capture(replays, ending.since)
    findings = find(replays, probe, sent, clients, ending.since, (np.nan, np.nan), np.nan)
    return replace(findings, steepness=steepness.median)


@dataclass
class _Search:
    """The candidates that were replayed, and what came of them."""

    survival: Survival
    entered: list[Candidate] = field(default_factory=list)
    skipped: list[Candidate] = field(default_factory=list)

    def enter(self, candidate: Candidate) -> None:
        """Replays a candidate; its other change too, if the run does not train with the first."""
        # The first candidate is replayed in any case. The other ones leave rounds for two more seeds, with and without.
        needed = (1 + 2 * (SEEDS - 1)) * self.survival.length
        for change in (candidate.change, candidate.instead):
            if change is not None and self.entered and not self.survival.affords(needed):
                self.skipped.append(candidate)
                return
            if change is None or self.survival.run(change) is None:
                continue
            self.entered.append(replace(candidate, change=change, instead=None))
            if self.survival.trains(change):
                return

    @property
    def needs_no_other(self) -> bool:
        """Whether the last candidate would be good enough even beside a replay with a loss of 0.

        Then no other candidate, which is less specific, can take its place.
        """
        if not self.entered:
            return False
        change = self.entered[-1].change
        return self.survival.trains(change) and good_enough(self.survival.final(change), 0.0, self.survival.below)

    def proven(self) -> list[Proof]:
        """Returns the proven causes: one, or two that let the run train only together; none if no replay trains."""
        return self._first_confirmed([[each] for each in self.entered]) or self._first_confirmed(self._pairs())

    def refuted(self, candidate: Candidate, claimed: Collection[str]) -> bool:
        """Whether the run does not train without the cause, or not with every seed."""
        if candidate.cause in claimed:
            return False
        effect = self.survival.effect(candidate.change)
        return not (effect.by_seed and effect.mean >= PROVEN)

    def not_finished(self, claimed: Collection[str]) -> Iterator[Proof]:
        """Yields the possible causes of which the replays do not say whether they are one."""
        for candidate in self.entered:
            if candidate.cause not in claimed and not self.refuted(candidate, claimed):
                why = "the run trains without it, but a more specific cause explains the end as well"
                yield replace(self.proof(candidate), why=why)
        for candidate in self.skipped:
            if candidate.cause not in {*claimed, *(each.cause for each in self.entered)}:
                yield Proof(candidate, Effect(()), "val_loss", (), (), why="no rounds were left to replay it")

    def proof(self, candidate: Candidate) -> Proof:
        """Returns what the replays showed of a candidate."""
        effect = self.survival.effect(candidate.change)
        return Proof(candidate, effect, "val_loss", *self.survival.series(candidate.change))

    def _pairs(self) -> list[list[Candidate]]:
        """Two changes at once, of different causes, where no change alone is enough."""
        able = list({each.cause: each for each in self.entered}.values())[-_IN_PAIRS:]
        pairs = []
        for first, second in combinations(able, 2):
            # The pair, and two more seeds with and without it.
            if not self.survival.affords((1 + 2 * (SEEDS - 1)) * self.survival.length):
                break
            both = first.change | second.change
            if self.survival.run(both) is not None:
                pairs.append([replace(first, change=both), replace(second, change=both)])
        return pairs

    def _first_confirmed(self, options: Sequence[Sequence[Candidate]]) -> list[Proof]:
        """The first of the options that lets the run train with all seeds, and about as well as the best one does."""
        finals = {id(option): self.survival.final(option[0].change) for option in options}
        able = [option for option in options if self.survival.trains(option[0].change)]
        best = min((finals[id(option)] for option in able), default=np.inf)
        close = [option for option in able if good_enough(finals[id(option)], best, self.survival.below)]
        for option in close:
            effect: Effect = self.survival.confirmed(option[0].change)
            if effect.proven:
                return [self.proof(each) for each in option]
        return []
