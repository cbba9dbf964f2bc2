"""What the hold-out loss of a round's mean model gains or loses by single clients' updates."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tasks.diagnose.evidence.sent import Captured
from tasks.diagnose.replay.engine import Replayer
from tasks.local.probe import Probe
from tasks.parameters import Params

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
    ln L(H and s) - ln L(H), and the harm of an honest client h is ln L(H) - ln L(H without h).
    """
    test = (replays.cohort.test_x, replays.cohort.test_y)
    honest = {c: u for c, u in sent.updates.items() if c not in suspects}
    if not honest:
        return ()

    def loss(params: Params) -> float:
        value = probe.fit(params, test).loss
        return float(np.log(min(value, _WORST))) if np.isfinite(value) else float(np.log(_WORST))

    clean, without = left_out_losses(loss, sent.params, honest, sent.weights)
    limit = max(0.0, float(np.median([clean - value for value in without.values()])))
    guilty = []
    for client in suspects:
        if client in sent.updates:
            together = {**honest, client: sent.updates[client]}
            if left_out_losses(loss, sent.params, together, sent.weights)[0] - clean > limit:
                guilty.append(client)
    return tuple(guilty)


def left_out_losses(
    loss: Callable[[Params], float], params: Params, updates: Mapping[str, Params], weights: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """Returns the loss of a round's weighted mean model, and by client the loss of the mean without that client.

    With only one client, the mean without it is `params`, the model that the round began with.
    """

    def mean_without(client: str | None) -> Params:
        left = [c for c in updates if c != client]
        total = sum(weights[c] for c in left)
        if not left or total == 0:
            return params
        return np.asarray(params + np.sum([weights[c] / total * updates[c] for c in left], axis=0), np.float32)

    return loss(mean_without(None)), {client: loss(mean_without(client)) for client in updates}
