"""Does a run end with a higher loss than another one, beyond the noise of seeds, and which difference takes it away?"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.compared.mixtures import Mixtures
from tasks.diagnose.compared.search import responsible
from tasks.diagnose.replay.effect import Effect, ln
from tasks.diagnose.standing.ends import ending_of, mean_loss, noise_of
from tasks.diagnose.thresholds import MORE
from tasks.diagnose.verdict import SEEDS
from tasks.errors import RunError

NOT_REPLAYED = "the budget ended before its replay"
TOO_LITTLE = "less than half of the difference of the losses goes away"
NOT_CONFIRMED = "other seeds do not confirm it"
NO_SEEDS = "the budget ended before other seeds confirmed it"
_MOST_CAUSES = 2
"""Most causes that are looked for: one more is looked for beyond those that are proven."""


@dataclass(frozen=True)
class Outcome:
    """What taking back one or several differences showed.

    Attributes:
        differences: that were taken back together.
        by_seed: hold-out loss at the end by seed, nats per example, beyond the causes that were proven before.
        curve: hold-out loss by round, mean over the seeds, nats per example.
        beyond: the differences that were taken back before.
        effect: the share of the gap that goes away.
        why: why it is no cause; empty if it is one.
    """

    differences: tuple[Difference, ...]
    by_seed: tuple[float, ...]
    curve: tuple[float, ...]
    beyond: tuple[Difference, ...]
    effect: Effect
    why: str = ""

    @property
    def ends_at(self) -> float:
        """Geometric mean over the seeds."""
        return _mean(self.by_seed)


@dataclass(frozen=True)
class Comparison:
    """This run beside another one.

    Attributes:
        this: hold-out loss at the end by seed, nats per example: geometric mean of the last rounds.
        other: the same of the other run, with the hold-out data of this one.
        curve: hold-out loss by round of this run, mean over the seeds.
        worse: whether this run ends higher beyond the noise of seeds.
        rounds: at the end of this run, first and last.
        causes: proven, the first one first.
        ruled_out: taken back in a replay, and no cause.
        not_finished: of which it is not known, each with its reason.
        spent: rounds of replays.
        allowed: rounds that they may take.
    """

    this: tuple[float, ...]
    other: tuple[float, ...]
    curve: tuple[float, ...]
    worse: bool
    rounds: tuple[int, int]
    causes: tuple[Outcome, ...] = ()
    ruled_out: tuple[Outcome, ...] = ()
    not_finished: tuple[Outcome, ...] = ()
    spent: int = 0
    allowed: int = 0

    @property
    def loss(self) -> float:
        """Of this run, geometric mean over the seeds."""
        return _mean(self.this)

    @property
    def reference(self) -> float:
        """Of the other run, geometric mean over the seeds."""
        return _mean(self.other)

    @property
    def noise(self) -> float:
        """Standard deviation of the other run's log loss over its seeds, times its loss: nats per example."""
        return noise_of(self.other) * self.reference


def _mean(losses: Sequence[float]) -> float:
    return float(np.exp(np.mean([ln(loss) for loss in losses])))


def is_worse(this: Sequence[float], other: Sequence[float], significance: float) -> bool:
    """Returns whether a run ends with a higher loss than another one, beyond the noise of seeds.

    One-sided t-test of Welch (1947) of the log losses over the seeds. A run with one known loss is taken to vary like
    the other one. If no seed differs from another, any higher loss is worse.

    Args:
        this: losses at the end by seed, nats per example.
        other: the same of the other run.
        significance: the probability that one of two equal runs is called worse.
    """
    a, b = ([ln(loss) for loss in losses] for losses in (this, other))
    gap = float(np.mean(a) - np.mean(b))
    of_both = [float(np.var(each, ddof=1)) for each in (a, b) if len(each) > 1]
    va, vb = (
        (float(np.var(each, ddof=1)) if len(each) > 1 else max(of_both, default=0.0)) / len(each) for each in (a, b)
    )
    if gap <= 0 or va + vb == 0:
        return gap > 0
    parts = [(v, len(each) - 1) for v, each in ((va, a), (vb, b)) if v > 0 and len(each) > 1]
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / degrees for v, degrees in parts)
    return bool(gap / np.sqrt(va + vb) > student.isf(significance, freedom))


@dataclass
class _Search:
    mixed: Mixtures
    found: list[Difference]
    last: int
    significance: float
    allowed: int

    def end(self, taken_back: Collection[Difference], seed: int) -> float | None:
        """The loss at the end; None if it cannot be run, or if the budget ended."""
        if not self.mixed.knows(taken_back, seed) and self.mixed.spent + self.last > self.allowed:
            return None
        losses = self.mixed.losses(taken_back, seed)
        return None if losses is None else mean_loss(losses, ending_of(max(losses)))

    def ends(self, taken_back: Collection[Difference]) -> tuple[float, ...] | None:
        """The loss at the end by seed; None if not all are known."""
        found = [self.end(taken_back, seed) for seed in range(SEEDS)]
        known = [each for each in found if each is not None]
        return tuple(known) if len(known) == SEEDS else None

    def curve(self, taken_back: Collection[Difference]) -> tuple[float, ...]:
        """The loss by round, mean over the seeds that were run."""
        runs = [self.mixed.losses(taken_back, seed) for seed in range(SEEDS) if self.mixed.knows(taken_back, seed)]
        known = [run for run in runs if run]
        last = min((max(run) for run in known), default=0)
        return tuple(float(np.mean([run.get(at, np.nan) for run in known])) for at in range(1, last + 1))


