"""From a rise to its proven causes and their remedies: evidence, candidates, replays, verdict, treatment."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.diagnose import verdict
from tasks.diagnose.causes import Candidate, candidates, order
from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.evidence.collect import find
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.evidence.harm import harmful
from tasks.diagnose.evidence.sent import capture
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Investigation, Proof
from tasks.diagnose.replay.change import NO_CHANGE
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.thresholds import STEEP
from tasks.diagnose.tournament import Tournament, proof, replay_all, without_failures
from tasks.diagnose.treatment import treat
from tasks.diagnose.window import allowed_rounds, half_risen_round, last_compared_round, reproduced, window
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
        replays.go_to(incident.sound_after)
        findings = _findings(replays, incident, clients)
        proposed = candidates(findings, replays.settings, replays.from_round)
        trials = _trials(replays, incident, clients, len(proposed), budget)
        came_again = _reproduced(trials, incident)
        proven, entered = _proven(trials, proposed, findings, came_again)
        spent = trials.spent
        confirmation = Confirmation(replays, incident, clients, allowed_rounds(budget, replays.last_round))
        tried, treated = treat(trials, proven, replays.settings, findings, confirmation)
        claimed = {cause.candidate.cause for cause in proven}
        return Investigation(
            from_round=trials.start,
            window=(trials.window.first, trials.window.last),
            reproduced=came_again or bool(proven),
            causes=tuple(proven),
            ruled_out=tuple(proof(trials, candidate) for candidate in entered if candidate.cause not in claimed),
            tried=tried,
            proposed=treated,
            findings=findings,
            spent=spent,
            allowed=trials.allowed,
            spent_on_remedies=confirmation.spent,
            allowed_for_remedies=confirmation.allowed,
        )


def _findings(replays: Replayer, incident: Incident, clients: ClientLog) -> Findings:
    """What is known of the clients, with the suspects cleared whose updates do no harm."""
    probe = Probe(replays.model)
    sent = capture(replays, incident.alarm)
    findings = find(replays, probe, sent, clients, incident.first, incident.trends)
    suspects = findings.faulty()
    never_cleared = {c.client for c in findings.clients if c.in_conflict or c.uphill or findings.outgrown(c)}
    never_cleared |= {c.client for c in findings.clients if np.isfinite(c.sent_over_trained)}
    return replace(findings, cleared=verdict.cleared(suspects, harmful(replays, probe, sent, suspects), never_cleared))


def _trials(replays: Replayer, incident: Incident, clients: ClientLog, num_candidates: int, budget: float) -> Trials:
    """The trials of so many candidates, with their budget and the rounds in which they are compared."""
    first, until = incident.first, min(incident.until, replays.last_round)
    allowed = allowed_rounds(budget, until - replays.from_round)
    level = incident.level(replays.loss)
    last = last_compared_round(
        start=replays.from_round,
        first=first,
        alarm=incident.alarm,
        half_risen=half_risen_round(incident.logged, level, incident.loss_after, first, incident.alarm),
        until=until,
        last_of_run=replays.last_round,
        num_candidates=num_candidates,
        allowed=allowed,
    )
    return Trials(replays, window(incident, clients, replays.loss, last), allowed)


def _proven(
    trials: Trials, proposed: Sequence[Candidate], findings: Findings, came_again: bool
) -> tuple[list[Proof], list[Candidate]]:
    """The proven causes, and all candidates that were replayed.

    Failures are proven whether the loss came again or not. Other causes need a loss that did.
    """
    failures = without_failures(trials, proposed)
    if failures and failures.effect.proven:
        return [failures], [failures.candidate]
    entered = [failures.candidate] if failures else []
    if not came_again:
        return [], entered
    entered = replay_all(trials, proposed, entered)
    return Tournament(trials, entered, order(findings), findings.steepness > STEEP).decide(), entered


def _reproduced(trials: Trials, incident: Incident) -> bool:
    logged = [incident.logged[r] for r in trials.window.rounds if r in incident.logged]
    return reproduced(trials.losses(NO_CHANGE), logged, incident.loss_after, trials.window.level)
