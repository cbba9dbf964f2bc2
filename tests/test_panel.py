"""Clients whose own loss rose: the statistic by hand, false alarms, power, and what must not matter."""

import numpy as np
import pytest

from tasks.diagnose.panel import _heights, _scale, risen

SIGNIFICANCE = 0.0025


def panel(rng, clients=20, rounds=30, share=0.3, noise=0.3, falling=True):
    """(clients, rounds, losses) of a run in which each client takes part in a share of the rounds."""
    rows = [(f"{c:02}", t) for t in range(1, rounds + 1) for c in range(clients) if rng.random() < share]
    level = np.array([(0.5 + 2 * np.exp(-t / 8) if falling else 1.0) for _, t in rows])
    losses = level * np.exp(noise * rng.standard_t(5, len(rows)) / np.sqrt(5 / 3))
    return np.array([c for c, _ in rows]), np.array([t for _, t in rows]), losses


def test_statistic_by_hand():
    # Losses 0 0 | 3 3 on the logarithm: (3 - 0) / (s sqrt(1/2 + 1/2)) = 3 / s, the one split with two on either side.
    np.testing.assert_allclose(_heights(np.array([[0.0, 0, 3, 3]]), np.array([0.5])), [[6.0]])
    # The smaller half of |1|, |2|, |3|, |4| is 1 and 2.
    np.testing.assert_allclose(_scale(np.array([[4.0, -1, 3, -2]])), [1.5])


def test_a_few_clients_whose_loss_jumps_are_named_and_dated():
    named, dated = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clients, rounds, losses = panel(rng, share=0.5)
        planted = {"03", "11"}
        hit = np.isin(clients, sorted(planted)) & (rounds >= 16)
        found = risen(clients, rounds, np.where(hit, 12 * losses, losses), SIGNIFICANCE)
        assert {one.client for one in found} <= planted
        named += len(found)
        for one in found:
            first = rounds[hit & (clients == one.client)].min()
            dated.append(one.round == first)
            assert one.alarm >= one.round
            assert one.until == rounds[clients == one.client].max()
            assert one.confidence > 1 - SIGNIFICANCE
    assert named >= 36  # of 40
    assert np.mean(dated) >= 0.9


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_noise_is_claimed_no_more_often_than_promised(share, falling):
    # 200 panels at 0.02: 4 are promised at most; more than 10 have a probability of 0.3 %.
    claims = 0
    for seed in range(200):
        rows = panel(np.random.default_rng([7, seed]), clients=8, share=share, falling=falling)
        claims += bool(risen(*rows, 0.02))
    assert claims <= 10


def test_order_of_rows_and_unit_of_the_loss_do_not_matter():
    rng = np.random.default_rng(5)
    clients, rounds, losses = panel(rng, share=0.5)
    losses = np.where((clients == "04") & (rounds >= 16), 9 * losses, losses)
    found = risen(clients, rounds, losses, SIGNIFICANCE)
    shuffled = rng.permutation(len(losses))
    assert found == risen(clients[shuffled], rounds[shuffled], 1e3 * losses[shuffled], SIGNIFICANCE)
    assert [one.client for one in found] == ["04"]


@pytest.mark.parametrize(
    ("losses", "rounds"), [([1.0, 1.0, 9.0], [1, 2, 3]), ([1.0] * 8, range(8)), ([9.0, 5.0, 3.0, 2.0, 1.0], range(5))]
)
def test_too_few_equal_and_falling_losses_are_no_rise(losses, rounds):
    clients = np.array(["00"] * len(losses) + ["01"] * len(losses))
    assert risen(clients, np.array([*rounds, *rounds]), np.array([*losses, *losses]), SIGNIFICANCE) == []
