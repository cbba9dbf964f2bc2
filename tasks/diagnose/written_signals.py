"""What was measured of the clients, as diagnosis.json holds it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.diagnosis import Curve
from tasks.diagnose.evidence.findings import ClientFinding, Findings
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


def signals_of(findings: Findings, blamed: Sequence[str]) -> dict[str, Any]:
    """Returns all that was measured, from which the evidence was picked.

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
        "local_drift": series(findings.local_drift),
        **{name: number(getattr(findings, name)) for name in _OF_ALL},
    }
    if len(shown) < len(clients):
        of_all = {name: [number(float(value)) for value in quantiles(numbers[name])] for name in numbers}
        signals["all_clients"] = {name: dict(zip(QUANTILES, each, strict=True)) for name, each in of_all.items()}
    return signals


def shortened(signals: Mapping[str, Any], blamed: Sequence[str]) -> dict[str, Any]:
    """Returns what was measured of at most MOST_CLIENTS clients, the blamed ones first, in six digits."""
    clients = signals["clients"]
    chosen = [*dict.fromkeys([*(client for client in blamed if client in clients), *clients])][:MOST_CLIENTS]
    return {"clients": {client: {k: number(v) for k, v in clients[client].items()} for client in chosen}}


def _middle(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _of_client(client: ClientFinding, findings: Findings) -> dict[str, Any]:
    values: dict[str, Any] = {name: number(getattr(client, name)) for name in _OF_A_CLIENT}
    memory, local = client.memory, findings.local_models.get(client.client)
    if memory is not None:
        losses = {"logged": number(memory.logged), "now": number(memory.now)}
        values["memory"] = {"round": memory.round, **losses}
    if local is not None:
        numbers = {name: value for name, value in vars(local).items() if name != "recalls"}
        values |= {name: number(value) for name, value in numbers.items()}
        values["recalls"] = {str(label): number(recall) for label, recall in sorted(local.recalls.items())}
    return values


def series(losses: Sequence[float]) -> Curve:
    """Returns a loss per round, each as `number` gives it."""
    return tuple(number(loss) for loss in losses)


def number(value: float | None) -> float | None:
    """Returns six significant digits; None for what is not finite, which JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
