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
from tasks.diagnose.investigation import Standing
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.observe.rise import Rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

HOSTILE = "<script>alert(1)</script>&\"'--><img src=x onerror=y>$\\frac$"
LOSSES = [1.2, 0.9, 0.7, 0.5, 0.42, 0.4, 0.8, 0.82, 0.81, 0.84, 0.8, 0.83]
FALLING = [1.2, 0.9, 0.7, 0.55, 0.45, 0.4, 0.36, 0.33, 0.32, 0.31, 0.3, 0.3]
GOOD = [1.1, 0.7, 0.5, 0.4, 0.33, 0.28, 0.24, 0.21, 0.2, 0.19, 0.18, 0.18]
LOOKED_FOR = (
    "The loss of the model on each client's data, beside hold-out data of the same classes.",
    "Each client's update, beside the other clients' updates.",
)
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


def standing() -> Diagnosis:
    """A loss that does not rise, and ends at 0.31 in place of 0.19, because the labels of client h3 are wrong."""
    replay = ReplayResult(
        says="the same rounds without client h3",
        change={"leave out": ["h3"]},
        from_round=0,
        loss="val_loss",
        unchanged=tuple(FALLING),
        changed=tuple(GOOD),
        seeds=3,
        removes=Removed(1.0, 1.0, 1.0),
        ends_at=0.19,
    )
    leave_out = TriedRemedy(
        {"federate.exclude": ["h3"]}, "leave out client h3", 0.97, 0.2, ("faulty_clients",), True,
        RemedyEnding(from_round=0, last=12, hold_out=0.192, unchanged=0.312, logged=True, seeds=3),
    )  # fmt: skip
    median = TriedRemedy(
        {"federate.aggregator.kind": "median"}, "the median", 0.2, 0.29, ("faulty_clients",), False,
        RemedyEnding(from_round=0, last=12, hold_out=0.28, unchanged=0.312, logged=True, seeds=1),
    )  # fmt: skip
    says = "Client h3 has a loss of 2.1; hold-out data of the same classes have 0.3."
    return Diagnosis(
        rise=NO_RISE,
        healthy=("h0", "h1"),
        observations=(),
        limits=(),
        causes=(
            Cause(
                cause="faulty_clients",
                score=1.0,
                clients=("h3",),
                fault="labels",
                rounds=(1, 12),
                evidence=(Evidence("loss", 2.1, 0.3, says),),
                replay=replay,
                remedy=leave_out,
            ),
        ),
        ruled_out=(RuledOut("label_skew", "the same rounds with labels dealt evenly", 0.03, ends_at=0.305),),
        remedies=(leave_out, median),
        budget=Budget(0, 72, 90, 3, (8, 12), True, remedy_rounds=36, remedy_allowed=36),
        signals={},
        not_looked_at=("h9",),
        standing=Standing(0.31, 0.19, 0.012, (8, 12)),
        looked_for=LOOKED_FOR,
        not_examined=("Client h9 has only 3 examples.",),
    )


def standing_ruled_out() -> Diagnosis:
    """The same with a suspect whose data are no cause."""
    answer = standing()
    return replace(
        answer,
        causes=(),
        ruled_out=(RuledOut("faulty_clients", "the same rounds without client h3", None, ends_at=0.308),),
        remedies=(),
        standing=Standing(0.31, None, 0.012, (8, 12)),
        limits=("No cause is proven, because every cause that was tried is ruled out.",),
    )


def standing_too_slow() -> Diagnosis:
    """A model that never learned, because the clients' learning rate is too low."""
    faster = TriedRemedy(
        {"federate.client.learning_rate": 0.1}, "set the client learning rate to 0.1", 1.0, 0.19,
        ("client_learning_rate",), True, RemedyEnding(0, 12, 0.19, 2.3, logged=True, seeds=3),
    )  # fmt: skip
    answer = with_replay(
        standing(),
        says="the same rounds at a client learning rate of 0.1",
        change={"settings": {"federate.client.learning_rate": 0.1}},
        unchanged=(2.3,) * 12,
    )
    answer = with_cause(
        answer,
        cause="client_learning_rate",
        clients=(),
        fault="too_low",
        evidence=(Evidence("learned", 0.0, None, "In all rounds, the training loss fell by 0 %."),),
        remedy=faster,
    )
    return replace(
        answer,
        rise=replace(NO_RISE, chance=Chance(2.303, 1, True)),
        healthy=("h0", "h1", "h3"),
        ruled_out=(),
        remedies=(faster,),
        standing=Standing(2.3, 0.19, 0.001, (8, 12)),
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
