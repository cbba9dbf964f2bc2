"""From a rise to its proven causes and their remedies: evidence, candidates, replays, verdict, treatment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tasks.diagnose import before, hold_out, verdict
from tasks.diagnose.causes import Candidate, candidates, order
from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.evidence.absent import Absence, absence
from tasks.diagnose.evidence.collect import find
from tasks.diagnose.evidence.examined import examined
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.evidence.harm import harmful
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.evidence.sent import capture
from tasks.diagnose.gone import EARLIER, gone_fault, says_where
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Investigation, Proof
from tasks.diagnose.own_tests import REFUTATIONS, OwnTests
from tasks.diagnose.replay.agreement import Disagreement, first_disagreement
from tasks.diagnose.replay.change import NO_CHANGE
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.tournament import NOT_REPLAYED, Tournament, proof, replay_all, unproven, without_failures
from tasks.diagnose.treatment import treat
from tasks.diagnose.window import (
    LEAST,
    allowed_rounds,
    chance_loss,
    floor,
    half_risen_round,
    last_compared_round,
    reproduced,
    training_rise,
    window,
)
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog
from tasks.settings import Settings


def investigate(
    settings: Settings,
    folder: Path,
    incident: Incident,
    clients: ClientLog,
    budget: float,
    cache: ComputationCache | None = None,
) -> Investigation:
    """Replays the rise with one factor after the other changed, and returns what proves a cause or undoes it.

    Args:
        settings: of the run.
        folder: its workspace.
        incident: the rise.
        clients: clients.csv.
        budget: rounds that the replays for causes may take, over the rounds that they explain.
        cache: of computations; None: an own one.

    Raises:
        UndriftError: the data are missing, or the replays cannot begin.
    """
    with replayer(settings, folder, cache) as replays:
        found, acts_early = _investigated(replays, incident, clients, budget, incident.sound_after)
        later = _checkpoint_inside(replays, incident)
        if found.causes or later is None or not acts_early:
            return found
        # With the data and settings of today before the rise, the model learns something else than it did in the run.
        inside, _ = _investigated(replays, incident, clients, budget, later)
        return inside if inside.causes else replace(found, spent=inside.spent, allowed=inside.allowed)


def _checkpoint_inside(replays: Replayer, incident: Incident) -> int | None:
    """The first checkpoint in the rise from which a replay has at least LEAST rounds of it; None if there is none."""
    last = min(incident.until, replays.last_round) - LEAST
    return next((saved for saved in replays.saved if incident.first <= saved <= last), None)


def _investigated(
    replays: Replayer, incident: Incident, clients: ClientLog, budget: float, sound_after: int
) -> tuple[Investigation, bool]:
    """The investigation with replays from the last known model up to round `sound_after`.

    And whether the replay that changes nothing differs from the log before the rise.
    """
    spent_before = replays.spent
    replays.go_to(sound_after)
    probe = Probe(replays.model)
    findings = _findings(replays, probe, incident, clients)
    proposed = candidates(findings, replays.settings, replays.from_round, bool(incident.hidden))
    if findings.drift is not None and findings.drift.certain:
        # Changed data of most clients make the hold-out data unlike theirs.
        proposed = [candidate for candidate in proposed if candidate.cause != "hold_out_shift"]
    trials = _trials(replays, incident, clients, proposed, budget, spent_before)
    found = first_disagreement(replays.unchanged.lines, clients, trials.window.last)
    came_again = _reproduced(trials, incident)
    tests = OwnTests(replays, probe, trials, incident, clients)
    verdicts = _proven(trials, proposed, findings, came_again, tests)
    gone = None if came_again or verdicts.proven else _gone(trials, proposed, findings, tests, found)
    findings = replace(findings, unseen=tests.unseen)
    spent = trials.spent
    confirmation = Confirmation(replays, incident, clients, allowed_rounds(budget, replays.last_round))
    tried, treated = treat(trials, verdicts.proven, replays.settings, findings, confirmation)
    investigation = Investigation(
        from_round=trials.start,
        window=(trials.window.first, trials.window.last),
        reproduced=came_again or bool(verdicts.proven),
        causes=(gone,) if gone else tuple(verdicts.proven),
        ruled_out=tuple(verdicts.ruled_out),
        tried=tried,
        proposed=treated,
        findings=findings,
        spent=spent,
        allowed=trials.allowed,
        spent_on_remedies=confirmation.spent,
        allowed_for_remedies=confirmation.allowed,
        seeds=max([trials.most_seeds, *(len(each.effect.by_seed) for each in verdicts.proven)]),
        not_finished=tuple(verdicts.not_finished),
        differs=says_where(found),
    )
    return investigation, found is not None and found.round < incident.first


@dataclass(frozen=True)
class _Verdicts:
    proven: Sequence[Proof] = ()
    ruled_out: Sequence[Proof] = ()
    not_finished: Sequence[Proof] = ()


def _gone(
    trials: Trials, proposed: Sequence[Candidate], findings: Findings, tests: OwnTests, found: Disagreement | None
) -> Proof | None:
    """The proof of a cause that has gone since: missing clients that are there today, or a fault of a few clients."""
    absence = findings.absence
    missing = next((candidate for candidate in proposed if candidate.cause == "missing_clients"), None)
    if absence is not None and missing is not None:
        proof = before.came_back(trials, tests.incident, missing, (absence.first, absence.last), found)
        if proof is not None:
            return proof
    return gone_fault(tests.replays, trials, tests.incident, tests.log, found)


def _findings(replays: Replayer, probe: Probe, incident: Incident, clients: ClientLog) -> Findings:
    """What is known of the clients, with the suspects cleared whose updates do no harm."""
    sent = capture(replays, incident.alarm)
    train_rise = training_rise(clients, incident.first, incident.until)
    findings = find(replays, probe, sent, clients, incident.first, incident.trends, train_rise)
    if not findings.faulty():
        findings = examined(findings, replays, probe)
    suspects = findings.faulty()
    never_cleared = {
        c.client for c in findings.clients if c.in_conflict or c.examined or c.uphill or findings.outgrown(c)
    }
    never_cleared |= {c.client for c in findings.clients if np.isfinite(c.sent_over_trained)}
    return replace(
        findings,
        cleared=verdict.cleared(suspects, harmful(replays, probe, sent, suspects), never_cleared),
        absence=_absence(replays, incident, clients),
        drift=findings.drift and replace(findings.drift, hold_out=_hold_out_then(replays, incident)),
    )


def _absence(replays: Replayer, incident: Incident, clients: ClientLog) -> Absence | None:
    """The clients that stay away when the rise is sure.

    None if the sampling depends on their losses: then an absence says nothing. It is recent if it begins after the
    model that the replays start from, or so shortly before the rise that this may only be dated late.
    """
    if replays.settings.federate.sampling.kind == "power_of_choice":
        return None
    shortly_before = min(replays.from_round + 1, incident.first - EARLIER)
    return absence(clients, shortly_before, incident.alarm, replays.drawn, replays.settings.diagnose.significance)


def _hold_out_then(replays: Replayer, incident: Incident) -> Memory | None:
    """The hold-out loss of the first known model of which it was logged, and the same with today's data."""
    known = next((saved for saved in replays.saved if saved in incident.hold_out), None)
    return None if known is None else Memory(known, incident.hold_out[known], replays.hold_out_loss(known))


