"""Builds the diagnosis from what the logs show and what the replays showed."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.causes import CAUSES, evidence_for, fault_of
from tasks.diagnose.diagnosis import (
    Budget,
    Cause,
    Curve,
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
from tasks.diagnose.evidence.findings import ClientFinding, Findings
from tasks.diagnose.investigation import Investigation, LongReplay, Proof, Standing, Tried
from tasks.diagnose.observe.client_signals import client_signals
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.replay.effect import Effect
from tasks.settings import Settings
from tasks.shown_clients import QUANTILES, quantiles, shown_clients

_OF_A_CLIENT = (
    "loss",
    "usual_loss",
    "expected_loss",
    "accuracy",
    "expected_accuracy",
    "feature_distance",
    "norm",
    "norm_per_step",
    "grown",
    "slope",
    "cosine",
    "cosine_before",
    "cosine_during",
    "epochs",
    "left_out",
    "sent_over_trained",
)
"""The numbers of `ClientFinding` that diagnosis.json holds of a client."""
MOST_CLIENTS = 100
"""Most clients whose numbers diagnosis.json holds: 100 KB."""
_OF_ALL = ("label_skew", "size_skew", "steepness", "dissimilarity", "objective_gap", "train_trend", "val_trend")
"""The numbers of `Findings` that diagnosis.json holds."""


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
    signals = client_signals(observation)
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
    return replace(
        answer,
        causes=tuple(
            _cause(proof, replays, settings, _rounds(proof, observation, replays, ending)) for proof in replays.causes
        ),
        ruled_out=tuple(_ruled_out(proof) for proof in replays.ruled_out),
        not_finished=tuple(_not_finished(proof) for proof in replays.not_finished),
        remedies=tuple(_remedy(tried) for tried in replays.tried),
        budget=Budget(
            replays.from_round,
            replays.spent,
            replays.allowed,
            replays.seeds,
            replays.window,
            replays.reproduced,
            _number(replays.chance),
            replays.spent_on_remedies,
            replays.allowed_for_remedies,
        ),
        signals=_signals(replays.findings, [client for proof in replays.causes for client in proof.candidate.clients]),
        standing=None if replays.standing is None else _standing(replays.standing),
        looked_for=replays.looked_for,
        not_examined=replays.not_examined,
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
    others = [client for client in observation.healthy if client not in named]
    if observation.window is None:
        return tuple(others), ()
    compared = {drift.client for drift in observation.drifts}
    return (
        tuple(client for client in others if client in compared),
        tuple(client for client in others if client not in compared),
    )


def _standing(standing: Standing) -> Standing:
    loss, reference, noise = map(_number, (standing.loss, standing.reference, standing.noise))
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
        proof.gone.fault if proof.gone else fault_of(cause, clients, replays.findings),
        proof.gone.rounds if proof.gone else rounds,
        tuple(
            Evidence(signal, _number(value), _number(expected), says)
            for signal, value, expected, says in (
                proof.gone.evidence if proof.gone else evidence_for(cause, clients, replays.findings, settings)
            )
        ),
        ReplayResult(
            _says(proof),
            proof.candidate.change.described(),
            replays.from_round,
            proof.loss,
            _series(proof.without),
            _series(proof.with_change),
            len(effect.by_seed),
            _removed(effect),
            bool(proof.gone),
        ),
        None if remedy is None else _remedy(remedy),
    )


def _says(proof: Proof) -> str:
    return f"the same rounds {proof.candidate.change.says}"


def _removed(effect: Effect) -> Removed:
    if not math.isfinite(effect.low):
        return Removed(_share(effect.mean), None, None)
    return Removed(_share(effect.mean), _share(effect.low), _share(2 * effect.mean - effect.low))


def _ruled_out(proof: Proof) -> RuledOut:
    effect = proof.effect
    return RuledOut(proof.candidate.cause, _says(proof), _share(effect.mean) if effect.by_seed else None, proof.why)


def _not_finished(proof: Proof) -> NotFinished:
    effect = proof.effect
    removes = _share(effect.mean) if effect.by_seed else None
    return NotFinished(proof.candidate.cause, _says(proof), removes, proof.why)


def _remedy(tried: Tried) -> TriedRemedy:
    remedy = tried.remedy
    return TriedRemedy(
        remedy.settings,
        remedy.says,
        _share(tried.recovers),
        _number(tried.loss),
        tried.against,
        tried.confirmed,
        None if tried.ending is None else _ending(tried.ending),
    )


def _ending(ending: LongReplay) -> RemedyEnding:
    end, unchanged = _number(ending.hold_out), _number(ending.unchanged)
    return RemedyEnding(ending.from_round, ending.last, end, unchanged, ending.logged, len(ending.by_seed))


def _signals(findings: Findings, blamed: Sequence[str]) -> dict[str, Any]:
    """All that was measured, from which the evidence was picked.

    Of more than MOST_CLIENTS clients, it holds the blamed and the suspected ones, then those farthest from the others
    in loss or update, and under `all_clients` quantiles over all.
    """
    clients = {client.client: client for client in findings.clients}
    numbers = {name: np.array([getattr(each, name) for each in clients.values()], np.float64) for name in _OF_A_CLIENT}
    places = {client: place for place, client in enumerate(clients)}
    first = [places[client] for client in (*blamed, *findings.faulty()) if client in places]
    apart = [np.abs(numbers[name] - _middle(numbers[name])) for name in ("loss", "norm", "cosine")]
    failures = np.array([client.failed is not None for client in clients.values()], dtype=np.int64)
    shown = set(shown_clients(apart, failures, MOST_CLIENTS, first).tolist())
    signals: dict[str, Any] = {
        "clients": {name: _of_client(clients[name], findings) for name, place in places.items() if place in shown},
        "local_drift": _series(findings.local_drift),
        **{name: _number(getattr(findings, name)) for name in _OF_ALL},
    }
    if len(shown) < len(clients):
        of_all = {name: [_number(float(value)) for value in quantiles(numbers[name])] for name in numbers}
        signals["all_clients"] = {name: dict(zip(QUANTILES, each, strict=True)) for name, each in of_all.items()}
    return signals


def _middle(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _of_client(client: ClientFinding, findings: Findings) -> dict[str, Any]:
    values: dict[str, Any] = {name: _number(getattr(client, name)) for name in _OF_A_CLIENT}
    memory, local = client.memory, findings.local_models.get(client.client)
    if memory is not None:
        losses = {"logged": _number(memory.logged), "now": _number(memory.now)}
        values["memory"] = {"round": memory.round, **losses}
    if local is not None:
        numbers = {name: value for name, value in vars(local).items() if name != "recalls"}
        values |= {name: _number(value) for name, value in numbers.items()}
        values["recalls"] = {str(label): _number(recall) for label, recall in sorted(local.recalls.items())}
    return values


def _series(losses: Sequence[float]) -> Curve:
    return tuple(_number(loss) for loss in losses)


def _share(value: float) -> float:
    """A share of the harm in four digits, from -1 to 1. A loss below its level has nothing left to take away."""
    return float(f"{min(1.0, max(-1.0, value)):.4g}")


def _number(value: float | None) -> float | None:
    """Six significant digits; None for what is not finite, which JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
