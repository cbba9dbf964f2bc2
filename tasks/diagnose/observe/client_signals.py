"""What the logs show of single clients, as far as a report says it: failures, and signals in the rounds of the rise."""

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.observe.outliers import Outlier
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
        signal: name of the signal, as in `drift`; `failures` for failed updates.
        value: mean over the client's rounds in the rise, in the signal's own unit; of failures, their number; of
            outliers, the value that is farthest outside.
        expected: mean over the same rounds of the median client's value; None where there is none to compare with.
        before: median of the client's own rounds before the rise (of outliers: before the round); None if it took part
            in none.
        score: how unusual it is, as in `drift`; None for failures and outliers.
        unusual: whether that is beyond the usual spread.
        rounds: the rounds that were compared, first and last; of failures and outliers, all.
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

    A signal is unusual if (1) it drifted in the rounds of the rise, or (2) it is far outside in some round of the run.
    Of more than MOST_SHOWN clients with failures, those with the most are shown; of more than MOST_SHOWN unusual
    clients, those that drifted most.
    """
    drifts = tuple(_drifts(observation))
    shown = {(each.client, each.signal) for each in drifts if each.unusual}
    outside = [each for each in _outliers(observation) if (each.client, each.signal) not in shown]
    named = {each.client for each in outside}
    return (*_failures(observation), *(each for each in drifts if each.unusual or each.client not in named), *outside)


def _failures(observation: Observation) -> Iterator[ClientSignal]:
    failures = observation.failures
    most = sorted(failures, key=lambda client: (-len(failures[client]), client))[:MOST_SHOWN]
    for client in sorted(most):
        rounds = failures[client]
        says = f"Client {client} failed in {_listed(rounds)}: the server left its update out of the average."
        yield ClientSignal(client, "failures", len(rounds), 0, None, None, True, rounds, says)


def _outliers(observation: Observation) -> Iterator[ClientSignal]:
    rows: dict[tuple[str, str], list[Outlier]] = {}
    for outlier in observation.outliers:
        rows.setdefault((outlier.client, outlier.signal), []).append(outlier)
    chosen = set(observation.unusual[:MOST_SHOWN])
    for (client, signal), outside in sorted(rows.items()):
        if client not in chosen:
            continue
        most = min(outside, key=lambda each: (each.p_value, each.round))
        rounds = tuple(each.round for each in outside)
        usual = "" if most.usual is None else f"; usual of this client: {figure(most.usual)}"
        others = f", also in {_listed(tuple(number for number in rounds if number != most.round))}"
        says = (
            f"In round {most.round}, client {client} {_SAYS[signal].format(figure(most.value))}; the median client: "
            f"{figure(most.expected)}{usual}. This is far outside{others if len(rounds) > 1 else ''}."
        )
        yield ClientSignal(client, signal, most.value, most.expected, most.usual, None, True, rounds, says)


def _listed(rounds: tuple[int, ...]) -> str:
    return ("round " if len(rounds) == 1 else "rounds ") + listed([str(number) for number in rounds], _ROUNDS)


def _drifts(observation: Observation) -> Iterator[ClientSignal]:
    most_drifted = tuple(dict.fromkeys(drift.client for drift in observation.drifts))[:_SHOWN]
    by_client: dict[str, list[Drift]] = {}
    for drift in observation.drifts:
        by_client.setdefault(drift.client, []).append(drift)
    unusual = [client for client in observation.unusual if any(drift.unusual for drift in by_client.get(client, []))]
    for client in unusual[:MOST_SHOWN] or most_drifted:
        for drift in [drift for drift in by_client[client] if drift.unusual] or by_client[client][:1]:
            yield ClientSignal(**vars(drift), rounds=observation.window or (), says=_says(drift))


def _says(drift: Drift) -> str:
    cohort = "" if drift.expected is None else f"; the median client: {figure(drift.expected)}"
    before = "" if drift.before is None else f"; before the rise: {figure(drift.before)}"
    end = " This is unusual." if drift.unusual else " This is within the usual spread."
    return f"Client {drift.client} {_SAYS[drift.signal].format(figure(drift.value))}{cohort}{before}.{end}"
