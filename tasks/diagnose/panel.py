"""Did the loss of a few clients rise, which the mean of all hides? Short series, one a client, tested together."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TAIL = 5
_DRAWS = 4000
_EACH = 2
"""Fewest losses before and after a split: one loss out of line is no rise that stays."""
_LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Risen:
    """A client whose loss rose.

    Attributes:
        client: id.
        round: its first round of the rise.
        until: its last round in the log.
        alarm: the round whose loss first made the claim possible.
        confidence: 1 - the probability that noise alone rises as clearly for any client.
    """

    client: str
    round: int
    until: int
    alarm: int
    confidence: float


def risen(clients: NDArray[np.str_], rounds: NDArray[np.int64], losses: Floats, significance: float) -> list[Risen]:
    """Returns the clients whose loss rose and stayed up, sorted by id.

    Args:
        clients: (M,) ids, one row for each round that a client took part in.
        rounds: (M,) rounds.
        losses: (M,) losses, > 0.
        significance: probability of claiming any client where there is only noise.

    **Test.** H0: a client's loss = level · noise, and no level rises. With z the log losses of a client in the order of
    its rounds, the statistic is the largest, over all clients and splits with at least 2 losses on either side, of
    (mean after - mean before) / (s sqrt(1 / n_after + 1 / n_before)); s is the mean of the smaller half of all
    |z_t - z_(t-1)|, which a rise of less than half of the clients does not reach. A falling level lowers every
    numerator. The law under H0 is simulated: independent Student-t(5) noise in a panel of the same shape. Clients whose
    losses move together, since they share a model, are claimed less often than that.

    **Limiting cases.** Clients with fewer than 4 losses are not tested; equal losses are no rise.
    """
    order = np.lexsort((rounds, clients))
    series = {
        str(client): (rounds[order][clients[order] == client], np.log(losses[order][clients[order] == client]))
        for client in np.unique(clients)
    }
    series = {client: (at, z) for client, (at, z) in series.items() if len(z) >= 2 * _EACH}
    if not series:
        return []
    scale = _scale(np.concatenate([np.diff(z)[None] for _, z in series.values()], axis=1))[0]
    law = _null(tuple(sorted(len(z) for _, z in series.values())))
    allowed = math.floor(significance * (1 + len(law)) + 1e-9) - 1
    if allowed < 0:
        return []
    critical = law[-1 - allowed]
    found = []
    for client, (at, z) in sorted(series.items()):
        heights = _heights(z[None], np.array([scale]))[0]
        if heights.max() <= critical:
            continue
        split = int(heights.argmax()) + _EACH
        alarm = next(
            end for end in range(split + _EACH, len(z) + 1) if _seen(z[:end], scale, critical) or end == len(z)
        )
        above = int((law >= heights.max()).sum())
        found.append(Risen(client, int(at[split]), int(at[-1]), int(at[alarm - 1]), 1 - (1 + above) / (1 + len(law))))
    return found


def _seen(z: Floats, scale: float, critical: float) -> bool:
    return len(z) >= 2 * _EACH and float(_heights(z[None], np.array([scale])).max()) > critical


def _scale(steps: Floats) -> Floats:
    """(draws, S) differences to (draws,): the mean of the smaller half of their sizes."""
    half = max(1, steps.shape[1] // 2)
    sizes: Floats = np.partition(np.abs(steps), half - 1, axis=1)[:, :half]
    return np.asarray(np.maximum(sizes.mean(axis=1), _LEAST_SCALE))


def _heights(z: Floats, scale: Floats) -> Floats:
    """(draws, n) losses of one client, (draws,) to (draws, n - 3): the statistic of every split."""
    n = z.shape[1]
    total = np.cumsum(z, axis=1)
    before = np.arange(_EACH, n - _EACH + 1)
    at_split = total[:, _EACH - 1 : n - _EACH]
    lower = at_split / before
    upper = (total[:, -1:] - at_split) / (n - before)
    return np.asarray((upper - lower) / (scale[:, None] * np.sqrt(1 / before + 1 / (n - before))))


@lru_cache(maxsize=64)
def _null(lengths: tuple[int, ...]) -> Floats:
    """The largest statistic of each of 4,000 panels of noise, ascending."""
    rng = np.random.default_rng([len(lengths), sum(lengths)])
    panels = [rng.standard_t(_TAIL, (_DRAWS, n)) for n in lengths]
    scale = _scale(np.concatenate([np.diff(z, axis=1) for z in panels], axis=1))
    return np.asarray(np.sort(np.max([_heights(z, scale).max(axis=1) for z in panels], axis=0)))
