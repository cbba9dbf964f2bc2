"""The tournament: every possible cause is taken away in a replay, and what removes the rise is the cause."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.detection import Increase
from tasks.diagnose.causes import CAUSES, Candidate, Remedy, candidates, order, remedies
from tasks.diagnose.evidence.collect import Captured, capture, find, harmful
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Investigation, Proof, Tried
from tasks.diagnose.replay.change import NOTHING, Change
from tasks.diagnose.replay.effect import Effect, height, removed
from tasks.diagnose.replay.engine import Course, Replayer, replayer
from tasks.diagnose.replay.examine import Probe
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.thresholds import (
    HALF_OF_THE_REST,
    HOPELESS,
    LASTING,
    MARGIN,
    MORE,
    NOTHING_HALFWAY,
    PROVEN,
    REMAINS,
    REPRODUCED,
    REST,
    STEEP,
    TOGETHER,
)
from tasks.errors import SettingsError
from tasks.round_log.read import ClientLog
from tasks.settings import Settings

_log = logging.getLogger(__name__)

SEEDS = 3
_EXPLAINED = 15
"""Rounds that are explained at least, for the budget's sake: a spike of one round too needs a replay or two."""
_BEFORE = 4
"""Rounds before the rise whose training loss is that before it."""
_LEAST, _MOST = 3, 12
"""Rounds of the rise that a replay runs at least, and rounds that it has at most."""


@dataclass(frozen=True)
class Rise:
    """What is to be explained.

    Attributes:
        increase: as detected.
        loss: column that it was detected in, `val_loss` or `train_loss`.
        rounds: (R,) rounds in which that was measured.
        losses: (R,) its values.
        trends: ln of the mean of the rise's second half over that of its first, of training and hold-out loss.
        sound_after: last round after which the model was sound.
        hidden: the clients whose own loss rose, where that of all hides it: only the rounds count in which one of them
            took part.
    """

    increase: Increase
    loss: str
    rounds: NDArray[np.int64]
    losses: NDArray[np.float64]
    trends: tuple[float, float]
    sound_after: int
    hidden: tuple[str, ...] = ()


def investigate(settings: Settings, folder: Path, what: Rise, clients: ClientLog, budget: float) -> Investigation:
    """Replays the rise with one factor after the other changed.

    Args:
        settings: of the run.
        folder: its workspace.
        what: the rise.
        clients: clients.csv.
        budget: rounds that the replays for causes may take, over the rounds that they explain.

    Raises:
        UndriftError: the data are missing, or the replays cannot begin.
    """
    assert what.increase.round is not None
    with replayer(settings, folder) as replays:
        replays.go_to(what.sound_after)
        return _Case(replays, what, clients, budget).solve()


@dataclass
class _Seat:
    """A candidate in the tournament, with its replays by seed."""

    candidate: Candidate
    courses: dict[int, Course] = field(default_factory=dict)


