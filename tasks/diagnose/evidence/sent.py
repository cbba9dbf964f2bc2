"""What clients send from the model before the rise: their updates, beside the others' and beside their own before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.evidence.logged import before
from tasks.diagnose.replay.engine import Replayer
from tasks.federate.statistics import geometric_median_shares, gram
from tasks.parameters import Params
from tasks.round_log.read import ClientLog
from tasks.runtime.failed import Failed

_MOST_COMPARED = 1_000
"""Most clients whose updates make the reference: their products take 8 MB, and 0.1 s for each 10,000 parameters."""


@dataclass(frozen=True)
class Captured:
    """One round of all clients, or of some, from the model before the rise.

    Attributes:
        round_num: the round.
        params: (P,) the model that it began with.
        updates: client to its update (P,), finite.
        weights: client to its aggregation weight.
        steps: client to its local steps.
    """

    round_num: int
    params: Params
    updates: Mapping[str, Params]
    weights: Mapping[str, float]
    steps: Mapping[str, int]

    def length(self, client: str) -> float:
        """Returns the length of a client's update."""
        return float(np.linalg.norm(self.updates[client].astype(np.float64)))


@dataclass(frozen=True)
class Sent:
    """What was measured of a client's updates; see `ClientFinding`. NaN where it sent none, or nothing to compare."""

    norm: float = np.nan
    norm_per_step: float = np.nan
    grown: float = np.nan
    slope: float = np.nan
    cosine: float = np.nan


@dataclass(frozen=True)
class Reference:
    """The updates of the clients whose data do not contradict the model.

    Wrong data make long updates from which all others point away: beside them, honest clients would look odd.

    Attributes:
        length: median length.
        rate: median length for each local step.
        centre: (P,) their geometric median.
    """

    length: float
    rate: float
    centre: Floats


def capture(replays: Replayer, round_num: int, clients: Sequence[str] | None = None, seed: int = 0) -> Captured:
    """Returns what `clients` (None: all) send in `round_num`; those that fail are left out."""
    results = replays.updates(round_num, clients, seed)
    used = {c: r for c, r in results.items() if not isinstance(r, Failed) and r.finite}
    return Captured(
        round_num,
        replays.params,
        {client: np.asarray(result.update) for client, result in used.items()},
        {client: result.weight for client, result in used.items()},
        {client: result.num_steps for client, result in used.items()},
    )


def reference_of(sent: Captured, sound: Sequence[str]) -> Reference | None:
    """Returns the updates to compare with, of the clients in `sound`; None if fewer than three of them sent one.

    Of more than 1,000, every second, third, … client counts: the products of all pairs grow with the square.
    """
    senders = [client for client in sound if client in sent.updates]
    if len(senders) < 3:
        return None
    senders = senders[:: -(-len(senders) // _MOST_COMPARED)]
    share = geometric_median_shares(gram([sent.updates[client] for client in senders]))
    centre = np.zeros(len(sent.params))
    for a, client in zip(share, senders, strict=True):
        centre += a * sent.updates[client].astype(np.float64)
    return Reference(
        float(np.median([sent.length(client) for client in senders])) or np.nan,
        float(np.median([sent.length(client) / max(1, sent.steps[client]) for client in senders])) or np.nan,
        centre,
    )


@dataclass(frozen=True)
class Gauge:
    """Measures clients' updates against their gradients, the log, and the other clients' updates.

    Attributes:
        gradients: client to the gradient (P,) of its loss at the model before the rise; without clients that do not
            follow a gradient of their own.
        decay: (P,) the gradient of weight decay, which each client adds to that of its loss.
        log: clients.csv.
        first: first round of the rise.
        reference: the updates to compare with; None if there are too few.
    """

    gradients: Mapping[str, Floats]
    decay: Floats | Params
    log: ClientLog
    first: int
    reference: Reference | None

    def measure(self, client: str, rounds: Sequence[Captured]) -> Sent:
        """Returns the median over `rounds` of each measure, of the rounds in which the client sent an update."""
        mine = [sent for sent in rounds if client in sent.updates]
        if not mine:
            return Sent()
        lengths = [sent.length(client) for sent in mine]
        rates = [length / max(1, sent.steps[client]) for length, sent in zip(lengths, mine, strict=True)]
        rate, usual = float(np.median(rates)), self._usual_rate(client)
        grown = rate / usual if usual > 0 else np.nan
        slope = float(np.median([self._slope(client, sent) for sent in mine]))
        if self.reference is None:
            return Sent(grown=grown, slope=slope)
        cosines = [_cosine(sent.updates[client], self.reference.centre) for sent in mine]
        return Sent(
            norm=float(np.median(lengths)) / self.reference.length,
            norm_per_step=rate / self.reference.rate,
            grown=grown,
            slope=slope,
            cosine=float(np.median(cosines)),
        )

    def _usual_rate(self, client: str) -> float:
        """Median length for each step of its updates in the log before the rise; NaN if there are none."""
        norms, steps = (before(self.log, name, client, self.first) for name in ("update_norm", "num_steps"))
        return float(np.median(norms / np.maximum(steps, 1))) if len(norms) and len(norms) == len(steps) else np.nan

    def _slope(self, client: str, sent: Captured) -> float:
        if client not in self.gradients:
            return np.nan
        return _cosine(sent.updates[client], self.gradients[client] + self.decay)


def _cosine(update: Params, reference: Floats) -> float:
    size = float(np.linalg.norm(update.astype(np.float64)) * np.linalg.norm(reference))
    return float(update @ reference) / size if size > 0 else np.nan
