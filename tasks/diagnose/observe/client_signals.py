"""What the logs show of single clients, as far as a report says it: failures, and signals in the rounds of the rise."""

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.phrases import figure
from tasks.errors import listed

_SHOWN = 3
"""Clients that are shown if none is unusual."""
MOST_SHOWN = 30
"""Most clients with failures, and most clients with unusual signals, that a report shows: more are no longer read."""
_ROUNDS = 20
"""Most rounds that one sentence lists."""
_SAYS = {
    "update_norm": "sent updates of length {0}",
    "update_cosine": "sent updates with cosine {0} to the mean update",
    "update_cosine_robust": "sent updates with cosine {0} to the median of all updates",
    "loss_before": "had a loss of {0} on its own data before local training",
    "loss_change": "changed the loss on its own data by {0} in local training",
}


@dataclass(frozen=True)
class ClientSignal:
    """One signal of one client in the rounds of the rise, or the rounds in which it failed.

    Attributes:
        client: id.
        signal: name of the signal, as in `drift`; `finite` for failures.
        value: mean over the client's rounds in the rise, in the signal's own unit; of failures, their number.
        expected: mean over the same rounds of the median client's value; None where there is none to compare with.
        before: median of the client's own rounds before the rise; None if it took part in none.
        score: how unusual it is, as in `drift`; None for failures.
        unusual: whether that is beyond the usual spread.
        rounds: the rounds that were compared, first and last; of failures, all.
        says: one sentence.
    """

    client: str
    signal: str
    value: float
    expected: float | None
    before: float | None
    score: float | None
    unusual: bool
    rounds: tuple[int, ...]
    says: str


def client_signals(observation: Observation) -> tuple[ClientSignal, ...]:
    """Returns the failures, then all unusual signals; if none is unusual, one signal of the three that drifted most.

    Of more than MOST_SHOWN clients with failures, those with the most are shown; of more than MOST_SHOWN unusual
    clients, those that drifted most.
    """
    return (*_failures(observation), *_drifts(observation))


def _failures(observation: Observation) -> Iterator[ClientSignal]:
    failures = observation.failures
    most = sorted(failures, key=lambda client: (-len(failures[client]), client))[:MOST_SHOWN]
    for client in sorted(most):
        rounds = failures[client]
        when = ("round " if len(rounds) == 1 else "rounds ") + listed([str(number) for number in rounds], _ROUNDS)
        says = f"Client {client} failed in {when}: the server left its update out of the average."
        yield ClientSignal(client, "finite", len(rounds), 0, None, None, True, rounds, says)


def _drifts(observation: Observation) -> Iterator[ClientSignal]:
    most_drifted = tuple(dict.fromkeys(drift.client for drift in observation.drifts))[:_SHOWN]
    by_client: dict[str, list[Drift]] = {}
    for drift in observation.drifts:
        by_client.setdefault(drift.client, []).append(drift)
    for client in observation.unusual[:MOST_SHOWN] or most_drifted:
        for drift in [drift for drift in by_client[client] if drift.unusual] or by_client[client][:1]:
            yield ClientSignal(**vars(drift), rounds=observation.window or (), says=_says(drift))


def _says(drift: Drift) -> str:
    cohort = "" if drift.expected is None else f"; the median client: {figure(drift.expected)}"
    before = "" if drift.before is None else f"; before the rise: {figure(drift.before)}"
    end = " This is unusual." if drift.unusual else " This is within the usual spread."
    return f"Client {drift.client} {_SAYS[drift.signal].format(figure(drift.value))}{cohort}{before}.{end}"
