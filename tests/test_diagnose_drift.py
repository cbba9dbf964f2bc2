"""Which clients drifted most during the rise."""

from pathlib import Path

import numpy as np
import pytest
from diagnosis_logs import client_rows, losses_of, round_rows, write

from tasks.diagnose.observe.drift import drift, limit, ranking
from tasks.round_log.read import ClientLog, read_clients


def test_drifting_client_is_first_in_most_seeds(tmp_path: Path) -> None:
    first, honest_flagged = 0, 0
    for seed in range(30):
        folder = write(tmp_path, round_rows(losses_of(seed)), client_rows(seed, drifted=["04", "08"]))
        drifts = drift(read_clients(folder / "reports/clients.csv"), 19, 23, 0.01)
        first += set(ranking(drifts)[:2]) == {"04", "08"}
        honest_flagged += len({one.client for one in drifts if one.unusual} - {"04", "08"})
    assert first == 30
    assert honest_flagged <= 12  # of 240; the limit is a heuristic: it flags 2 to 4 % in simulated federated runs


def test_limit_grows_with_the_number_of_comparisons() -> None:
    assert limit(1, 1, 0.01) == 3.5  # the normal quantile at 0.995 is 2.58
    assert limit(100, 4, 0.01) == pytest.approx(4.2, abs=0.05)  # at 1 - 0.01 / 800: 4.21


def norm_log(norms: dict[str, np.ndarray], absent: dict[str, np.ndarray]) -> ClientLog:
    """A log of the norms (R,) by client in rounds 1 to R, without the rounds in which a client is `absent` (R,)."""
    num_rounds = len(next(iter(norms.values())))
    rows = [
        (t, client, norms[client][t - 1])
        for t in range(1, num_rounds + 1)
        for client in norms
        if client not in absent or not absent[client][t - 1]
    ]
    none = np.zeros(len(rows), dtype=np.bool_)
    signals = {"update_norm": np.array([norm for *_, norm in rows])}
    return ClientLog(np.array([t for t, *_ in rows]), tuple(client for _, client, _ in rows), signals, none, none)


def test_a_client_that_changed_30_rounds_ago_did_not_drift() -> None:
    # The rise begins in round 71. From round 41 on, the updates of client b are 4 times as long as before.
    rounds, rng = np.arange(1, 76), np.random.default_rng(0)
    norms = {client: np.exp(0.05 * rng.standard_normal(75)) for client in "abcde"}
    norms["b"] = np.where(rounds >= 41, 4, 1) * norms["b"]
    (of_b,) = [each for each in drift(norm_log(norms, {}), 71, 75, 0.01) if each.client == "b"]
    assert of_b.before == pytest.approx(4, rel=0.05)
    assert not of_b.unusual
    # If it changed with the rise, it is unusual.
    norms["b"] = np.where(rounds >= 71, 1, 0.25) * norms["b"]
    (of_b,) = [each for each in drift(norm_log(norms, {}), 71, 75, 0.01) if each.client == "b"]
    assert of_b.before == pytest.approx(1, rel=0.05)
    assert of_b.unusual


@pytest.mark.parametrize(("last_seen", "before"), [(51, 2.0), (50, None)])
def test_the_past_of_a_client_is_the_20_rounds_before_the_rise(last_seen: int, before: float | None) -> None:
    # The rise begins in round 71, so rounds 51 to 70 are the past of client b.
    rounds = np.arange(1, 76)
    norms = {client: np.full(75, 2.0) for client in "abcde"}
    log = norm_log(norms, {"b": (rounds != last_seen) & (rounds < 71)})
    (of_b,) = [each for each in drift(log, 71, 75, 0.01) if each.client == "b"]
    assert of_b.before == before


def test_norms_are_compared_as_ratios_and_told_in_their_own_unit() -> None:
    # The two rounds are the first of the log, so only the cohort decides. The base-2 logarithms of the clients' norms
    # are 0, 1, 2, 3 and, on average, 10. Their median is 2, and the distances to it are 2, 1, 0, 1, 8 with median 1.
    # So e has the score (10 - 2) / 1.4826. Its norms 2^8 and 2^12 have the mean 2176. The cohort's median is 2^2.
    norms = {client: np.full(2, 2.0**power) for power, client in enumerate("abcd")}
    log = norm_log({**norms, "e": np.array([2.0**8, 2.0**12])}, {})
    (of_e,) = [each for each in drift(log, 1, 2, 0.01) if each.client == "e"]
    assert (of_e.value, of_e.before, of_e.unusual) == (2176, None, True)
    assert of_e.expected == pytest.approx(4)
    assert of_e.score == pytest.approx(8 / 1.4826)
