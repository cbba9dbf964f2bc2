"""A diagnosis as the step builds it, and logs that fit it, for the tests of the reports."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tasks.diagnose.diagnosis import (
    Budget,
    Cause,
    Diagnosis,
    Evidence,
    RemedyEnding,
    Removed,
    ReplayResult,
    RuledOut,
    TriedRemedy,
)
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

HOSTILE = "<script>alert(1)</script>&\"'--><img src=x onerror=y>$\\frac$"
LOSSES = [1.2, 0.9, 0.7, 0.5, 0.42, 0.4, 0.8, 0.82, 0.81, 0.84, 0.8, 0.83]
NO_RISE = Rise(
    detected=False,
    round=None,
    until=None,
    loss_before=None,
    loss_after=None,
    confidence=0.0,
    alarm=None,
    kind="none",
    noise=None,
    correlation=None,
    visible=None,
    relative=True,
    significance=0.01,
    loss="val_loss",
    num_losses=12,
    phase="",
    sparsity=None,
    clients=(),
    val_loss_round=None,
)
RISE = replace(
    NO_RISE,
    detected=True,
    round=7,
    until=12,
    loss_before=0.41,
    loss_after=0.82,
    confidence=0.998,
    alarm=8,
    kind="level",
    noise=0.03,
    correlation=0.1,
    visible=0.12,
    phase="federate",
)
"""The rise in LOSSES."""
MINIMAL = Diagnosis(NO_RISE, healthy=(), observations=(), limits=())
ENDING = RemedyEnding(from_round=0, last=12, hold_out=0.39, unchanged=0.83, logged=True, seeds=3)
SCAFFOLD = TriedRemedy(
    {"federate.client.kind": "scaffold"}, "SCAFFOLD", 0.86, 0.44, ("faulty_clients",), confirmed=True, ending=ENDING
)
MEDIAN = TriedRemedy({"federate.aggregator.kind": "median"}, "the median", 0.3, 0.7, ("faulty_clients",))


def diagnosis(cause: str = "faulty_clients", client: str = "03") -> Diagnosis:
    """A diagnosis with a proven cause: the loss doubles in round 7 of 12, because of one client."""
    replay = ReplayResult(
        says=f"the same rounds without client {client}",
        change={"leave out": [client]},
        from_round=6,
        loss="val_loss",
        unchanged=(0.8, 0.9, 0.8, 0.9, 0.8, 0.9),
        changed=(0.4, 0.38, 0.4, 0.38, 0.4, 0.38),
        seeds=3,
        removes=Removed(0.95, 0.9, 1.0),
    )
    says = f"Client {client} sent updates of length 4."
    return Diagnosis(
        rise=RISE,
        healthy=("00", "01"),
        observations=(ClientSignal(client, "update_norm", 4.0, 1.0, 1.0, 9.0, True, (7, 12), says),),
        limits=("A rise by less than 12 % cannot be separated from the noise.",),
        causes=(
            Cause(
                cause=cause,
                score=0.9,
                clients=(client,),
                fault="",
                rounds=(7, 12),
                evidence=(Evidence("update_norm", 4.0, 1.0, f"Client {client} sent long ones."),),
                replay=replay,
                remedy=SCAFFOLD,
            ),
        ),
        ruled_out=(RuledOut("label_skew", "the same rounds with labels dealt evenly", 0.1),),
        remedies=(SCAFFOLD, MEDIAN),
        budget=Budget(6, 42, 54, 3, (7, 12), True),
        signals={},
    )


def with_rise(answer: Diagnosis, **changes: Any) -> Diagnosis:
    return replace(answer, rise=replace(answer.rise, **changes))


def with_cause(answer: Diagnosis, **changes: Any) -> Diagnosis:
    """The diagnosis with fields of its first cause changed."""
    first, *others = answer.causes
    return replace(answer, causes=(replace(first, **changes), *others))


def with_replay(answer: Diagnosis, **changes: Any) -> Diagnosis:
    """The diagnosis with fields of its first cause's replay changed."""
    return with_cause(answer, replay=replace(answer.causes[0].replay, **changes))


def with_settings_of_remedy(answer: Diagnosis, settings: Mapping[str, Any]) -> Diagnosis:
    return with_cause(answer, remedy=replace(SCAFFOLD, settings=settings))


def round_log(losses: Any, name: str = "val_loss", phases: tuple[str, ...] | None = None) -> RoundLog:
    values = np.asarray(losses, dtype=np.float64)
    number = np.arange(1, len(values) + 1)
    column = Measurements(values, np.ones(len(values), dtype=np.bool_))
    return RoundLog(number, phases or ("federate",) * len(values), {name: column}, None)


def client_log(clients: list[str], num_rounds: int, drop: tuple[str, ...] = (), failed: int = 0) -> ClientLog:
    """Every client in every round; norm 1, cosine 0.7; the first row's client sends 4 and -0.3 from the middle on."""
    rows = [(t, client) for t in range(1, num_rounds + 1) for client in sorted(clients)]
    rounds = np.array([t for t, _ in rows])
    bad = np.array([client == clients[0] and t > num_rounds // 2 for t, client in rows])
    signals = {
        "update_norm": np.where(bad, 4.0, 1.0),
        "update_cosine_robust": np.where(bad, -0.3, 0.7),
        "loss_before": np.where(bad, 1.5, 0.5),
    }
    kept = {name: values for name, values in signals.items() if name not in drop}
    failures = np.arange(len(rows)) < failed
    return ClientLog(rounds, tuple(client for _, client in rows), kept, failures, failures)


def partition(clients: list[str], classes: list[str]) -> dict[str, Any]:
    """A partition.json: client k has 10 · (k + 1) examples of the first class, and 10 of each other class."""
    return {
        "classes": classes,
        "clients": {
            client: {
                "num_examples": 10 * len(classes),
                "counts": [10 * (k + 1 if c == 0 else 1) for c in range(len(classes))],
                "earth_mover": 0.1 * k,
                "mean_distance": 0.2,
            }
            for k, client in enumerate(clients)
        },
    }
