"""Replays from round 1 that decide about each suspicion of a run in which nothing rose."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.diagnose.causes import Candidate, Remedy
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.changed_data import data_changed
from tasks.diagnose.evidence.sent_otherwise import SentOtherwise, sent_otherwise
from tasks.diagnose.hold_out import prove_hold_out_shift
from tasks.diagnose.investigation import Investigation, LongReplay, Proof, Standing, Tried
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.phrases import every_client
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.standing.against import against
from tasks.diagnose.standing.contest import Contest
from tasks.diagnose.standing.ends import Ends, best_of, needed
from tasks.diagnose.standing.look import Looked
from tasks.diagnose.standing.said import SETTINGS, observed
from tasks.diagnose.standing.suspicion import Option, Suspicion, of_clients
from tasks.diagnose.verdict import SEEDS
from tasks.diagnose.window import allowed_rounds, chance_loss, training_loss
from tasks.local.probe import Probe

NO_LOWER = "the loss ends no lower"
HALFWAY = "halfway, the loss is clearly higher, so it was not run to the end"
WITHIN_NOISE = "the loss ends lower by no more than the noise of seeds"
TOO_LITTLE = (
    "the loss ends lower, but by less than a third: another choice of a setting nearly always changes that much"
)
OTHERS_WORSE = "the loss on the other clients' data ends higher"
NOT_REPLAYED = "the budget ended before its replay"
REFUSED = "the run's other settings or its data do not allow its replay"
ONE_SEED = "the budget ended before other seeds confirmed it"


def searched(looked: Looked, empty: Investigation, cache: ComputationCache) -> Investigation:
    """Returns what replays from round 1 say of each suspicion.

    Args:
        looked: what was looked at.
        empty: the answer without a suspicion.
        cache: of computations.

    Raises:
        UndriftError: the replays cannot begin.
    """
    with replayer(looked.settings, looked.workspace, cache) as replays:
        replays.go_to(0)
        return _Search(looked).result(replays, empty)


@dataclass
class _Search:
    """The suspicions of one run, and what came of them."""

    looked: Looked
    proven: list[tuple[Suspicion, Proof, Tried | None]] = field(default_factory=list)
    refuted: list[Proof] = field(default_factory=list)
    open: list[Proof] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    ends: Ends | None = None

    def result(self, replays: Replayer, empty: Investigation) -> Investigation:
        """Returns what replays from round 1 say of each suspicion."""
        looked = self.looked
        # A client whose data are wrong sends odd updates because of them.
        odd = [client for client in looked.odd if client not in looked.examination.suspects]
        otherwise = sent_otherwise(replays, looked.log, odd) if odd else SentOtherwise(0, {}, frozenset())
        since, sent = otherwise.since, otherwise.by_client
        num_clients = len(looked.sites.checked_in.clients)
        suspicions = [
            *of_clients(looked.examination, looked.settings, sent, since, num_clients),
            *looked.choices,
        ]
        # Other seeds come on top, and what was spent on the evidence: without that, the last run would not fit.
        of_seeds = 2 * (SEEDS - 1) * looked.last
        allowed = replays.spent + allowed_rounds(looked.settings.diagnose.budget, looked.last) + of_seeds
        since = min((each.since for each in suspicions if not each.choice), default=1)
        contest = Contest(replays, looked.logged, looked.last, allowed, since)
        if data_changed(looked.settings, looked.workspace) or not {*contest.ending} <= {*looked.logged}:
            contest.logged = {}  # other data, or a loss at the end that was not measured in the same rounds
        not_examined = list(empty.not_examined)
        if unknown := [client for client in odd if client not in otherwise.compared]:
            not_examined.append(
                f"The updates of {every_client(unknown)}, which are odd in the log: no round that can be run again "
                "tells what training on their data gives."
            )
        if looked.hold_out_is_odd:
            proof, _ = prove_hold_out_shift(replays, Probe(replays.model), 0, max(1, looked.last // 2))
            if proof is not None:
                return self._of_hold_out(proof, contest, empty)
        if not suspicions:
            return replace(empty, not_examined=tuple(not_examined), spent=replays.spent, allowed=allowed)
        base, looked_for = NO_CHANGE, empty.looked_for
        for suspicion in suspicions:
            if suspicion.choice and any(not proven.choice for proven, _, _ in self.proven):
                # One more run for each setting that nothing speaks for beside the clients' fault.
                not_examined.append(f"{SETTINGS} A cause that is none of the settings was proven first.")
                looked_for = tuple(sentence for sentence in looked_for if sentence != SETTINGS)
                break
            base = self._enter(contest, suspicion, base)
        blamed = {client for _, proof, _ in self.proven for client in proof.candidate.clients}
        return replace(
            empty,
            observations=tuple(self._unblamed(suspicions, sent, blamed)),
            causes=tuple(proof for _, proof, _ in self.proven),
            ruled_out=tuple(self.refuted),
            not_finished=tuple(self.open),
            tried=tuple(self.tried),
            proposed={s.cause: tried for s, _, tried in self.proven if tried is not None},
            spent=replays.spent,
            allowed=allowed,
            seeds=max((proof.seeds for _, proof, _ in self.proven), default=1),
            standing=self._standing(contest, base),
            chance=chance_loss(replays.cohort.test_y),
            looked_for=looked_for,
            not_examined=tuple(not_examined),
        )

    def _unblamed(
        self, suspicions: Sequence[Suspicion], sent: Mapping[str, Indication], blamed: Collection[str]
    ) -> Iterator[ClientSignal]:
        """What speaks against the suspected clients that are not blamed."""
        examined = self.looked.examination.clients
        for suspicion in suspicions:
            for client in suspicion.clients:
                if client in blamed:
                    continue
                data = against(examined[client]) if client in examined and examined[client].is_suspect else ()
                updates = [sent[client]] if client in sent else []
                yield from observed(client, (*data, *updates), (suspicion.since, self.looked.last))

    def _enter(self, contest: Contest, suspicion: Suspicion, base: Change) -> Change:
        """Replays a suspicion beyond `base`; returns the base of the next one, which has the change if it is proven."""
        options = [] if suspicion.change else list(suspicion.options)
        changes = {option.change.says: _beyond(base, option.change) for option in options}
        falls: list[tuple[Option, float]] = []
        if suspicion.change is not None:
            change = _beyond(base, suspicion.change)
            fall = contest.promises(change, base)
        else:
            for option in options:
                promised = contest.promises(changes[option.change.says], base)
                if promised is not None:
                    falls.append((option, promised))
                if len(falls) > 1 and falls[-1][1] < falls[-2][1]:
                    break
            fall = max((each for _, each in falls), default=None)
            best = best_of(falls) if falls else options[0]
            change = changes[best.change.says]
        if fall is None:
            why = REFUSED if contest.affords(1) else NOT_REPLAYED
            self.open.append(self._proof(contest, suspicion, change, base, Effect(()), why))
            return base
        if fall <= needed(suspicion.choice):
            why = NO_LOWER if fall <= needed(False) else TOO_LITTLE
            why = why if contest.is_run(change) else HALFWAY
            self.refuted.append(self._proof(contest, suspicion, change, base, Effect(()), why))
            return base
        ends = contest.ends(change, base)
        if ends is None:
            self.open.append(self._proof(contest, suspicion, change, base, Effect(()), ONE_SEED))
            return base
        if not ends.beyond_noise(needed(suspicion.choice)):
            self.refuted.append(self._proof(contest, suspicion, change, base, Effect(()), WITHIN_NOISE))
            return base
        if suspicion.clients and not self._others_gain(contest, suspicion, change, base, ends):
            self.refuted.append(self._proof(contest, suspicion, change, base, Effect(()), OTHERS_WORSE))
            return base
        proof = self._proof(contest, suspicion, change, base, ends.effect)
        tried = [
            _tried(contest, suspicion, option.remedy, changes[option.change.says], base, ends, option is best)
            for option, _ in falls
            if contest.is_run(changes[option.change.says])  # one that was worse halfway ended there
        ]
        if suspicion.change is not None:
            tried = self._remedies(contest, suspicion, base, ends)
        tried.sort(key=lambda each: -each.recovers)
        proposed = next((each for each in tried if each.confirmed), None)
        self.tried += tried
        self.proven.append((suspicion, proof, proposed))
        self.ends = self.ends or ends
        return change

    def _remedies(self, contest: Contest, suspicion: Suspicion, base: Change, ends: Ends) -> list[Tried]:
        """The remedies of a cause that was proven by something that is no setting, with the run's own seed."""
        tried = []
        for option in suspicion.options:
            change = _beyond(base, option.change)
            if contest.promises(change, base) is not None and contest.is_run(change):
                tried.append(_tried(contest, suspicion, option.remedy, change, base, ends, False))
        return tried

    def _others_gain(self, contest: Contest, suspicion: Suspicion, change: Change, base: Change, ends: Ends) -> bool:
        """Whether the loss on the other clients' own data ends no higher, apart from the noise of seeds."""
        others = contest.loss_of_others(change, suspicion.clients)
        before = contest.loss_of_others(base, suspicion.clients) or self._logged_others(contest, suspicion.clients)
        return others is None or before is None or bool(np.log(others / before) <= ends.noise)

    def _logged_others(self, contest: Contest, clients: tuple[str, ...]) -> float | None:
        known = {
            at: loss for at in contest.ending if (loss := training_loss(self.looked.log, [at], clients)) is not None
        }
        return contest.end(known) if known else None

    def _proof(
        self, contest: Contest, suspicion: Suspicion, change: Change, base: Change, effect: Effect, why: str = ""
    ) -> Proof:
        candidate = Candidate(suspicion.cause, change, suspicion.clients, fault=suspicion.fault)
        replayed = change is not base and contest.series(change) != ()
        return Proof(
            candidate,
            effect,
            "val_loss",
            contest.series(base) if replayed else (),
            contest.series(change) if replayed else (),
            evidence=suspicion.evidence,
            why=why,
            since=suspicion.since,
        )

    def _standing(self, contest: Contest, base: Change) -> Standing:
        rounds = contest.ending[0], contest.ending[-1]
        if self.ends is None:
            return Standing(contest.end(contest.run(NO_CHANGE) or {}), None, None, rounds)
        loss = float(np.exp(np.mean(np.log(self.ends.without))))
        reference = contest.end(dict(enumerate(contest.series(base), start=1)))
        return Standing(loss, reference, self.ends.noise * loss, rounds)

    def _of_hold_out(self, proof: Proof, contest: Contest, empty: Investigation) -> Investigation:
        rounds = contest.ending[0], contest.ending[-1]
        standing = Standing(contest.end(self.looked.logged), proof.with_change[-1], None, rounds)
        return replace(
            empty,
            causes=(proof,),
            spent=contest.replays.spent,
            allowed=contest.allowed,
            seeds=proof.seeds,
            standing=standing,
        )


def _beyond(base: Change, change: Change) -> Change:
    return change if base is NO_CHANGE else base | change


def _tried(
    contest: Contest, suspicion: Suspicion, remedy: Remedy, change: Change, base: Change, ends: Ends, is_proof: bool
) -> Tried:
    """What a replay from round 1 says of a remedy: with all seeds if it is the proof, else with the run's own."""
    with_it, without = contest.end(contest.run(change) or {}), contest.end(contest.run(base) or {})
    over = tuple(-fall for fall in ends.falls) if is_proof else (float(np.log(with_it / without)),)
    chance = chance_loss(contest.replays.cohort.test_y)
    recovers = float(np.clip(-np.mean(over) / ends.fall, -1, 1))
    ending = LongReplay(
        0, contest.last, with_it, without, bool(contest.logged), over, recovers, with_it < chance, recovered=True
    )
    return Tried(remedy, recovers, with_it, (suspicion.cause,), ending)
