"""Findings of clients without fault, for the tests of the diagnosis on plain numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from tasks.diagnose.evidence.absent import Absence
from tasks.diagnose.evidence.drift_of_data import DataDrift
from tasks.diagnose.evidence.findings import ClientFinding, Findings
from tasks.diagnose.evidence.memory import Memory

HONEST = ClientFinding(
    client="00",
    labels=np.array([10, 10]),
    epochs=1.0,
    width=1.0,
    loss=0.3,
    accuracy=0.9,
    usual_loss=0.3,
    expected_loss=0.3,
    expected_accuracy=0.9,
    feature_distance=0.05,
    norm=1.0,
    norm_per_step=1.0,
    grown=1.0,
    slope=-0.9,
    cosine=0.5,
    cosine_before=0.5,
    cosine_during=0.5,
    left_out=0.0,
)

WRONG_LABELS = {"loss": 5.0, "accuracy": 0.1}
SHIFT = WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.8, 0.3)}
MIXED_UP = Memory(round=3, logged=0.5, now=5.0, relabelling=(1, 0))
AWAY = Absence(("05",), first=16, last=30, took_part=15, missed=15, chance=0.0)
DRIFTED = DataDrift(
    {f"{k:02}": Memory(11, 0.5, 5.0) for k in range(5)},
    num_clients=7,
    last_before=11,
    first_after=16,
    then=(1, 0),
    hold_out=Memory(5, 0.4, 0.4),
    certain=True,
)
UNLIKE = SimpleNamespace(clients=("01", "03"), from_round=0, last=20, trained=0.1, loss=0.2, hold_out=2.0)
EVERYTHING = {
    "width": {"01": 0.5},
    "server_optimizer": {"kind": "adam", "learning_rate": 0.1},
    "local_work": {"kind": "per_client", "by_client": {"04": 9}},
}
"""`federate` settings that, with `everything()`, make every cause possible."""


def a_client(client: str, **changes: object) -> ClientFinding:
    """An honest client with `changes`."""
    return replace(HONEST, client=client, **changes)  # type: ignore[arg-type]


def findings(*changed: ClientFinding, num_clients: int = 5, cleared: tuple[str, ...] = (), **run: float) -> Findings:
    """The findings of honest clients, some `changed`. The run's own numbers fit no cause; `run` changes them."""
    clients = {f"{k:02}": a_client(f"{k:02}") for k in range(num_clients)}
    clients |= {client.client: client for client in changed}
    calm = {"label_skew": 0.1, "size_skew": 0.0, "steepness": 0.5, "train_trend": 0.3, "val_trend": 0.3}
    calm |= {"dissimilarity": 1.0, "objective_gap": 0.0, "train_rise": -0.5, **run}
    everyone = tuple(clients[client] for client in sorted(clients))
    return Findings(everyone, local_drift=(), cleared=cleared, local_models={}, **calm)


def overshooting(seen: Findings, *raised: str) -> Findings:
    """The findings with a local model of each client; those of `raised` have a higher loss on their own data."""
    models = {one.client: SimpleNamespace(lowers_loss=one.client not in raised) for one in seen.clients}
    return replace(seen, local_models=models)


def everything() -> Findings:
    """Findings with evidence for every cause."""
    odd = (
        a_client("00", failed=20, first_broken=4),
        a_client("02", **WRONG_LABELS),
        a_client("03", **SHIFT),
        a_client("04", epochs=9.0),
    )
    run = {"label_skew": 1.0, "size_skew": 0.6, "train_trend": -1.0, "val_trend": 0.2}
    seen = replace(
        findings(*odd, num_clients=7, **run), absence=AWAY, drift=DRIFTED, hold_out_in_conflict=True, unseen=UNLIKE
    )
    return overshooting(seen, *(f"{k:02}" for k in range(7)))
