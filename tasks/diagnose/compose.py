"""Builds the diagnosis from what the logs show and what the replays showed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tasks.diagnose.causes import CAUSES, evidence_for, fault_of, remedies
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.diagnosis import (
    Budget,
    Cause,
    Diagnosis,
    Evidence,
    NotFinished,
    RemedyEnding,
    Removed,
    ReplayResult,
    RuledOut,
    TriedRemedy,
)
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.investigation import Investigation, LongReplay, Proof, Standing, Tried
from tasks.diagnose.observe.client_signals import client_signals
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.written_signals import number, series, shortened, signals_of
from tasks.settings import Settings


def compose(
    observation: Observation,
    limits: Sequence[str],
    settings: Settings,
    replays: Investigation | None = None,
    ending: Ending | None = None,
) -> Diagnosis:
    """Returns the diagnosis.

    Args:
        observation: what the logs show.
        limits: what the data could not tell, a sentence each.
        settings: of the run.
        replays: what the replays showed; None if nothing was replayed, so that no cause is proven.
        ending: how the run ended; None if it did not end early.
    """
    signals = (*client_signals(observation), *(replays.observations if replays else ()))
    healthy, not_looked_at = _unremarkable(observation, replays)
    answer = Diagnosis(
        observation.rise,
        healthy,
        signals,
        tuple(limits),
        ending=ending,
        looked_at=observation.window,
        not_looked_at=not_looked_at,
    )
    if replays is None:
        return answer
    answer = replace(answer, looked_for=replays.looked_for, not_examined=replays.not_examined)
    if not observation.rise.detected and replays.standing is None:
        return answer
    return replace(
        answer,
        causes=tuple(
            _cause(proof, replays, settings, _rounds(proof, observation, replays, ending)) for proof in replays.causes
        ),
        ruled_out=tuple(_ruled_out(proof, replays) for proof in replays.ruled_out),
        not_finished=tuple(_not_finished(proof, replays) for proof in replays.not_finished),
        remedies=tuple(_remedy(tried) for tried in replays.tried),
        budget=Budget(
            replays.from_round,
            replays.spent,
            replays.allowed,
            replays.seeds,
            replays.window,
            replays.reproduced,
            number(replays.chance),
            replays.spent_on_remedies,
            replays.allowed_for_remedies,
        ),
        signals=_signals(replays),
        standing=None if replays.standing is None else _standing(replays.standing),
    )


def _unremarkable(observation: Observation, replays: Investigation | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The clients with nothing unusual, and the clients that were not looked at.

    Neither are the clients whose loss rose, the clients of a proven cause or of one that is not finished, and the
    suspects of a fault: also a fault that a replay ruled out has a sign.
    """
    named = {*observation.rise.clients}
    if replays is not None:
        named |= {client for proof in (*replays.causes, *replays.not_finished) for client in proof.candidate.clients}
        suspected = (proof.candidate for proof in replays.ruled_out if CAUSES[proof.candidate.cause].fault_of_clients)
        named |= {client for candidate in suspected for client in candidate.clients}
        named |= {each.client for each in replays.observations}
    others = [client for client in observation.healthy if client not in named]
    if not observation.rise.detected:
        # A log in which nothing rose does not show what a client has done from the start.
        compared = {*replays.clients_looked_at} if replays is not None else set[str]()
    elif observation.window is None:
        return tuple(others), ()
    else:
        compared = {drift.client for drift in observation.drifts}
    return (
        tuple(client for client in others if client in compared),
        tuple(client for client in others if client not in compared),
    )


def _signals(replays: Investigation) -> Mapping[str, Any]:
    blamed = [client for proof in replays.causes for client in proof.candidate.clients]
    return signals_of(replays.findings, blamed) if replays.signals is None else shortened(replays.signals, blamed)


def _standing(standing: Standing) -> Standing:
    loss, reference, noise = map(number, (standing.loss, standing.reference, standing.noise))
    return Standing(loss, reference, noise, standing.rounds)


def _rounds(proof: Proof, observation: Observation, replays: Investigation, ending: Ending | None) -> tuple[int, int]:
    """The rounds in which a cause acts: to the run's end, of the end, or of the rise as far as it was replayed."""
    if replays.standing is not None:
        return proof.since, replays.standing.rounds[1]
    if ending and observation.rise.of_an_end:
        return ending.since, ending.round
    # Replays that differ from the log are compared from an earlier round than the logged rise.
    first, last = replays.window
    return max(first, min(observation.rise.round or first, last)), last