def _trials(
    replays: Replayer,
    incident: Incident,
    clients: ClientLog,
    proposed: Sequence[Candidate],
    budget: float,
    spent_before: int,
) -> Trials:
    """The trials of the candidates, with their budget and the rounds in which they are compared.

    Their budget comes on top of the rounds `spent_before`.

    They are compared from the first round of the rise. If the replay that changes nothing differs from the log before,
    they are compared from there: the data or settings of today act from the replay's first round on, and the rise that
    they make may be over when the logged one begins.
    """
    first, until = max(incident.first, replays.from_round + 1), min(incident.until, replays.last_round)
    allowed = allowed_rounds(budget, until - replays.from_round)
    level = incident.level(replays.loss)
    last = last_compared_round(
        start=replays.from_round,
        first=first,
        alarm=incident.alarm,
        half_risen=half_risen_round(incident.logged, level, incident.loss_after, first, incident.alarm),
        until=until,
        last_of_run=replays.last_round,
        num_candidates=sum(candidate.replayed for candidate in proposed),
        allowed=allowed,
    )
    replays.advance(replays.unchanged, first - 1)
    early = first_disagreement(replays.unchanged.lines, clients, first - 1)
    compared = window(incident, clients, replays.loss, early.round if early else first, last)
    # Confirmation comes on top: two more seeds of one change and of none, and what was spent on the evidence.
    reserve = 2 * (verdict.SEEDS - 1) * (last - replays.from_round)
    # Tests of their own come on top as well: they decide before the candidates of the tournament are replayed.
    own = [candidate.cause for candidate in proposed if not candidate.replayed]
    reserve += hold_out.MOST_REPLAYS * last * ("hold_out_shift" in own) + before.MOST_ROUNDS * len(own)
    least = floor(chance_loss(replays.cohort.test_y), replays.loss, replays.from_round)
    return Trials(replays, compared, spent_before + allowed + reserve, least)


def _proven(
    trials: Trials, proposed: Sequence[Candidate], findings: Findings, came_again: bool, tests: OwnTests
) -> _Verdicts:
    """The proven causes, the causes that are ruled out, and those of which it is not known.

    Failures are proven whether the loss came again or not. Other causes need a loss that did.
    """
    failures = without_failures(trials, proposed, findings.overshoots)
    if failures and failures.effect.proven:
        return _Verdicts([failures])
    entered = [failures.candidate] if failures else []
    if not came_again:
        return _Verdicts(ruled_out=[proof(trials, candidate) for candidate in entered])
    undecided = list[Proof]()
    for candidate in (each for each in proposed if not each.replayed):
        decided = tests.decided(candidate, findings)
        if not decided.why:
            return _Verdicts([decided], [proof(trials, candidate) for candidate in entered], undecided)
        undecided.append(decided)
    entered, left = replay_all(trials, [each for each in proposed if each.replayed], entered)
    tournament = Tournament(trials, entered, order(findings), tests.refuted)
    proven = tournament.decide()
    ruled_out, open_ = tournament.unproven(proven)
    claimed = {cause.candidate.cause for cause in proven}
    not_replayed = [unproven(trials, candidate, NOT_REPLAYED) for candidate in left if candidate.cause not in claimed]
    refuted = [each for each in undecided if each.why in REFUTATIONS]
    unknown = [each for each in undecided if each.why not in REFUTATIONS]
    return _Verdicts(proven, [*refuted, *ruled_out], [*unknown, *open_, *not_replayed])


def _reproduced(trials: Trials, incident: Incident) -> bool:
    rounds = range(max(incident.first, trials.start + 1), trials.window.last + 1)
    logged = [incident.logged[r] for r in rounds if r in incident.logged]
    return reproduced(trials.losses(NO_CHANGE), logged, incident.loss_after, trials.window.level)
