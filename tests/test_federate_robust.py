"""The rules against slow, obvious NumPy; their symmetries; and how much f of n clients can change each result."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tasks.federate import aggregators
from tasks.federate.robust import (
    _batcher,
    _network,
    geometric_median,
    krum_scores,
    median,
    multi_krum,
    num_trimmed,
    trimmed_mean,
)
from tasks.federate.statistics import gram


def random_updates(num_clients, num_params, seed=0):
    return list(np.random.default_rng(seed).normal(size=(num_clients, num_params)).astype(np.float32))


def trimmed_by(trim):
    return lambda updates, weights: trimmed_mean(updates, weights, trim)


def krum_with(num_faulty, num_selected=1):
    return lambda updates, weights: multi_krum(updates, weights, num_faulty, num_selected)


RULES = {
    "median": median,
    "trimmed_mean": trimmed_by(0.3),
    "geometric_median": geometric_median,
    "krum": krum_with(2),
    "multi_krum": krum_with(2, 0),
}


def test_every_rule_is_tested_here():
    assert set(RULES) == set(aggregators.RULES), "RULES, above: each rule of tasks/federate/aggregators.py"


def apply(rule, updates, weights=None):
    updates = [np.asarray(update, np.float32) for update in updates]
    combined = rule(updates, np.ones(len(updates)) if weights is None else np.asarray(weights, np.float64))
    assert combined.update.shape == updates[0].shape
    assert combined.update.dtype == np.float32
    if combined.influence is not None:
        assert combined.influence.shape == (len(updates),)
        assert combined.influence.sum() == pytest.approx(1)
        assert (combined.influence >= 0).all()
    return combined.update


def slow_trimmed_mean(updates, trim):
    cut = int(len(updates) * round(trim * 100)) // 100
    return np.array([np.mean(sorted(entry)[cut : len(updates) - cut]) for entry in np.stack(updates).T.astype(float)])


def slow_krum_scores(updates, num_faulty):
    scores = []
    for i, update in enumerate(updates):
        others = [np.sum((update.astype(float) - other) ** 2) for j, other in enumerate(updates) if j != i]
        scores.append(sum(sorted(others)[: len(updates) - num_faulty - 2]))
    return np.array(scores)


shapes = st.tuples(st.integers(1, 21), st.sampled_from([1, 2, 37]), st.integers(0, 10**6))


@settings(max_examples=60)
@given(shapes)
def test_median_is_numpy_s(shape):
    updates = random_updates(*shape)
    np.testing.assert_allclose(apply(median, updates), np.median(np.stack(updates), axis=0), rtol=1e-6, atol=1e-7)


@settings(max_examples=60)
@given(shapes, st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.29, 0.4, 0.49]))
def test_trimmed_mean_sorts_cuts_and_averages_every_entry(shape, trim):
    updates = random_updates(*shape)
    np.testing.assert_allclose(apply(trimmed_by(trim), updates), slow_trimmed_mean(updates, trim), atol=2e-6)


@pytest.mark.parametrize("num_params", [1, 16384, 16385, 40000])
def test_median_of_more_parameters_than_a_block_is_numpy_s(num_params):
    updates = random_updates(7, num_params)
    np.testing.assert_array_equal(apply(median, updates), np.median(np.stack(updates), axis=0))


def test_equal_entries_and_signed_zeros_are_ranked_like_any_other():
    updates = [[0.0, 1, 5], [-0.0, 1, 5], [0.0, 1, 7], [2, 1, 5]]
    np.testing.assert_array_equal(apply(median, updates), [0, 1, 5])


def test_trim_zero_is_the_mean_and_the_largest_trim_the_median():
    updates = random_updates(9, 50)
    np.testing.assert_allclose(apply(trimmed_by(0.0), updates), np.mean(updates, axis=0), atol=1e-6)
    np.testing.assert_array_equal(apply(trimmed_by(0.49), updates), apply(median, updates))


def test_a_trim_of_29_percent_of_100_clients_is_29():
    # In floats 0.29 * 100 is 28.999999999999996.
    assert [num_trimmed(100, 0.29), num_trimmed(10, 0.3), num_trimmed(4, 0.2), num_trimmed(3, 0.49)] == [29, 3, 0, 1]


@pytest.mark.parametrize("num", range(1, 13))
def test_network_sorts_all_zeros_and_ones(num):
    """Knuth's 0-1 principle: a network that sorts every sequence of zeros and ones sorts everything."""
    for values in itertools.product([0, 1], repeat=num):
        line = list(values)
        for low, high in _batcher(num):
            line[low], line[high] = min(line[low], line[high]), max(line[low], line[high])
        assert line == sorted(values)