def _cause(proof: Proof, replays: Investigation, settings: Settings, rounds: tuple[int, int]) -> Cause:
    cause, clients, effect = proof.candidate.cause, proof.candidate.clients, proof.effect
    remedy = replays.proposed.get(cause)
    return Cause(
        cause,
        max(0.0, _share(effect.low if math.isfinite(effect.low) else effect.mean / 2)),
        clients,
        proof.gone.fault if proof.gone else proof.candidate.fault or fault_of(cause, clients, replays.findings),
        proof.gone.rounds if proof.gone else rounds,
        tuple(
            Evidence(signal, number(value), number(expected), says)
            for signal, value, expected, says in _evidence(proof, replays, settings)
        ),
        ReplayResult(
            _says(proof),
            proof.candidate.change.described(),
            replays.from_round if proof.from_round is None else proof.from_round,
            proof.loss,
            series(proof.without),
            series(proof.with_change),
            proof.seeds,
            _removed(effect),
            proof.kind,
            _ends_at(proof, replays),
        ),
        None if remedy is None else _remedy(remedy),
        _advice(proof, replays, settings),
    )


def _evidence(proof: Proof, replays: Investigation, settings: Settings) -> Iterable[Indication]:
    """What came out of the proof itself, and what else speaks for the cause.

    Only the former of a fault that has gone, and where nothing rose: there is no model before a rise.
    """
    findings, of_its_own = replays.findings, replays.standing is not None
    if proof.evidence and (proof.gone or of_its_own):
        return proof.evidence
    also = evidence_for(proof.candidate.cause, proof.candidate.clients, findings, settings)
    return dict.fromkeys((*proof.evidence, *also))


def _advice(proof: Proof, replays: Investigation, settings: Settings) -> str:
    """What to do about a cause against which no setting helps; empty if there is none."""
    if proof.gone:
        return ""
    candidate = proof.candidate
    fitting = remedies(candidate.cause, settings, candidate.clients, replays.findings)
    return next((remedy.says for remedy in fitting if not remedy.replayed), "")


def _says(proof: Proof) -> str:
    return f"the same rounds {proof.candidate.change.says}"


def _removed(effect: Effect) -> Removed:
    if not math.isfinite(effect.low):
        return Removed(_share(effect.mean), None, None)
    return Removed(_share(effect.mean), _share(effect.low), _share(2 * effect.mean - effect.low))


def _ends_at(proof: Proof, replays: Investigation) -> float | None:
    """The hold-out loss at the end with the change, where nothing rose; None if it was not replayed to the end.

    It is the loss with nothing changed times the ratio of both curves, since they may be of fewer seeds.
    """
    standing = replays.standing
    if standing is None or standing.loss is None:
        return None
    if [proof] == [*replays.causes]:
        return number(standing.reference)
    first, last = (number - replays.from_round for number in standing.rounds)
    ends = [np.array(losses[first - 1 : last], np.float64) for losses in (proof.with_change, proof.without)]
    if first < 1 or any(len(losses) <= last - first for losses in ends):
        return None
    with np.errstate(divide="ignore"):  # a loss of 0 has the geometric mean 0
        changed, unchanged = (float(np.log(losses).mean()) for losses in ends)
    return number(standing.loss * math.exp(changed - unchanged))


def _ruled_out(proof: Proof, replays: Investigation) -> RuledOut:
    effect, candidate = proof.effect, proof.candidate
    removes = _share(effect.mean) if effect.by_seed else None
    return RuledOut(
        candidate.cause, _says(proof), removes, proof.why, candidate.fault, ends_at=_ends_at(proof, replays)
    )


def _not_finished(proof: Proof, replays: Investigation) -> NotFinished:
    effect, candidate = proof.effect, proof.candidate
    removes = _share(effect.mean) if effect.by_seed else None
    return NotFinished(
        candidate.cause, _says(proof), removes, proof.why, candidate.fault, ends_at=_ends_at(proof, replays)
    )


def _remedy(tried: Tried) -> TriedRemedy:
    remedy = tried.remedy
    return TriedRemedy(
        remedy.settings,
        remedy.says,
        _share(tried.recovers),
        number(tried.loss),
        tried.against,
        tried.confirmed,
        None if tried.ending is None else _ending(tried.ending),
    )


def _ending(ending: LongReplay) -> RemedyEnding:
    end, unchanged = number(ending.hold_out), number(ending.unchanged)
    return RemedyEnding(ending.from_round, ending.last, end, unchanged, ending.logged, len(ending.by_seed))


def _share(value: float) -> float:
    """A share of the harm in four digits, from -1 to 1. A loss below its level has nothing left to take away."""
    return float(f"{min(1.0, max(-1.0, value)):.4g}")