def compare(
    mixed: Mixtures,
    found: list[Difference],
    last: int,
    other_ends: Sequence[float] | None,
    budget: float,
    significance: float,
) -> Comparison:
    """Returns what `diagnose --against` answers.

    Args:
        mixed: of the two runs.
        found: their differences that can be taken back.
        last: the last round of this run.
        other_ends: the other run's losses at its end by seed, if they are known; None: they are measured.
        budget: replays of the whole run that may be spent on one half of the differences, over 1.
        significance: the probability that one of two equal runs is called worse.

    Raises:
        UndriftError: one of the two runs cannot be run again.
    """
    # Halves of N differences: log2 N times both halves, then their seeds. The seeds of the two runs come on top.
    halvings = 1 + int(np.ceil(np.log2(max(len(found), 1))))
    allowed = int(np.ceil(last * (budget * halvings + 2 * SEEDS)))
    search = _Search(mixed, found, last, significance, allowed)
    this = _known(search, ())
    other = tuple(other_ends) if other_ends is not None else _known(search, found)
    curve, rounds = search.curve(()), ending_of(last)
    answer = Comparison(this, other, curve, is_worse(this, other, significance), (rounds[0], rounds[-1]))
    if answer.worse:
        answer = _explained(search, answer)
    return replace(answer, spent=mixed.spent, allowed=allowed)


def _known(search: _Search, taken_back: Collection[Difference]) -> tuple[float, ...]:
    ends = search.ends(taken_back)
    if ends is None:
        reason = search.mixed.refused.get(frozenset(taken_back), "the budget ended")
        raise RunError(f"the run cannot be run again: {reason}")
    return ends


def _explained(search: _Search, answer: Comparison) -> Comparison:
    """The answer with the causes, one after the other, each beyond those before."""
    causes: list[Outcome] = []
    outcomes: dict[tuple[Difference, ...], Outcome] = {}
    gap = float(np.log(answer.loss / answer.reference))
    base: tuple[Difference, ...] = ()
    before = answer.this
    while len(causes) < _MOST_CAUSES:
        left = [each for each in search.found if each not in base]
        share = _shares(search, base, before, gap, outcomes)
        cause = responsible(left, share)
        if not cause:
            break
        confirmed = _confirmed(search, tuple(cause), base, before, gap)
        if confirmed.why:
            outcomes[tuple(cause)] = confirmed
            break
        causes.append(confirmed)
        base, before = (*base, *cause), confirmed.by_seed
        gap = float(np.log(_mean(before) / answer.reference))
        if gap <= MORE or not is_worse(before, answer.other, search.significance):
            break
    named = {each for cause in causes for each in cause.differences}
    # What was taken back together with a cause shows nothing of the others.
    tried = [each for each in outcomes.values() if not named & {*each.differences}]
    open_ = {NOT_REPLAYED, NO_SEEDS}
    return replace(
        answer,
        causes=tuple(causes),
        ruled_out=tuple(each for each in tried if each.why not in open_ and len(each.by_seed)),
        not_finished=tuple(each for each in tried if each.why in open_ or not each.by_seed),
    )


def _shares(
    search: _Search,
    base: tuple[Difference, ...],
    before: tuple[float, ...],
    gap: float,
    outcomes: dict[tuple[Difference, ...], Outcome],
) -> Callable[[Sequence[Difference]], float | None]:
    """(differences) -> the share of the gap that goes away beyond `base`, with seed 0; noted in `outcomes`."""

    def share(items: Sequence[Difference]) -> float | None:
        key = tuple(items)
        taken = (*base, *items)
        end = search.end(taken, 0)
        if end is None:
            why = search.mixed.refused.get(frozenset(taken), NOT_REPLAYED)
            outcomes[key] = Outcome(key, (), (), base, Effect(()), why)
            return None
        removed = (ln(before[0]) - ln(end)) / gap
        outcomes[key] = Outcome(key, (end,), search.curve(taken), base, Effect((removed,)), TOO_LITTLE)
        return removed

    return share


def _confirmed(
    search: _Search,
    cause: tuple[Difference, ...],
    base: tuple[Difference, ...],
    before: tuple[float, ...],
    gap: float,
) -> Outcome:
    """The outcome of taking back a possible cause over all seeds."""
    taken = (*base, *cause)
    ends = search.ends(taken)
    if ends is None:
        return Outcome(cause, (), search.curve(taken), base, Effect(()), NO_SEEDS)
    effect = Effect(tuple((ln(a) - ln(b)) / gap for a, b in zip(before, ends, strict=True)))
    proven = effect.proven and is_worse(before, ends, search.significance)
    return Outcome(cause, ends, search.curve(taken), base, effect, "" if proven else NOT_CONFIRMED)
