"""What the hold-out loss of a round's mean model gains or loses by single clients' updates."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tasks.diagnose.evidence.sent import Captured
from tasks.diagnose.replay.engine import Replayer
from tasks.local.probe import Probe
from tasks.parameters import Params

_MOST_LEFT_OUT = 50
"""Most honest clients whose harm is computed; each needs a sum over all clients."""
_WORST = 1e6
"""Most that a hold-out loss counts, nats; a loss that is not finite counts as that."""


def influence(replays: Replayer, probe: Probe, sent: Captured, updates: Mapping[str, Params]) -> dict[str, float]:
    """Returns the leave-one-out change of the hold-out loss by client; see `ClientFinding.left_out`."""
    if not updates:
        return {}
    test = (replays.cohort.test_x, replays.cohort.test_y)
    together, without = left_out_losses(lambda params: probe.fit(params, test).loss, sent.params, updates, sent.weights)
    with np.errstate(all="ignore"):
        return {client: float(np.log(together / without[client])) for client in updates}


def harmful(replays: Replayer, probe: Probe, sent: Captured, suspects: Sequence[str]) -> tuple[str, ...]:
    """Returns the suspects whose updates raise the hold-out loss more than the median honest client's do.

    With H the honest clients and L(S) the hold-out loss of the mean model of the clients S, the harm of suspect s is
    ln L(H and s) - ln L(H), and the harm of an honest client h is ln L(H) - ln L(H without h). Of more than 50 honest
    clients, the median is that of 50, evenly spread.
    """
    test = (replays.cohort.test_x, replays.cohort.test_y)
    honest = {c: u for c, u in sent.updates.items() if c not in suspects}
    if not honest:
        return ()

    def loss(params: Params) -> float:
        value = probe.fit(params, test).loss
        return float(np.log(min(value, _WORST))) if np.isfinite(value) else float(np.log(_WORST))

    clean, without = left_out_losses(loss, sent.params, honest, sent.weights, _MOST_LEFT_OUT)
    limit = max(0.0, float(np.median([clean - value for value in without.values()])))
    weight = sum(sent.weights[client] for client in honest)
    mean = _mean(honest, sent.weights)

    def with_suspect(client: str) -> Params:
        share = sent.weights[client] / (weight + sent.weights[client])
        return np.asarray(sent.params + (1 - share) * mean + share * sent.updates[client], np.float32)

    there = [client for client in suspects if client in sent.updates]
    return tuple(client for client in there if loss(with_suspect(client)) - clean > limit)


def left_out_losses(
    loss: Callable[[Params], float],
    params: Params,
    updates: Mapping[str, Params],
    weights: Mapping[str, float],
    most: int | None = None,
) -> tuple[float, dict[str, float]]:
    """Returns the loss of a round's weighted mean model, and by client the loss of the mean without that client.

    With only one client, the mean without it is `params`, the model that the round began with. Each mean is added up
    anew: an update of 1e20 would not leave a sum from which it is subtracted.

    Args:
        loss: of a model (P,).
        params: (P,) the model that the round began with.
        updates: client to its update (P,).
        weights: client to its weight.
        most: most clients that are left out, evenly spread over `updates`; None: each of them.
    """

    def mean_without(client: str | None) -> Params:
        left = {c: update for c, update in updates.items() if c != client}
        if not left or sum(weights[c] for c in left) == 0:
            return params
        return np.asarray(params + _mean(left, weights), np.float32)

    left_out = list(updates)[:: 1 if most is None else -(-len(updates) // most)]
    return loss(mean_without(None)), {client: loss(mean_without(client)) for client in left_out}


def _mean(updates: Mapping[str, Params], weights: Mapping[str, float]) -> Params:
    """The weighted mean (P,), without an array of all updates."""
    total = sum(weights[client] for client in updates)
    mean = np.zeros_like(next(iter(updates.values())))
    if total > 0:
        for client, update in updates.items():
            mean += weights[client] / total * update
    return mean
