"""The loss near a model on a client's examples: its curvature, and the path of plain SGD."""

from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.local.probe import Probe
from tasks.parameters import Params

_POWER_STEPS = 12
"""Iterations of the power method; each computes two gradients."""


def curvature(probe: Probe, params: Params, examples: Examples) -> float:
    """Returns the largest eigenvalue of the loss's Hessian over `examples` at `params`, by power iteration.

    If the learning rate times this eigenvalue is above 2, a step of gradient descent overshoots the minimum and ends
    farther from it than it began; on a parabola, descent diverges. The products with the Hessian are central
    differences of gradients, with a step of 1e-3 · max(1, ||params||). After 12 iterations the value is a lower bound,
    which is close if one eigenvalue is much larger than the others.
    """
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(len(params))
    direction /= np.linalg.norm(direction)
    at = params.astype(np.float64)
    step = 1e-3 * max(1.0, float(np.linalg.norm(at)))
    value = 0.0
    for _ in range(_POWER_STEPS):
        ahead = probe.gradient((at + step * direction).astype(np.float32), examples)[1]
        behind = probe.gradient((at - step * direction).astype(np.float32), examples)[1]
        product = (ahead - behind) / (2 * step)
        value, length = float(direction @ product), float(np.linalg.norm(product))
        if not np.isfinite(length) or length == 0:
            break
        direction = product / length
    return value


@dataclass(frozen=True)
class LocalPath:
    """A client's local steps with plain SGD.

    Attributes:
        loss: (S,) loss of each step's batch before the step, nats.
        distance: (S,) ||y_i - x|| after each step: the distance of the local from the global parameters.
        first_broken: index of the first step whose loss is not finite; None if all are.
    """

    loss: Floats
    distance: Floats
    first_broken: int | None


def local_path(
    probe: Probe, params: Params, examples: Examples, learning_rate: float, batch: int, epochs: int
) -> LocalPath:
    """Returns the path of plain SGD from `params` over `epochs` passes, whose orders are always the same."""
    x, y = examples
    at, losses, distances = params.astype(np.float64), [], []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(y))
        for i in range(0, len(y), batch):
            visits = order[i : i + batch]
            with np.errstate(all="ignore"):
                loss, slope = probe.gradient(at.astype(np.float32), (x[visits], y[visits]))
                at = at - learning_rate * slope
            losses.append(loss)
            distances.append(float(np.linalg.norm(at - params)))
            if not np.isfinite(loss):
                return LocalPath(np.array(losses), np.array(distances), len(losses) - 1)
    return LocalPath(np.array(losses), np.array(distances), None)
