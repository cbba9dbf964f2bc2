"""The possible causes of a run's end, and the changes that take them away."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks.clients import Examples
from tasks.diagnose.causes import CAUSES, Candidate, candidates
from tasks.diagnose.causes.base import Situation
from tasks.diagnose.causes.shared import leave_out, without
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.phrases import every_client
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.replay.surgery import features_like_the_others
from tasks.diagnose.thresholds import BEYOND, OWN_STEEP, STEEP
from tasks.local.landscape import curvature
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog
from tasks.settings import Settings

_EXAMPLES = 200
"""Most examples of a client on which the curvature is computed."""
_CLIENTS = 50
"""Most clients whose curvature is computed."""
_SERVER = "server_learning_rate"
_FACTORS = tuple(factor * 10.0**power for power in range(40) for factor in (3, 10))
"""By which the client rate is divided, one after the other: float32 ends at 3e38."""
_RATES = 8
"""Most client rates to try."""


@dataclass(frozen=True)
class Steepness:
    """The client rate times the largest curvature of each client's loss at one model, without unit.

    Attributes:
        by_client: client to the absolute value; clients without a finite value are left out.
        rate: the client rate.
    """

    by_client: Mapping[str, float]
    rate: float

    @property
    def median(self) -> float:
        """Median over the clients; NaN without clients."""
        return float(np.median([*self.by_client.values()])) if self.by_client else np.nan

    @property
    def outliers(self) -> tuple[str, ...]:
        """The clients whose steps overshoot because of their own data: above STEEP, and OWN_STEEP times the median."""
        limit = max(STEEP, OWN_STEEP * self.median)
        return tuple(client for client, steep in self.by_client.items() if steep > limit)

    def rates(self) -> list[float]:
        """Returns the lower client rates at which the median client's steps do not overshoot, the highest first."""
        rates = [float(f"{self.rate / factor:.3g}") for factor in _FACTORS]
        return [rate for rate in rates if not rate / self.rate * self.median >= STEEP][:_RATES]


def steepness_of(replays: Replayer, probe: Probe) -> Steepness:
    """Returns the steepness at the model that the replays start from, of some clients."""
    clients = list(replays.cohort.clients)
    some = clients[:: -(-len(clients) // _CLIENTS)]

    def curved(_: str, examples: Examples) -> float:
        few = examples[0][:_EXAMPLES], examples[1][:_EXAMPLES]
        with np.errstate(all="ignore"):
            return abs(curvature(probe, replays.params, few)) if len(few[1]) else np.nan

    rate = replays.settings.federate.client.learning_rate
    found = replays.at_clients(curved, some)
    return Steepness({client: rate * value for client, value in found.items() if np.isfinite(value)}, rate)


def suspects(
    ending: Ending, findings: Findings, steepness: Steepness, log: ClientLog, settings: Settings, start: int
) -> Iterator[Candidate]:
    """Yields the possible causes, the most specific first; the client rate, which is always possible, is the last.

    Args:
        ending: of the run.
        findings: of the clients.
        steepness: of the clients.
        log: clients.csv.
        settings: of the run.
        start: round of the model that the replays start from.
    """
    at = Situation(findings, settings, start)
    unusable = tuple(client for client in ending.failed if client not in ending.not_finite)
    if 0 < len(unusable) < ending.num_clients / 2:
        settings_without = leave_out(unusable, settings).settings
        yield Candidate("faulty_clients", Change(f"without {every_client(unusable)}", settings_without), unusable)
    steep = steepness.outliers
    proposed = candidates(findings, settings, start)
    # The skews are no causes here: data of other labels or sizes make no step overflow.
    evident = [each for each in proposed if each.cause == "non_finite" or CAUSES[each.cause].evident]
    # The guard stops for a failure. Without the guard, a failed client is left out, and its steps before did the harm.
    doubled = [each for each in evident if steep and each.clients == steep]
    doubled = [each for each in doubled if each.cause != "non_finite" or not ending.by_guard]
    yield from (each for each in evident if each.cause != _SERVER and each not in doubled)
    long = far_too_long(log, ending.since)
    known = {each.clients for each in proposed if each.cause == "faulty_clients"} | {steep}
    # Where local training itself diverges, honest updates have any length.
    if at.is_minority(long) and long not in known and not steepness.median > STEEP:
        yield Candidate("faulty_clients", without(long), long)
    if at.is_minority(steep):
        says = f"the features of {every_client(steep)} brought to the mean and standard deviation of all others"
        aligned = Change(f"with {says}", surgery={says: features_like_the_others(steep)})
        yield Candidate("feature_shift", aligned, steep)
        yield Candidate("faulty_clients", without(steep), steep)
    yield from (each for each in evident if each.cause == _SERVER)
    rates = steepness.rates()
    if rates:
        yield _rate(rates[0], rates[min(2, len(rates) - 1)])


def _rate(first: float, then: float) -> Candidate:
    changes = [Change(f"at a client learning rate of {rate:g}", rate_settings(rate)) for rate in (first, then)]
    return Candidate("client_learning_rate", changes[0], instead=changes[1])


def rate_settings(rate: float) -> dict[str, float]:
    """Returns the settings of a client rate."""
    return {"federate.client.learning_rate": rate}


def far_too_long(log: ClientLog, round_num: int) -> tuple[str, ...]:
    """Returns the clients whose logged update of a round is longer than BEYOND times the median client's."""
    if "update_norm" not in log.signals:
        return ()
    norms = log.signals["update_norm"]
    rows = np.flatnonzero((log.rounds == round_num) & np.isfinite(norms))
    if not len(rows):
        return ()
    limit = BEYOND * float(np.median(norms[rows]))
    return tuple(sorted(log.clients[row] for row in rows if norms[row] > limit))
