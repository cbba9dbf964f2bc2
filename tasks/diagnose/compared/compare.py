"""Which differences of two runs make one end with a higher loss: they are taken back within a budget of rounds."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.diagnose.compared.comparison import (
    NO_SEEDS,
    NOT_CONFIRMED,
    NOT_REPLAYED,
    TOO_LITTLE,
    Comparison,
    Outcome,
    is_worse,
    mean_over_seeds,
)
from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.compared.mixtures import Mixtures
from tasks.diagnose.compared.search import responsible
from tasks.diagnose.replay.effect import Effect, ln
from tasks.diagnose.standing.ends import ending_of, mean_at_end, noise_of
from tasks.diagnose.thresholds import MORE
from tasks.diagnose.verdict import SEEDS
from tasks.errors import RunError

_log = logging.getLogger(__name__)

_MOST_CAUSES = 2
"""Most causes that are looked for: one more is looked for beyond those that are proven."""


@dataclass
class _Search:
    mixed: Mixtures
    found: list[Difference]
    significance: float
    allowed: int

    def end(self, taken_back: Collection[Difference], seed: int) -> float | None:
        """The loss at the end; None if it cannot be run, or if the budget ended."""
        if not self.mixed.knows(taken_back, seed) and self.mixed.spent + self.rounds_of(taken_back) > self.allowed:
            return None
        losses = self.mixed.losses(taken_back, seed)
        return None if losses is None else mean_at_end(losses)

    def ends(self, taken_back: Collection[Difference]) -> tuple[float, ...] | None:
        """The loss at the end by seed; None if not all are known."""
        found = [self.end(taken_back, seed) for seed in range(SEEDS)]
        known = [each for each in found if each is not None]
        return tuple(known) if len(known) == SEEDS else None

    def rounds_of(self, taken_back: Collection[Difference]) -> int:
        """The most rounds of a replay: the other run can have more, and with early stopping a run ends before them."""
        named = (each.settings.get("federate.rounds") for each in taken_back)
        own = self.mixed.this.settings.federate.rounds
        return next((int(rounds) for rounds in named if rounds is not None), own)

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
    screened: bool = False,
) -> Comparison:
    """Returns what `diagnose --against` answers.

    Args:
        mixed: of the two runs.
        found: their differences that can be taken back.
        last: the last round of this run.
        other_ends: the other run's losses at its end by seed, if they are known; None: they are measured.
        budget: replays of the whole run that may be spent on one half of the differences, over 1.
        significance: the probability that one of two equal runs is called worse.
        screened: whether to stop before this run is run with more seeds, if it does not end higher than the other run
            by more than one standard deviation of the other run's seeds. Most runs of a schedule end there, for few
            replays or none.

    Raises:
        UndriftError: one of the two runs cannot be run again.
    """
    # Halves of N differences: log2 N times both halves, then their seeds. The seeds of the two runs come on top.
    halvings = 1 + int(np.ceil(np.log2(max(len(found), 1))))
    rounds, search = ending_of(last), _Search(mixed, found, significance, 0)
    of_both = search.rounds_of(()), search.rounds_of(found)
    search.allowed = allowed = int(np.ceil(max(of_both) * budget * halvings)) + SEEDS * sum(of_both)
    if screened and (passed := _passed(search, other_ends)):
        ends = (rounds[0], rounds[-1])
        return Comparison(*passed, search.curve(()), False, ends, spent=mixed.spent, allowed=allowed)
    if screened:
        _log.info("the loss is higher: replays look for the cause, in %d rounds at most", allowed - mixed.spent)
    this = _known(search, ())
    other = tuple(other_ends) if other_ends is not None else _known(search, found)
    curve = search.curve(())
    answer = Comparison(this, other, curve, is_worse(this, other, significance), (rounds[0], rounds[-1]))
    if answer.worse:
        answer = _explained(search, answer)
    return replace(answer, spent=mixed.spent, allowed=allowed)


def _passed(search: _Search, other_ends: Sequence[float] | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """How both runs end, by seed, if this one does not end higher beyond one standard deviation; None if it may."""
    this = search.end((), 0)
    if this is None:
        return None
    if other_ends is None and search.mixed.knows(search.found, 0):
        logged = search.end(search.found, 0)
        if logged is not None and this <= logged:
            return (this,), (logged,)
    if other_ends is None:
        _log.info("the loss ends at %.4g: %s runs with other seeds, for its noise", this, search.mixed.other.name)
    other = tuple(other_ends) if other_ends is not None else _known(search, search.found)
    gap = ln(this) - ln(mean_over_seeds(other))
    return ((this,), other) if gap <= 0 or gap <= noise_of(other) else None


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
        gap = float(np.log(mean_over_seeds(before) / answer.reference))
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
        why = search.mixed.refused.get(frozenset(taken), NO_SEEDS)
        return Outcome(cause, (), search.curve(taken), base, Effect(()), why)
    effect = Effect(tuple((ln(a) - ln(b)) / gap for a, b in zip(before, ends, strict=True)))
    proven = effect.proven and is_worse(before, ends, search.significance)
    return Outcome(cause, ends, search.curve(taken), base, effect, "" if proven else NOT_CONFIRMED)