@pytest.mark.parametrize(("num", "cut"), [(num, cut) for num in range(1, 11) for cut in range((num + 1) // 2)])
def test_pruned_network_parts_the_middle_from_the_ends(num, cut):
    for values in itertools.product([0, 1], repeat=num):
        line = list(values)
        for low, high, low_used, high_used in _network(num, cut):
            smaller, larger = min(line[low], line[high]), max(line[low], line[high])
            line[low] = smaller if low_used else None
            line[high] = larger if high_used else None
        assert sorted(line[cut : num - cut]) == sorted(values)[cut : num - cut]


def test_pruned_network_is_smaller_than_a_sort():
    assert max(len(_network(100, cut)) for cut in range(50)) < len(_batcher(100))
    assert _network(100, 0) == ()


@settings(max_examples=60)
@given(st.integers(3, 15), st.sampled_from([1, 3, 40]), st.integers(0, 10**6), st.data())
def test_krum_is_the_update_with_the_smallest_brute_force_score(num_clients, num_params, seed, data):
    updates = random_updates(num_clients, num_params, seed)
    num_faulty = data.draw(st.integers(0, (num_clients - 3) // 2))
    expected = slow_krum_scores(updates, num_faulty)
    np.testing.assert_allclose(krum_scores(gram(updates), num_faulty), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(apply(krum_with(num_faulty), updates), updates[np.argmin(expected)])
    for num_selected in (1, 2, num_clients):
        best = np.argsort(expected)[:num_selected]
        found = apply(krum_with(num_faulty, num_selected), updates)
        np.testing.assert_allclose(found, np.mean(np.stack(updates)[best], axis=0), atol=1e-6)


def test_multi_krum_of_zero_selected_averages_all_but_the_faulty():
    updates = random_updates(9, 20)
    np.testing.assert_array_equal(apply(krum_with(2, 0), updates), apply(krum_with(2, 7), updates))


def test_multi_krum_of_all_is_the_mean():
    updates = random_updates(6, 20)
    np.testing.assert_allclose(apply(krum_with(1, 6), updates), np.mean(updates, axis=0), atol=1e-6)


def test_ties_go_to_the_first_client():
    # Two pairs, equally close: 0 and 1 on the left, 2 and 3 on the right, exact in float32.
    updates = np.array([[0.0], [1.0], [8.0], [9.0], [100.0]], np.float32)
    influence = multi_krum(list(updates), np.ones(5), num_faulty=1, num_selected=1).influence
    # K - f - 2 = 2 closest: 1 and 8² = 65, 1 and 7² = 50, 7² and 1 = 50, 8² and 1 = 65.
    np.testing.assert_array_equal(influence, [0, 1, 0, 0, 0])


def test_ties_among_many_clients_go_to_those_that_come_first():
    # 21 send 0 and 19 send 1, in mixed order. Of the 38 updates closest to a 0, 20 are equal and 18 are 1 away; for a 1
    # it is 18 and 20. So every 0 has the score 18, and every 1 has 20. An unstable sort would change the order here.
    sent = np.zeros(40, np.float32)
    sent[np.random.default_rng(0).permutation(40)[:19]] = 1
    zeros, ones = np.flatnonzero(sent == 0), np.flatnonzero(sent == 1)
    updates = [np.array([value]) for value in sent]
    for num_selected, expected in ((10, zeros[:10]), (30, np.sort([*zeros, *ones[:9]]))):
        found = multi_krum(updates, np.ones(40), 0, num_selected)
        np.testing.assert_array_equal(np.flatnonzero(found.influence), expected)


def test_a_share_below_what_float32_holds_still_counts():
    # The outlier's share is about 1e-43, and float32 keeps one or two digits of it. Its part of the result is as large
    # as the parts of the others.
    honest = [np.float32(1e-5) * update for update in random_updates(5, 3)]
    updates = [*honest, np.full(3, 1e38, np.float32)]
    found = geometric_median(updates, np.ones(6))
    part = found.influence[-1] * 1e38
    assert found.influence[-1] < 1e-41
    assert part > 1e-7
    np.testing.assert_allclose(found.update, found.influence @ np.stack(updates).astype(np.float64), rtol=1e-5)


def test_a_small_spread_beside_a_large_common_update_still_tells_krum_whom_to_take():
    common, *noise = random_updates(9, 500, seed=4)
    updates = [np.float32(1e3) * common + np.float32(1e-2) * n for n in noise]
    np.testing.assert_allclose(krum_scores(gram(updates), 2), slow_krum_scores(updates, 2), rtol=1e-3)


def test_krum_of_as_many_updates_as_it_needs_warns_of_nothing(caplog):
    apply(krum_with(2), random_updates(7, 5))
    assert not caplog.messages
    apply(krum_with(2), random_updates(6, 5))
    assert "fewer than 2 * num_faulty + 3 = 7" in caplog.text


def test_krum_of_too_few_updates_takes_one_and_warns(caplog):
    for num in (1, 2, 3, 6):
        caplog.clear()
        updates = random_updates(num, 5)
        chosen = apply(krum_with(2), updates)
        assert any((chosen == update).all() for update in updates)
        assert "fewer than 2 * num_faulty + 3 = 7" in caplog.text


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_geometric_median_minimises_the_weighted_sum_of_distances(num_clients, seed):
    points = np.stack(random_updates(num_clients, 2, seed)).astype(float)
    weights = np.random.default_rng(seed).uniform(0.5, 2, num_clients)

    def objective(z):
        return weights @ np.linalg.norm(points - z, axis=1)

    starts = [*points, weights @ points / weights.sum()]
    best = min(starts, key=objective)
    lowest = minimize(objective, best, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 5000})
    # Weiszfeld's iteration is slow if the median is close to one of the points.
    assert objective(apply(geometric_median, points, weights)) <= lowest.fun * (1 + 2e-3)


def test_a_weight_of_three_is_three_clients():
    updates = random_updates(5, 8)
    repeated = [updates[0], updates[0], *updates]
    weighted = apply(geometric_median, updates, [3, 1, 1, 1, 1])
    np.testing.assert_allclose(weighted, apply(geometric_median, repeated), atol=1e-3)


def test_a_client_with_more_than_half_of_the_weight_is_the_geometric_median():
    updates = random_updates(5, 8)
    np.testing.assert_allclose(apply(geometric_median, updates, [1, 1, 5, 1, 1]), updates[2], atol=1e-5)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_rules_of_one_vote_a_client_ignore_weights(name):
    updates = random_updates(9, 10)
    weighted = apply(RULES[name], updates, np.arange(1, 10))
    np.testing.assert_array_equal(weighted, apply(RULES[name], updates))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_order_of_clients_does_not_matter(rule):
    updates, weights = random_updates(11, 30, seed=3), np.arange(1.0, 12)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(11)
        found = apply(rule, [updates[i] for i in shuffled], weights[shuffled])
        np.testing.assert_allclose(found, apply(rule, updates, weights), atol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("scale", [1e-6, -1.0, 3.0, 1e6])
def test_scaled_and_moved_updates_give_the_scaled_and_moved_result(rule, scale):
    updates, shift = random_updates(9, 30, seed=5), random_updates(1, 30, seed=6)[0]
    moved = [np.float32(scale) * (update + shift) for update in updates]
    expected = scale * (apply(rule, updates).astype(float) + shift)
    np.testing.assert_allclose(apply(rule, moved), expected, atol=abs(scale) * 1e-4)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("num_clients", [1, 2, 3, 10])
def test_clients_that_agree_get_what_they_all_say(rule, num_clients):
    (update,) = random_updates(1, 20)
    np.testing.assert_allclose(apply(rule, [update] * num_clients), update, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("num_clients", [1, 2, 3])
def test_result_of_few_clients_lies_between_them(rule, num_clients):
    updates = np.stack(random_updates(num_clients, 20, seed=num_clients))
    found = apply(rule, updates)
    assert (found >= updates.min(axis=0) - 1e-6).all()
    assert (found <= updates.max(axis=0) + 1e-6).all()


def test_updates_of_zero_give_zero():
    for rule in RULES.values():
        np.testing.assert_array_equal(apply(rule, np.zeros((9, 4))), np.zeros(4))


# Bad clients of 11 that each rule bears. The median and the geometric median: ⌈11/2⌉ − 1 = 5; a trim of 0.3: ⌊3.3⌋ = 3;
# Krum: f = 4, because 2·4 + 3 = 11.
BEARS = {
    "median": (median, 5),
    "trimmed_mean": (trimmed_by(0.3), 3),
    "geometric_median": (geometric_median, 5),
    "krum": (krum_with(4), 4),
    "multi_krum": (krum_with(4, 0), 4),
}
SIZES = [1e3, 1e10, 1e30]


def attacked(num_bad, size, how, num_clients=11, num_params=20):
    """(honest updates around a common one, all updates); bad ones are together, apart, or alternately up and down."""
    rng = np.random.default_rng(8)
    honest = (1 + rng.normal(size=(num_clients - num_bad, num_params))).astype(np.float32)
    bad = {
        "together": np.ones((num_bad, num_params)),
        "apart": rng.normal(size=(num_bad, num_params)),
        "opposed": np.outer((-1.0) ** np.arange(num_bad), np.ones(num_params)),
    }[how]
    updates = np.concatenate([honest, (size * bad).astype(np.float32)])
    return honest, list(updates[rng.permutation(num_clients)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["together", "apart", "opposed"])
@pytest.mark.parametrize("name", BEARS)
def test_as_many_bad_clients_as_the_rule_bears_leave_the_result_with_the_honest(name, how, size):
    rule, num_bad = BEARS[name]
    honest, updates = attacked(num_bad, size, how)
    found = apply(rule, updates)
    if name == "geometric_median":
        # ‖z − h‖ ≤ 2(1 − α)/(1 − 2α) · max ‖Δ_k − h‖ over the honest (Lopuhaä & Rousseeuw 1991), h any point: α = 5/11.
        centre = honest.mean(axis=0)
        spread = np.linalg.norm(honest - centre, axis=1).max()
        assert np.linalg.norm(found - centre) <= 2 * (6 / 11) / (1 / 11) * spread
        assert found.max() < 1e3
    else:
        assert (found >= honest.min(axis=0) - 1e-6).all()
        assert (found <= honest.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "geometric_median"])
def test_one_bad_client_more_takes_the_result_along(name, size):
    rule, num_bad = BEARS[name]
    _, updates = attacked(num_bad + 1, size, "together")
    # The trimmed mean still dilutes it: one of the 5 updates that are left is bad.
    assert (apply(rule, updates) > size / 6).all()


@pytest.mark.parametrize("size", SIZES)
def test_more_bad_clients_that_agree_than_krum_s_neighbours_are_taken_for_the_honest(size):
    # f = 4 of 11: a score counts 11 − 4 − 2 = 5 neighbours, so 6 bad clients at one point have the score 0.
    _, updates = attacked(6, size, "together")
    np.testing.assert_allclose(apply(krum_with(4), updates), np.full(20, size), rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_multi_krum_that_selects_more_than_the_honest_breaks(size):
    _, updates = attacked(5, size, "together")
    # With f = 4 it averages 7, but only 6 are honest.
    assert (apply(krum_with(4, 0), updates) > size / 8).all()


@pytest.mark.parametrize("size", SIZES)
def test_mean_follows_a_single_bad_client(size):
    _, updates = attacked(1, size, "together")
    assert (apply(trimmed_by(0.0), updates) > size / 12).all()
