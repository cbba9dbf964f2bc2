"""Clients whose own loss rose: the statistic by hand, false alarms, power, and invariances."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from tasks.diagnose.observe.own_losses import client_rises, common, last_up, polished
from tasks.diagnose.observe.short_series import PooledLaw, heights, noise_sd, panel_law, pooled_law, simulated_law, tail
from tasks.round_log.read import codes_of

SIGNIFICANCE = 0.0025


def rises_of(clients, rounds, losses, significance):
    """Returns the rises of the clients that have these ids in the rows."""
    return client_rises(*codes_of(clients.tolist()), rounds, losses, significance)


def panel(rng, clients=20, rounds=30, share=0.3, noise=0.3, falling=True):
    """(clients, rounds, losses) of a run in which each client takes part in a share of the rounds."""
    rows = [(f"{c:02}", t) for t in range(1, rounds + 1) for c in range(clients) if rng.random() < share]
    level = np.array([(0.5 + 2 * np.exp(-t / 8) if falling else 1.0) for _, t in rows])
    losses = level * np.exp(noise * rng.standard_t(5, len(rows)) / np.sqrt(5 / 3))
    return np.array([c for c, _ in rows]), np.array([t for _, t in rows]), losses


def test_statistic_by_hand():
    # The logarithms are 0 0 0 0 | 4 4; the last split has two losses after it. There is no spread within the parts.
    # With the noise of 0.5 in 4 of 4 + 2 - 2 + 4 = 8 degrees of freedom, t = 4 / (0.5 sqrt(4 / 8) sqrt(1/2 + 1/4)),
    # which is converted to a normal deviate.
    z = np.array([[0.0, 0, 0, 0, 4, 4]])
    (_, one), (_, two), (width, rest) = heights(z, z, np.array([0.5]))
    assert width == 6
    # The last loss alone, after 0 0 0 0 4 with the mean 0.8 and the variance 3.2 of 5 - 1 = 4 degrees of freedom.
    last = (4 - 0.8) / np.sqrt((4 * 3.2 + 4 * 0.5**2) / 8 * (1 + 1 / 5))
    np.testing.assert_allclose(one[0, 2], norm.isf(student.sf(last, 8)), rtol=0.02)
    t = 4 / (0.5 * np.sqrt(4 / 8) * np.sqrt(1 / 2 + 1 / 4))
    np.testing.assert_allclose([two[0, 1], rest[0, 1]], norm.isf(student.sf(t, 8)), rtol=0.02)
    # The rise counts 0 if the loss rose by less than half as much as it rose relative to the others.
    *_, (_, rest) = heights(z / 4, z, np.array([0.5]))
    assert rest[0, 1] == 0
    # The smaller half of |1|, |2|, |3|, |4| is 1 and 2. Differences of independent noise have sqrt(2) times its sd.
    np.testing.assert_allclose(noise_sd(np.array([[4.0, -1, 3, -2]])), [1.5 / 0.3247 / np.sqrt(2)])


def test_noise_of_all_clients_is_itsnoise_sd():
    steps = np.diff(0.3 * np.random.default_rng(1).standard_normal((1, 20_000)), axis=1)
    np.testing.assert_allclose(noise_sd(steps), [0.3], rtol=0.03)


@pytest.mark.slow
def test_a_few_clients_whose_loss_jumps_are_named_and_dated():
    named, dated = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clients, rounds, losses = panel(rng, share=0.5)
        planted = {"03", "11"}
        hit = np.isin(clients, sorted(planted)) & (rounds >= 16)
        found = rises_of(clients, rounds, np.where(hit, 12 * losses, losses), SIGNIFICANCE)
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


def statistics(z, d, noise):
    """A slow reference: every window and split of the docstring of `client_rises`, one by one."""
    n, found = len(z), {}
    for width in [w for w in (1, 2, 4, 8) if w == 1 or w < n - 3] + [n]:
        for split in range(3, n):
            end = min(split + width, n)
            if (width < n and split + width > n) or (width == n and split > n - 2):
                continue
            before, after = d[:split], d[split:end]
            freedom = len(before) + len(after) - 2 + 4
            inner = ((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum() + 4 * noise**2
            rise = after.mean() - before.mean()
            t = rise / np.sqrt(inner / freedom * (1 / len(before) + 1 / len(after)))
            height = np.sign(t) * norm.isf(student.sf(abs(t), freedom))
            own = z[split:end].mean() - z[max(0, split - 4) : split].mean()
            found[width, split] = height if own >= rise / 2 else min(height, 0)
    return found


@pytest.mark.parametrize("n", [4, 5, 6, 7, 11, 20])
def test_statistic_is_that_of_the_slow_reference(n):
    rng = np.random.default_rng(n)
    z, d = rng.standard_normal((2, 3, n))
    noise = np.array([0.5, 1.0, 2.0])
    fast = {(width, 3 + i): rows[:, i] for width, rows in heights(z, d, noise) for i in range(rows.shape[1])}
    for row in range(3):
        slow = statistics(z[row], d[row], noise[row])
        assert slow.keys() == fast.keys()
        np.testing.assert_allclose([fast[key][row] for key in slow], list(slow.values()), atol=0.03)


def last_up_reference(up, first):
    """Tries every end: losses that are up in the rise and losses that are not up after it count for it."""
    right = [sum(up[first + 1 : end + 1]) + sum(~up[end + 1 :]) for end in range(first, len(up))]
    return first + max(range(len(right)), key=lambda place: (right[place], place))


def test_a_rise_ends_where_most_losses_are_on_the_right_side():
    rng = np.random.default_rng(5)
    for _ in range(300):
        up = rng.random(int(rng.integers(1, 25))) < rng.choice([0.1, 0.4, 0.8])
        first = int(rng.integers(len(up)))
        assert last_up(up, first) == last_up_reference(up, first)
    # Nine rounds up, five down, twelve up: one rise. A single high loss after five low ones is noise.
    assert last_up(np.repeat([False, True, False, True], [3, 9, 5, 12]), 3) == 28
    assert last_up(np.repeat([False, True, False, True, False], [3, 4, 5, 1, 2]), 3) == 6


def test_common_loss_is_that_of_the_mean_client_whoever_takes_part():
    # The clients have the factors 1, 2, 4, 8 times a level that rises in round 4. The participants change from round to
    # round. The floor is 0, so the logarithm is exact.
    factor, level = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}, [3.0, 2, 1, 6, 5, 4]
    rows = [("ab", 1), ("bc", 2), ("cd", 3), ("ab", 4), ("ac", 5), ("bd", 6)]
    told = [(c, t, factor[c] * level[t - 1]) for who, t in rows for c in who]
    clients, rounds, losses = (np.array(column) for column in zip(*told, strict=True))
    at, found = common(clients, rounds, losses - 0.2 * np.median(losses))  # plus a quarter of its median, 0.8 of it
    np.testing.assert_array_equal(at, range(1, 7))
    np.testing.assert_allclose(found / found[0], np.array(level) / level[0], rtol=1e-3)
    plain = [losses[rounds == t].mean() for t in at]
    assert plain[3] < 2 * plain[2]  # the mean over the participants hides a sixfold rise


def test_client_whose_loss_is_small_and_steady_is_found_beside_noisy_ones():
    # Nine clients have losses near zero that vary by orders of magnitude. The tenth client has a steady loss of 0.07.
    rng = np.random.default_rng(2)
    rows = [(f"{c:02}", t) for t in range(1, 31) for c in range(10)]
    clients, rounds = np.array([c for c, _ in rows]), np.array([t for _, t in rows])
    noisy = 0.1 * np.exp(2 * rng.standard_normal(len(rows)) - 1)
    steady = 0.07 * np.exp(0.1 * rng.standard_normal(len(rows)))
    losses = np.where(clients == "07", np.where(rounds >= 16, 10, 1) * steady, noisy)
    (found,) = rises_of(clients, rounds, losses, SIGNIFICANCE)
    assert (found.client, found.round) == ("07", 16)


def test_what_is_typical_of_a_round_and_of_a_client_is_taken_away():
    # Three clients take part in all six rounds, with factors 1, 2, 4. The typical loss falls by 10 % a round.
    rounds, clients = np.repeat(np.arange(1, 7), 3), np.array(["a", "b", "c"] * 6)
    z = np.log(np.tile([1.0, 2, 4], 6) * 0.9**rounds)
    typical, factor = polished(clients, rounds, z)
    # The median of the rounds up to 2 away is the round's own value, except at the ends: there it is half a round off.
    np.testing.assert_allclose((z - typical - factor)[6:12], 0, atol=1e-12)
    np.testing.assert_allclose(factor[1] - factor[0], np.log(2))


def test_a_brief_rise_is_found_and_a_slower_fall_is_none():
    rng = np.random.default_rng(3)
    clients, rounds, losses = panel(rng, share=1.0, noise=0.1)
    brief = (clients == "05") & (rounds >= 16) & (rounds < 20)
    (found,) = rises_of(clients, rounds, np.where(brief, 4 * losses, losses), SIGNIFICANCE)
    assert (found.client, found.round, found.until) == ("05", 16, 19)
    # The client's loss stays as in round 10, and the others' losses fall. It rises relative to them, but not by itself.
    stuck = (clients == "05") & (rounds > 10)
    level = 0.5 + 2 * np.exp(-np.array([10, 1]) / 8)
    flat = np.where(stuck, losses / (0.5 + 2 * np.exp(-rounds / 8)) * level[0], losses)
    assert rises_of(clients, rounds, flat, SIGNIFICANCE) == []


@pytest.mark.parametrize(("onset", "named"), [(6, ["05"]), (5, [])])
def test_a_rise_is_dated_from_the_sixth_round_on(onset, named):
    # The first 5 rounds are left out: from its first weights, a model moves towards most clients.
    clients, rounds, losses = panel(np.random.default_rng(9), clients=8, share=1.0, noise=0.1, falling=False)
    hit = (clients == "05") & (rounds >= onset)
    rises = rises_of(clients, rounds, np.where(hit, 20 * losses, losses), SIGNIFICANCE)
    assert [(rise.client, rise.round) for rise in rises] == [(client, onset) for client in named]


def test_a_rise_of_all_clients_is_not_one_of_a_few():
    rng = np.random.default_rng(4)
    clients, rounds, losses = panel(rng, share=0.5, noise=0.1)
    assert rises_of(clients, rounds, np.where(rounds >= 16, 5 * losses, losses), SIGNIFICANCE) == []


@pytest.mark.parametrize("num_rounds", range(1, 12))
def test_logs_of_any_length_can_be_tested(num_rounds):
    rounds, clients = np.repeat(np.arange(1, num_rounds + 1), 4), np.tile(list("abcd"), num_rounds)
    losses = 1 + 0.1 * np.random.default_rng(num_rounds).random(len(rounds))
    assert rises_of(clients, rounds, losses, SIGNIFICANCE) == []
    late = (clients == "b") & (rounds == num_rounds)  # the last loss, with at least three before it
    found = rises_of(clients, rounds, np.where(late, 1e6, losses), SIGNIFICANCE)
    assert [one.client for one in found] in ([], ["b"])
    assert not found or (num_rounds > 5 and found[0].round == num_rounds)


def test_a_small_significance_can_be_reached():
    # None of 4,000 simulated panels is as clear, which gives 1/4001 at best. More panels can give a smaller value.
    rng = np.random.default_rng(8)
    clients, rounds, losses = panel(rng, clients=6, rounds=20, share=1.0, noise=0.1)
    hit = (clients == "02") & (rounds >= 14)
    (found,) = rises_of(clients, rounds, np.where(hit, 20 * losses, losses), 0.0001)
    assert (found.client, found.round) == ("02", 14)
    assert 1 - found.confidence < 0.0001


def test_long_logs_are_tested_in_blocks():
    rng = np.random.default_rng(6)
    clients, rounds, losses = panel(rng, clients=6, rounds=250, share=1.0, falling=False)
    hit = (clients == "02") & (rounds >= 130)
    (found,) = rises_of(clients, rounds, np.where(hit, 2 * losses, losses), SIGNIFICANCE)
    # 250 losses make 83 blocks of 3. The 44th block is rounds 130 to 132. The rise is dated to it or to a neighbour.
    assert (found.client, found.round in {127, 130, 133}) == ("02", True)


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("share", [pytest.param(0.3, marks=pytest.mark.slow), 1.0])
def test_noise_is_claimed_no_more_often_than_promised(share, falling):
    # At a significance of 0.04, at most 4 of 100 panels are expected. More than 10 have a probability of 0.2 %.
    claims = 0
    for seed in range(100):
        rows = panel(np.random.default_rng([7, seed]), clients=8, share=share, falling=falling)
        claims += bool(rises_of(*rows, 0.04))
    assert claims <= 10


def test_order_of_rows_and_unit_of_the_loss_do_not_matter():
    rng = np.random.default_rng(5)
    clients, rounds, losses = panel(rng, share=0.5)
    losses = np.where((clients == "04") & (rounds >= 16), 9 * losses, losses)
    found = rises_of(clients, rounds, losses, SIGNIFICANCE)
    shuffled = rng.permutation(len(losses))
    assert found == rises_of(clients[shuffled], rounds[shuffled], 1e3 * losses[shuffled], SIGNIFICANCE)
    assert [one.client for one in found] == ["04"]


@pytest.mark.parametrize(
    ("losses", "rounds"), [([1.0, 1.0, 9.0], [1, 2, 3]), ([1.0] * 8, range(8)), ([9.0, 5.0, 3.0, 2.0, 1.0], range(5))]
)
def test_too_few_equal_and_falling_losses_are_no_rise(losses, rounds):
    clients = np.array(["00"] * len(losses) + ["01"] * len(losses))
    assert rises_of(clients, np.array([*rounds, *rounds]), np.array([*losses, *losses]), SIGNIFICANCE) == []


@pytest.mark.parametrize(("num_rounds", "first", "last"), [(100, 61, 100), (101, 61, 99), (202, 61, 199)])
def test_rounds_of_a_rise_are_the_first_of_their_blocks(num_rounds, first, last):
    # 100 losses are tested one by one. 101 losses make 50 blocks of 2; the last block is rounds 99 and 100. 202 losses
    # make 67 blocks of 3; the last block is rounds 199 to 201. The remaining losses are cut. Round 61 is the first of a
    # block of 2 and of a block of 3.
    clients, rounds, losses = panel(np.random.default_rng(6), 3, num_rounds, 1.0, 0.1, falling=False)
    hit = (clients == "02") & (rounds >= 61)
    (found,) = rises_of(clients, rounds, np.where(hit, 20 * losses, losses), 0.05)
    assert (found.client, found.round, found.until) == ("02", first, last)


def test_statistic_of_a_series_does_not_depend_on_the_series_beside_it():
    # 1e8 plus a whole number is exact, but its square is not: if the mean is not subtracted first, 0 to 7 are lost.
    d = np.array([[1.0, 3, 0, 2, 7, 6, 7, 5], [1e8 + 2, 1e8, 1e8 + 1, 1e8 + 3, 1e8 + 5, 1e8 + 5, 1e8 + 4, 1e8 + 7]])
    noise = np.array([1.0, 1.0])
    alone = [list(heights(row[None], row[None], noise[:1])) for row in (d[0], d[1] - 1e8)]
    for (width, both), (_, one), (_, two) in zip(heights(d, d, noise), *alone, strict=True):
        np.testing.assert_allclose(both, np.concatenate([one, two]), rtol=1e-6, err_msg=str(width))


def test_law_of_a_large_panel_is_that_of_whole_panels():
    # 60 clients with 6, 12 or 20 losses: few enough to simulate 6,000 panels as a whole. The 1 % of them that are
    # highest are 60 panels, whose number has a standard error of 13 %.
    lengths = (6,) * 20 + (12,) * 20 + (20,) * 20
    whole, pooled = simulated_law(lengths, 6_000), pooled_law(lengths)
    for share in (0.1, 0.01):
        single, lasting = (float(np.quantile(maxima, 1 - share)) for maxima in (whole.single, whole.lasting))
        found = [pooled.of_its_kind(single, 1), pooled.of_its_kind(lasting, 2)]
        np.testing.assert_allclose(found, share, rtol=0.4)
        np.testing.assert_allclose(pooled.p_value(float(np.quantile(whole.smallest, share))), share, rtol=0.4)


def test_law_of_one_series_goes_on_exponentially_beyond_all_simulated_heights():
    # Heights with the law P(height >= h) = exp(-h). Beyond the 99 % quantile, ln 100, the mean excess is 1.
    law = tail(-np.log((np.arange(100_000) + 0.5) / 100_000))
    for height in (1.0, 4.0, 14.0, 20.0):
        np.testing.assert_allclose(law.beyond(height), np.exp(-height), rtol=0.05)
    # The clearest of 1,000 such heights is below h with the probability (1 - exp(-h))^1000.
    panel = PooledLaw(1_000, law, law)
    np.testing.assert_allclose(panel.of_its_kind(10.0, 1), 1 - (1 - np.exp(-10)) ** 1000, rtol=0.05)
    assert panel.p_value(0.25) == 1 - 0.75**2


def test_large_panels_have_the_law_of_independent_series():
    assert isinstance(panel_law((8,) * 101, 4_000), PooledLaw)
    assert not isinstance(panel_law((8,) * 100, 4_000), PooledLaw)
