"""The signals of single clients in a report, and their sentences."""

import math

from diagnosis_values import RISE

from tasks.diagnose.observe.client_signals import MOST_SHOWN, client_signals
from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.observation import Observation


def drift(client: str, signal: str, score: float, unusual: bool = False) -> Drift:
    return Drift(client, signal, 4.0, 1.0, 2.0, score, unusual)


def observation(*drifts: Drift, failures: dict[str, tuple[int, ...]] | None = None) -> Observation:
    clients = tuple(sorted({each.client for each in drifts}))
    return Observation(RISE, (7, 11), drifts, failures or {}, clients, math.nan, math.nan)


def test_failures_come_first_then_every_unusual_signal() -> None:
    drifts = [drift("03", "update_norm", 9.0, unusual=True), drift("03", "loss_before", 8.0, unusual=True)]
    drifts += [drift("03", "loss_change", 1.0), drift("01", "update_norm", 2.0)]
    signals = client_signals(observation(*drifts, failures={"00": (4,), "02": (3, 9)}))
    assert [(each.client, each.signal, each.rounds) for each in signals] == [
        ("00", "failures", (4,)),
        ("02", "failures", (3, 9)),
        ("03", "update_norm", (7, 11)),
        ("03", "loss_before", (7, 11)),
    ]
    assert [each.says for each in signals] == [
        "Client 00 failed in round 4: the server left its update out of the average.",
        "Client 02 failed in rounds 3, 9: the server left its update out of the average.",
        "Client 03 sent updates of length 4; the median client: 1; before the rise: 2. This is unusual.",
        "Client 03 had a loss of 4 on its own data before local training; the median client: 1; before the rise: 2. "
        "This is unusual.",
    ]


def test_if_none_is_unusual_the_first_signal_of_three_clients_is_shown_as_usual() -> None:
    drifts = [drift(client, name, 2.0) for client in "abcd" for name in ("update_norm", "loss_change")]
    signals = client_signals(observation(*drifts))
    assert [(each.client, each.signal) for each in signals] == [(client, "update_norm") for client in "abc"]
    assert all(each.says.endswith(" This is within the usual spread.") for each in signals)
    assert not any(each.unusual for each in signals)


def test_without_a_cohort_or_a_past_nothing_is_compared() -> None:
    (signal,) = client_signals(observation(Drift("03", "update_cosine", 0.5, None, None, 5.0, True)))
    assert signal.says == "Client 03 sent updates with cosine 0.5 to the mean update. This is unusual."


def test_of_many_clients_those_with_the_most_failures_and_the_largest_drift_are_shown() -> None:
    # Client 000 fails once, 001 twice, ...; 100 is the most drifted client, 101 the next, ...
    failures = {f"{k:03}": tuple(range(1, k + 2)) for k in range(2 * MOST_SHOWN)}
    drifts = [drift(f"{100 + k}", "update_norm", 9.0 - k / 100, unusual=True) for k in range(2 * MOST_SHOWN)]
    signals = client_signals(observation(*drifts, failures=failures))
    failed = [f"{k:03}" for k in range(MOST_SHOWN, 2 * MOST_SHOWN)]
    assert [each.client for each in signals] == [*failed, *(f"{100 + k}" for k in range(MOST_SHOWN))]
    # The first 20 of the 60 rounds in which the last one failed are listed.
    assert "18, 19, 20 and 40 more: the server" in signals[MOST_SHOWN - 1].says
