"""Every possible cause is taken away in a replay; the one whose removal removes the rise is the cause."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tasks.diagnose import verdict
from tasks.diagnose.causes import CAUSES, Candidate
from tasks.diagnose.investigation import Proof
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import PROVEN, REMAINS
from tasks.diagnose.verdict import Contender, SecondCause, SecondChange

FAILURES = "non_finite"
"""The cause that is proven by failed clients, and not by a loss."""
NOT_REPLAYED = "the budget ended before its replay"
ONE_SEED = "the budget ended before another seed confirmed it"
NOT_CONFIRMED = "the other seeds do not confirm it"
NOT_AGAIN = "the loss rises again in one seed only"
NOT_NEEDED = "another cause is proven, so no other seed was tried"
MODEL_IMPROVES = "it would raise the hold-out loss, which did not rise"


def without_failures(trials: Trials, candidates: Sequence[Candidate], overshoots: bool = False) -> Proof | None:
    """Returns what the failures do without the clients that failed; None if that was not replayed.

    The effect is the share of failed clients that is gone: a loss from which failed clients are left out shows nothing.
    If local training `overshoots`, nothing is gone if the model without these clients is at chance: then it is not they
    that keep it from learning.
    """
    candidate = next((each for each in candidates if each.cause == FAILURES), None)
    if candidate is None:
        return None
    failed = []
    for seed in range(verdict.SEEDS):
        if seed and not trials.affords(2):
            break
        if not trials.run(candidate.change, seed):
            return None
        before, after = trials.failed(NO_CHANGE, seed), trials.failed(candidate.change, seed)
        dead = overshoots and not trials.trains(candidate.change, seed)
        failed.append((before, max(before, after) if dead else after))
    return replace(proof(trials, candidate), effect=verdict.failures_removed(*zip(*failed, strict=True)))


def replay_all(
    trials: Trials, candidates: Sequence[Candidate], entered: Sequence[Candidate] = ()
) -> tuple[list[Candidate], list[Candidate]]:
    """Replays every candidate with the run's own seed, while the budget also affords to confirm one.

    A candidate that promises nothing halfway ends there. If a change removes less than half of the rise, the
    candidate's other change is replayed as well. Failures are not replayed here.

    Returns:
        `entered` and the candidates that were replayed; the candidates that the budget left no rounds for. Candidates
        that the settings do not allow are in neither.
    """
    entered, left = [*entered], list[Candidate]()
    for candidate in candidates:
        if candidate.cause == FAILURES:
            continue
        # The replay itself, and two of another seed.
        if not trials.affords(3):
            left.append(candidate)
            continue
        share = _replay(trials, candidate, entered)
        if candidate.instead and share < PROVEN and trials.affords(3):
            _replay(trials, replace(candidate, change=candidate.instead), entered)
    return entered, left


def _replay(trials: Trials, candidate: Candidate, entered: list[Candidate]) -> float:
    """Adds the candidate to `entered` if the settings allow it; returns the share of the rise that it removes."""
    if not trials.run(candidate.change, until=trials.window.halfway):
        return 0.0
    best = max((trials.removed(earlier.change) for earlier in entered), default=0.0)
    entered.append(candidate)
    if verdict.worth_finishing(candidate.cause, trials.removed(candidate.change), best):
        trials.run(candidate.change)
    return trials.removed(candidate.change)


def proof(trials: Trials, candidate: Candidate, column: str = "") -> Proof:
    """Returns what the replays showed of a candidate, proven or not, in `column` or the loss that rose."""
    column = column or trials.window.loss
    return Proof(candidate, trials.effect(candidate.change, column), column, *trials.series(candidate.change, column))


def unproven(trials: Trials, candidate: Candidate, why: str) -> Proof:
    """Returns that a candidate is not proven, and why: nothing was replayed of it."""
    return Proof(candidate, Effect(()), trials.window.loss, (), (), why=why)


@dataclass(frozen=True)
class Tournament:
    """Candidates that were replayed with the run's own seed, between which further replays decide.

    Attributes:
        trials: their replays.
        entered: the candidates.
        order: all causes, the most specific first.
        refuted: (candidate) -> why evidence refutes it although its removal removes the rise; empty if nothing does.
        reasons: why a candidate is not proven, by its place in `entered`: (1) it harms the model, but the hold-out loss
            did not rise, or (2) it was believed, and then refuted or not confirmed. `decide` fills in the latter.
    """

    trials: Trials
    entered: Sequence[Candidate]
    order: Sequence[str]
    refuted: Callable[[Candidate], str] = lambda _: ""
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refutes the causes that would make the model worse, if it did not become worse with nothing changed."""
        # A rise of the training loss comes with noise of the hold-out loss.
        least = 0.0 if self.trials.window.loss == "val_loss" else REMAINS
        if self.trials.height(NO_CHANGE, "val_loss") <= least:
            harmful = (number for number, each in enumerate(self.entered) if CAUSES[each.cause].harms_the_model)
            self.reasons.update(dict.fromkeys(harmful, MODEL_IMPROVES))

    def decide(self) -> list[Proof]:
        """Returns the proven causes, the first to be believed first; none if no replay takes the rise away."""
        left = list(range(len(self.entered)))
        while first := verdict.believed_first(self._contenders(left), self.order):
            if proven := self._confirmed(first):
                return proven
            left.remove(first.number)
        contenders = self._contenders(left)
        rest = verdict.explains_the_rest(contenders, self.order)
        if rest and verdict.comes_before_pairs(contenders) and (proven := self._confirmed(rest)):
            return proven
        return self._pair() or (self._confirmed(rest) if rest else [])

    def unproven(self, proven: Sequence[Proof]) -> tuple[list[Proof], list[Proof]]:
        """Returns the candidates that were ruled out, and those of which it is not known whether they are a cause.

        Not known are the candidates that removed half of the rise in every seed so far and are not proven: the budget
        ended, the seeds disagree, or another cause was proven first. Candidates with a proven cause are in neither.
        """
        claimed, ruled_out, open_ = {each.candidate.cause for each in proven}, list[Proof](), list[Proof]()
        for number, candidate in enumerate(self.entered):
            if candidate.cause in claimed:
                continue
            shown, why = proof(self.trials, candidate), self.reasons.get(number, "")
            if why not in ("", ONE_SEED, NOT_CONFIRMED, NOT_AGAIN):
                ruled_out.append(replace(shown, effect=Effect(()), why=why))
            elif shown.effect.by_seed and shown.effect.mean >= PROVEN:
                open_.append(replace(shown, why=why or (NOT_NEEDED if proven else ONE_SEED)))
            else:
                ruled_out.append(shown)
        return ruled_out, open_

    def _contenders(self, numbers: Sequence[int]) -> list[Contender]:
        able = [number for number in numbers if self.reasons.get(number) != MODEL_IMPROVES]
        removed = {number: self.trials.removed(self.entered[number].change) for number in able}
        return [Contender(number, self.entered[number].cause, share) for number, share in removed.items()]

    def _confirmed(self, contender: Contender) -> list[Proof]:
        """The proof of a cause, and of a second one if there is one; empty if other seeds do not confirm the first."""
        first = self.entered[contender.number]
        if self.reasons.get(contender.number):
            return []
        if why := self.refuted(first):
            self.reasons[contender.number] = why
            return []
        # Before the other seeds of the first, which would use up the budget: one cause may hide another.
        second = self._second(first)
        most = verdict.MOST_SEEDS if CAUSES[first.cause].evident else verdict.SEEDS
        if not self._run_other_seeds(first.change, most):
            self.reasons[contender.number] = ONE_SEED
            return []
        effect = self.trials.effect(first.change)
        if not effect.proven:
            self.reasons[contender.number] = NOT_CONFIRMED if len(effect.by_seed) > 1 else NOT_AGAIN
            return []
        proven = [proof(self.trials, first)]
        if second is None:
            return proven
        changed = verdict.second_comes_first(first.cause, second.candidate.cause)
        return [second, *proven] if changed else [*proven, second]

    def _run_other_seeds(self, change: Change, most: int = verdict.SEEDS) -> bool:
        """Replays a change with other seeds, so far as they can change the answer.

        Args:
            change: what is different.
            most: most seeds that are drawn. A seed in which the loss does not rise again says nothing, so with more
                than SEEDS, another one is drawn in its place.

        Returns:
            Whether the budget afforded one.
        """
        for seed in range(1, most):
            effect = self.trials.effect(change)
            if seed > 1 and not verdict.another_seed(effect, seed):
                break
            if not self.trials.affords(2):
                return seed > 1
            self.trials.run(change, seed)
        return True

    def _second(self, first: Candidate) -> Proof | None:
        """The cause whose removal after the first's lowers the loss most, or that is necessary alone; None without."""
        best: tuple[SecondChange, SecondCause] | None = None
        second: Candidate | None = None
        others = [number for number, other in enumerate(self.entered) if other.cause != first.cause]
        for candidate in (self.entered[one.number] for one in self._contenders(others)):
            # The replay of both, and two of another seed to confirm the first.
            if not CAUSES[candidate.cause].beside_another or not self.trials.affords(3):
                continue
            both = self.trials.together(first.change, candidate.change)
            if not self.trials.run(both, until=self.trials.window.halfway):
                continue
            if verdict.gives_up_second(self._beyond(first, candidate.cause, both)):
                continue
            self.trials.run(both)
            change = self._beyond(first, candidate.cause, both)
            counted = verdict.second_cause(change)
            if counted and verdict.outranks(change, counted, best):
                best, second = (change, counted), replace(candidate, change=both)
        if best and second:
            return proof(self.trials, second, self.trials.window.other if best[1].of_other else "")
        alone = verdict.necessary_alone(self._contenders(others))
        return proof(self.trials, self.entered[alone.number]) if alone else None

    def _beyond(self, first: Candidate, cause: str, both: Change) -> SecondChange:
        """What the change of `cause` does beyond the first's, as far as the replay of both has been run."""
        trials, loss, other = self.trials, self.trials.window.loss, self.trials.window.other
        return SecondChange(
            cause,
            share=trials.removed(both) - trials.removed(first.change),
            fall=trials.fall(first.change, both, loss),
            other_rise=trials.height(NO_CHANGE, other),
            other_left=trials.height(first.change, other),
            other_fall=trials.fall(first.change, both, other),
        )

    def _pair(self) -> list[Proof]:
        """The proofs of two causes that remove the rise only together; empty if no pair does."""
        for first, second in verdict.pairs(self._contenders(range(len(self.entered)))):
            pair = [self.entered[contender.number] for contender in (first, second)]
            both = self.trials.together(*(candidate.change for candidate in pair))
            if not self.trials.affords(3) or not self.trials.run(both):
                continue
            if not verdict.pair_counts(self.trials.removed(both)) or not self._run_other_seeds(both):
                continue
            if self.trials.effect(both).proven:
                pair.sort(key=lambda candidate: self.order.index(candidate.cause))
                named = verdict.named_of_pair([candidate.cause for candidate in pair])
                return [proof(self.trials, replace(one, change=both)) for one in pair if one.cause in named]
        return []