class _Case:
    def __init__(self, replays: Replayer, what: Rise, clients: ClientLog, budget: float) -> None:
        rise, loss = what.increase, what.loss
        assert rise.round is not None
        assert rise.until is not None
        self._replays, self._rise, self._loss, self._log = replays, rise, loss, clients
        self._other = "train_loss" if loss == "val_loss" else "val_loss"
        self._probe = Probe(replays.model)
        self._rounds, self._losses, self._trends = what.rounds, what.losses, what.trends
        self._first, self._alarm = rise.round, min(rise.alarm or rise.round, rise.until)
        self._until = min(rise.until, replays.phase.last)
        self._hidden = what.hidden
        self._telling = _telling(clients, what.hidden)
        self._allowed = round(budget * max(self._until - replays.from_round, _EXPLAINED))
        self._last = replays.phase.last
        self._baselines: dict[int, Course] = {}
        self._seats: list[_Seat] = []
        self._both: dict[frozenset[int], _Seat] = {}
        levels = [rise.loss_before, replays.loss if loss == "val_loss" else None]
        self._level = min(level for level in levels if level is not None)
        self._order: tuple[str, ...] = ()
        self._steep = False

    def solve(self) -> Investigation:
        sent = capture(self._replays, self._alarm)
        findings = find(self._replays, self._probe, sent, self._log, self._first)
        train, held_out = self._trends
        findings = self._acquit(replace(findings, train_trend=train, val_trend=held_out), sent)
        self._order = order(findings)
        self._steep = findings.steepness > STEEP
        proposed = candidates(findings, self._replays.settings, self._replays.from_round)
        self._last = self._window_for(len(proposed))
        if self._hidden:
            # Of the rounds that are compared: in later ones, the others' loss has fallen on.
            rest = _loss_of_others(self._log, self._hidden, self._first, self._last)
            self._level = self._level if rest is None else rest
        self._baselines[0] = self._replays.unchanged
        self._replays.advance(self._baselines[0], self._last)
        reproduced = self._reproduced()
        proven = self._failures(proposed)
        if proven:
            reproduced = True
        elif reproduced:
            self._enter(proposed)
            proven = self._decide()
        spent = self._replays.spent
        tried, proposed_remedies = self._remedies(proven, findings)
        causes = {proof.candidate.cause for proof in proven}
        out = [self._proof(seat) for seat in self._seats if seat.candidate.cause not in causes]
        return Investigation(
            self._replays.from_round,
            (self._first, self._last),
            reproduced,
            tuple(proven),
            tuple(out),
            tried,
            proposed_remedies,
            findings,
            spent,
            self._allowed,
        )

    def _failures(self, proposed: Sequence[Candidate]) -> list[Proof]:
        """Whether the failures end without the clients that failed: a loss of which they are left out shows nothing."""
        candidate = next((one for one in proposed if one.cause == "non_finite"), None)
        if candidate is None:
            return []
        seat, shares = _Seat(candidate), []
        for seed in range(SEEDS):
            if not self._run(seat, seed):
                return []
            before, after = self._failed(self._baselines[seed]), self._failed(seat.courses[seed])
            if before:
                shares.append(1 - after / before)
        self._seats.append(seat)
        proof = replace(self._proof(seat), effect=Effect(tuple(shares)))
        return [proof] if shares and proof.effect.proven else []

    def _failed(self, course: Course) -> int:
        """Failed clients in the rounds of the window; a replay that has broken down counts as all of them."""
        lines = [line for line in course.lines if self._first <= line["round"] <= self._last]
        failed = [int(line["row"]["num_failed"]) for line in lines]
        return sum(failed) + course.broken * len(self._replays.cohort.clients)

    def _window_for(self, num_candidates: int) -> int:
        """The last round of a replay: all candidates, a second cause and the other seeds fit into the budget."""
        begin, courses = self._replays.from_round, 3 + num_candidates + 2 * (SEEDS - 1)
        longest = begin + min(_MOST, self._allowed // courses)
        clear = min(self._alarm, self._half_risen(), begin + _MOST)
        latest = max(min(longest, self._until), clear, self._first + _LEAST - 1)
        return min(latest, self._replays.phase.last)

    def _half_risen(self) -> int:
        """The round in whose loss half of the rise is seen, which may be before it is sure that there is one."""
        after = self._rise.loss_after
        if self._hidden or after is None:
            return self._alarm
        half = 0.5 * height([after], self._level)
        seen = [
            int(r)
            for r, loss in zip(self._rounds, self._losses, strict=True)
            if r >= self._first and height([loss], self._level) >= half
        ]
        return min(seen, default=self._alarm)

    def _acquit(self, findings: Findings, sent: Captured) -> Findings:
        """Clears suspects whose updates harm the model no more than honest ones do.

        Not those whose data contradict it, whose updates go uphill or alone became longer: one round's harm is small
        beside what honest clients with different data do to each other, and it is the replay that decides.
        """
        suspects = findings.faulty()
        guilty = harmful(self._replays, self._probe, sent, suspects)
        odd = {one.client for one in findings.clients if one.in_conflict or one.uphill or findings.outgrown(one)}
        odd |= {one.client for one in findings.clients if np.isfinite(one.sent_over_trained)}
        return replace(findings, cleared=tuple(c for c in suspects if c not in guilty and c not in odd))

    def _reproduced(self) -> bool:
        """Whether the loss rose again with nothing changed: at its height, half as far as it did in the same rounds."""
        seen = self._window(self._baselines[0])
        after = None if self._hidden else self._rise.loss_after
        whole = height([np.inf if after is None else after], self._level)
        at = {int(r): loss for r, loss in zip(self._rounds, self._losses, strict=True)}
        then = [at[r] for r in self._compared(self._baselines[0]) if r in at]
        logged = max((height([loss], self._level) for loss in then), default=whole)
        return max(height([loss], self._level) for loss in seen) > REPRODUCED * min(whole, logged) > 0

    def _compared(self, course: Course) -> list[int]:
        """The rounds that count, as far as `course` has run."""
        return [r for r in range(self._first, min(self._last, course.next_round - 1) + 1) if r in self._telling]

    def _window(self, course: Course, loss: str = "") -> list[float]:
        losses = course.losses[loss or self._loss]
        return [losses[r - self._replays.from_round - 1] for r in self._compared(course)]

    def _enter(self, proposed: Sequence[Candidate]) -> None:
        """Replays every candidate with the run's own seed; those that the settings do not allow stay out."""
        proposed = [candidate for candidate in proposed if candidate.cause != "non_finite"]
        for candidate in proposed:
            removes = self._seat(candidate)
            if candidate.instead and removes < PROVEN:
                self._seat(replace(candidate, change=candidate.instead))

    def _seat(self, candidate: Candidate) -> float:
        """Replays one candidate, to the end if it is worth it; returns the share of the rise that it removes."""
        seat = _Seat(candidate)
        if not self._run(seat, 0, self._halfway()):
            return 0.0
        best = max([self._removes(one) for one in self._seats], default=0.0)
        evident = CAUSES[candidate.cause].evident
        self._seats.append(seat)
        if self._removes(seat) >= (HOPELESS if evident else max(HOPELESS, best - 2 * MARGIN)):
            self._run(seat, 0)
        return self._removes(seat)

    def _halfway(self) -> int:
        return max(self._first, (self._first + self._last) // 2)

    def _run(self, seat: _Seat, seed: int, until: int | None = None) -> bool:
        """Runs the seat's replay, and that with nothing changed, up to round `until`, or to the window's end."""
        last = self._last if until is None else until
        try:
            course = seat.courses.get(seed) or self._replays.course(seat.candidate.change, seed)
        except SettingsError as exc:
            _log.info("%s: not replayed: %s", seat.candidate.cause, exc)
            return False
        if seed not in seat.courses:
            again = f", seed {seed + 1} of {SEEDS}" if seed else ""
            _log.info("replay from round %d %s%s", self._replays.from_round, seat.candidate.change.says, again)
        if seed not in self._baselines:
            self._baselines[seed] = self._replays.course(NOTHING, seed)
        self._replays.advance(self._baselines[seed], last)
        self._replays.advance(course, last)
        seat.courses[seed] = course
        return True

    def _effect(self, seat: _Seat, loss: str = "") -> Effect:
        level = self._level_of(loss or self._loss) or self._level
        by_seed = [
            _removed(self._window(self._baselines[seed], loss), self._window(course, loss), level)
            for seed, course in sorted(seat.courses.items())
        ]
        # A seed without a rise says nothing about its cause.
        return Effect(tuple(value for value in by_seed if np.isfinite(value)))

    def _removes(self, seat: _Seat, loss: str = "") -> float:
        effect = self._effect(seat, loss)
        return effect.mean if effect.by_seed else 0.0

    def _decide(self) -> list[Proof]:
        left = list(self._seats)
        while (first := self._likeliest(left)) is not None:
            if proven := self._confirmed(first):
                return proven
            left = [seat for seat in left if seat is not first]
            if not self._affords(2):
                break
        # Training that ends before the rise cannot rise: it explains only what nothing else does.
        last = self._first_cause([seat for seat in left if seat.candidate.cause == "overfitting"])
        evident = any(CAUSES[seat.candidate.cause].evident for seat in left)
        if last and not evident and (proven := self._confirmed(last)):
            return proven
        if pair := self._pair():
            return pair
        return self._confirmed(last) if last is not None else []

    def _likeliest(self, seats: Sequence[_Seat]) -> _Seat | None:
        last = [seat for seat in seats if seat.candidate.cause == "overfitting"]
        slower = [seat for seat in seats if seat.candidate.cause == "client_learning_rate"]
        others = [seat for seat in seats if seat not in last and seat not in slower]
        if self._steep:
            return self._first_cause([*others, *slower])
        # Where no step overshoots, a lower rate only puts off what else raises the loss.
        first = self._first_cause(others)
        if first is None and (slow := self._first_cause(slower)):
            return self._first_cause(last) or slow
        if first is not None and CAUSES[first.candidate.cause].skew:
            # A skew that explains less than that the model learns by heart is what lets it do so.
            return self._first_cause([first, *last])
        return first

    def _confirmed(self, first: _Seat) -> list[Proof]:
        """The proof of a cause, and of one beside it if there is one; empty if other seeds do not confirm it."""
        # Before the other seeds of the first, which would use up the budget: one cause may hide another.
        second = self._second(first)
        self._confirm(first)
        if not self._effect(first).proven:
            return []
        if second is None:
            return [self._proof(first)]
        # Data that have changed come before what they always were.
        changed = CAUSES[first.candidate.cause].skew and CAUSES[second.candidate.cause].changed_data
        return [second, self._proof(first)] if changed else [self._proof(first), second]

    def _first_cause(self, seats: Sequence[_Seat]) -> _Seat | None:
        """The most specific of the candidates that remove nearly as much as the best does."""
        known = {id(seat): self._removes(seat) for seat in seats}
        if not known or max(known.values()) < PROVEN:
            return None
        bar = max(PROVEN, max(known.values()) - MARGIN)
        close = [seat for seat in seats if known[id(seat)] >= bar]
        return min(close, key=lambda seat: (self._order.index(seat.candidate.cause), -known[id(seat)]))

    def _confirm(self, seat: _Seat) -> None:
        for seed in range(1, SEEDS):
            # Two seeds that disagree settle nothing: a third does, and costs less than going on to other causes.
            doubtful = seed > 1 and self._effect(seat).mean >= PROVEN and not self._effect(seat).proven
            if seed > 1 and not self._affords(2) and not doubtful:
                break
            self._run(seat, seed)

    def _second(self, first: _Seat) -> Proof | None:
        """The cause whose removal, after the first's, lowers the loss most; None if none lowers it enough.

        Enough is a fifth of the rise; or, of a cause that has its own evidence, a lasting part of the loss, or half of
        what remains of a rise of the other loss: a client rate that makes the hold-out loss explode would otherwise
        hide data that have changed. Else, a cause with evidence whose removal alone takes the rise away as well: it
        took both to raise the loss.
        """
        best: tuple[bool, float, Proof] | None = None
        others = [seat for seat in self._seats if seat.candidate.cause != first.candidate.cause]
        for other in others:
            cause = other.candidate.cause
            # This one, and then two of another seed to confirm the first.
            if not CAUSES[cause].beside_another or not self._affords(3):
                continue
            both = self._together(first, other)
            if not self._run(both, 0, self._halfway()):
                continue
            falls = [self._fall(first, both, loss) for loss in (self._loss, self._other)]
            if (max(falls) if CAUSES[cause].evident else falls[0]) < NOTHING_HALFWAY:
                continue
            self._run(both, 0)
            gain, loss = self._gain(first, both, cause)
            # A lower client rate slows whatever raises the loss: it is the second only where nothing evident is.
            if gain > 0 and (best is None or (CAUSES[cause].evident, gain) > best[:2]):
                best = CAUSES[cause].evident, gain, self._joint(both, other, loss)
        if best:
            return best[2]
        able = {cause for cause, kind in CAUSES.items() if kind.evident or (self._steep and kind.beside_another)}
        alone = [seat for seat in others if seat.candidate.cause in able and self._removes(seat) >= PROVEN]
        return self._proof(max(alone, key=self._removes)) if alone else None

    def _gain(self, first: _Seat, both: _Seat, cause: str) -> tuple[float, str]:
        """The fall of the log loss by which `cause` counts as the second, and of which loss; 0 if it does not."""
        gain = self._fall(first, both, self._loss)
        share = self._removes(both) - self._removes(first)
        if share >= REST or (CAUSES[cause].evident and gain >= LASTING):
            return gain, self._loss
        if CAUSES[cause].evident and self._ends_the_rest(first, both):
            return self._fall(first, both, self._other), self._other
        return 0.0, self._loss

    def _fall(self, one: _Seat, other: _Seat, loss: str) -> float:
        """Mean fall of the log of a loss from the replay of `one` to that of `other`."""
        level = self._level_of(loss)
        if level is None:
            return 0.0
        losses = [self._window(seat.courses[0], loss) for seat in (one, other)]
        before, after = (height(part[: min(map(len, losses))], level) for part in losses)
        return before - after

    def _ends_the_rest(self, first: _Seat, both: _Seat) -> bool:
        """Whether the other loss rose, is still up without the first cause, and comes down without the second, too."""
        level = self._level_of(self._other)
        if level is None or height(self._window(self._baselines[0], self._other), level) < REMAINS:
            return False
        remains = height(self._window(first.courses[0], self._other), level)
        return remains >= REMAINS and self._fall(first, both, self._other) >= max(HALF_OF_THE_REST * remains, LASTING)

    def _level_of(self, loss: str) -> float | None:
        """A loss before the rise; None if that is not known."""
        if loss == self._loss:
            return self._level
        if loss == "val_loss":
            return self._replays.loss
        return _training_loss(self._log, range(self._first - _BEFORE, self._first))

    def _affords(self, courses: int) -> bool:
        return self._replays.spent + courses * (self._last - self._replays.from_round) <= self._allowed

    def _pair(self) -> list[Proof]:
        """Two causes that only together remove the rise."""
        able = sorted(
            (seat for seat in self._seats if seat.candidate.cause != "overfitting"), key=self._removes, reverse=True
        )[:3]
        for i, one in enumerate(able):
            for other in able[i + 1 :]:
                if one.candidate.cause == other.candidate.cause:
                    continue
                both = self._together(one, other)
                if not self._run(both, 0) or self._removes(both) < TOGETHER:
                    continue
                self._confirm(both)
                if self._effect(both).proven:
                    pair = sorted((one, other), key=lambda seat: self._order.index(seat.candidate.cause))
                    return [self._joint(both, seat) for seat in pair]
        return []

    def _together(self, one: _Seat, other: _Seat) -> _Seat:
        """The seat of both changes at once: the same, with what it has run, whenever it is asked for."""
        change = one.candidate.change | other.candidate.change
        return self._both.setdefault(frozenset((id(one), id(other))), _Seat(Candidate("", change)))

    def _joint(self, both: _Seat, one: _Seat, loss: str = "") -> Proof:
        """The proof of one of two causes: what is seen without either."""
        return self._proof(both, loss, replace(one.candidate, change=both.candidate.change))

    def _proof(self, seat: _Seat, loss: str = "", candidate: Candidate | None = None) -> Proof:
        loss, seeds = loss or self._loss, sorted(seat.courses)
        rounds = self._last - self._replays.from_round  # beyond these, the one that changes nothing may have run on
        return Proof(
            candidate or seat.candidate,
            self._effect(seat, loss),
            loss,
            _mean_losses([self._baselines[seed].losses[loss][:rounds] for seed in seeds]),
            _mean_losses([seat.courses[seed].losses[loss][:rounds] for seed in seeds]),
        )

    def _remedies(self, proven: Sequence[Proof], findings: Findings) -> tuple[tuple[Tried, ...], dict[str, Tried]]:
        """The remedies that were tried, the best first, and the one that is proposed against each cause.

        Those of a second cause are tried beside the best of the first, whose cause hides what they do alone; the best
        of them is proposed against both if it takes back clearly more. What takes nothing back is not proposed.
        """
        if not proven:
            return (), {}
        first, others = proven[0], proven[1:]
        alone = self._best_first(self._trials(self._fitting(first, findings)), [first])
        best = alone[:1]
        tried = [self._tried(*one, first, [first]) for one in alone]
        against = {first.candidate.cause: tried[0]} if tried else {}
        for second in others:
            options = self._fitting(second, findings)
            both = [best[0][0] | one for one in options] if best else options
            beside = self._best_first(self._trials(filter(None, both)), proven)
            told = [self._tried(*one, first, proven if best else [second]) for one in beside]
            gains = [self._takes_back(seat, proven) for _, seat in (*beside[:1], *best)]
            if beside and (not best or gains[0] >= gains[1] + MORE):
                against |= dict.fromkeys(told[0].against, told[0])
            tried += told
        ranked = sorted(tried, key=lambda one: -round(one.recovers, 2))
        return tuple(ranked), {cause: one for cause, one in against.items() if round(one.recovers, 2) > 0}

    def _fitting(self, proof: Proof, findings: Findings) -> list[Remedy]:
        cause, clients = proof.candidate.cause, proof.candidate.clients
        return remedies(cause, self._replays.settings, clients, findings, self._replays.from_round)

    def _trials(self, proposed: Iterable[Remedy]) -> list[tuple[Remedy, _Seat]]:
        """The replays of the remedies that the settings allow."""
        found = []
        for remedy in proposed:
            surgery = {"features standardised by each client": features_aligned} if remedy.aligned else {}
            seat = _Seat(Candidate("", Change(remedy.says, remedy.settings, surgery=surgery)))
            if self._run(seat, 0):
                found.append((remedy, seat))
        return found

    def _best_first(
        self, trials: Sequence[tuple[Remedy, _Seat]], proven: Sequence[Proof]
    ) -> list[tuple[Remedy, _Seat]]:
        # Below the level before the rise there is nothing left to take back: then the most fitting stays first.
        return sorted(trials, key=lambda one: -round(self._takes_back(one[1], proven), 2))

    def _takes_back(self, seat: _Seat, proven: Sequence[Proof]) -> float:
        """The share of the rise that is gone, the mean over the losses by which the causes are proven.

        Of failures, of which no loss need show anything, the share that is gone of these.
        """
        if any(proof.candidate.cause == "non_finite" for proof in proven):
            return 1 - self._failed(seat.courses[0]) / max(1, self._failed(self._baselines[0]))
        losses = dict.fromkeys([self._loss, *(proof.loss for proof in proven)])
        return float(np.mean([self._removes(seat, loss) for loss in losses]))

    def _tried(self, remedy: Remedy, seat: _Seat, first: Proof, against: Sequence[Proof]) -> Tried:
        loss = float(np.mean(self._window(seat.courses[0])))
        return Tried(remedy, self._takes_back(seat, [first]), loss, tuple(proof.candidate.cause for proof in against))


def _removed(without: Sequence[float], with_change: Sequence[float], level: float) -> float:
    rounds = min(len(without), len(with_change))
    return removed(without[:rounds], with_change[:rounds], level)


def _telling(log: ClientLog, hidden: tuple[str, ...]) -> set[int]:
    """The rounds in which one of `hidden` took part; all if there is none."""
    if not hidden:
        return set(log.rounds.tolist())
    return set(log.rounds[log.of(*hidden)].tolist())


def _loss_of_others(log: ClientLog, hidden: tuple[str, ...], first: int, last: int) -> float | None:
    """The training loss without the hidden clients, in the rounds in which one took part; None if there were no others.

    A loss that rose for a few only lies above that; the rounds before may have been of other clients.
    """
    return _training_loss(log, [r for r in _telling(log, hidden) if first <= r <= last], hidden)


def _training_loss(log: ClientLog, rounds: Iterable[int], without: tuple[str, ...] = ()) -> float | None:
    """The training loss as in rounds.csv, its geometric mean over `rounds`, without some clients; None if not known."""
    weights = log.signals.get("weight", log.signals.get("num_examples", np.ones(len(log.rounds))))
    losses = log.signals.get("loss_before", np.full(len(log.rounds), np.nan))
    usable = ~log.of(*without) & ~log.failed & np.isfinite(losses) & (losses > 0) & (weights > 0)
    rows = [(log.rounds == round_num) & usable for round_num in rounds]
    means = [np.average(losses[at], weights=weights[at]) for at in rows if at.any()]
    return float(np.exp(np.mean(np.log(means)))) if means else None


def _mean_losses(courses: Sequence[Sequence[float]]) -> tuple[float, ...]:
    rounds = min(len(losses) for losses in courses)
    return tuple(float(value) for value in np.mean([losses[:rounds] for losses in courses], axis=0))
