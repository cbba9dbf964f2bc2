import logging
import math
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tasks.errors import DataError, SettingsError
from tasks.federate import federate
from tasks.federate.aggregators import FACTORIES, RULES, aggregator, bytes_at_once, check, client_weights, weighting_of
from tasks.federate.checkpoint import Checkpoints
from tasks.federate.state import ServerState
from tasks.memory import available
from tasks.settings import WEIGHTED, AggregatorSettings


def kinds(field):
    return set(get_args(AggregatorSettings.model_fields[field].annotation))


@pytest.fixture(scope="module")
def rounds_of(one_thread):
    """(kind, rounds of updates (R, K, P), weights (K,), settings ...) -> the aggregate of each round (R, P)."""

    def run(kind, rounds, weights=None, num_clients=None, **chosen):
        num_updates, num_params = np.shape(rounds)[1:]
        factory = aggregator(AggregatorSettings(kind=kind, **chosen), num_clients or num_updates)
        process = factory.create(tff.TensorType(np.float32, [num_params]), tff.TensorType(np.float32))
        found, weights = [], np.ones(num_updates) if weights is None else weights
        with one_thread():
            state = process.initialize()
            for updates in rounds:
                output = process.next(state, list(np.asarray(updates, np.float32)), list(np.float32(weights)))
                state = output.state
                found.append(output.result)
        return np.stack(found)

    return run


@pytest.fixture(scope="module")
def combine(rounds_of):
    """(kind, updates (K, P), weights (K,), settings ...) -> the aggregate (P,)."""
    return lambda kind, updates, weights=None, **chosen: rounds_of(kind, [updates], weights, **chosen)[0]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_registries_have_the_kinds_of_the_settings():
    assert set(FACTORIES) | set(RULES) == kinds("kind")
    assert not set(FACTORIES) & set(RULES)


def test_mean_is_the_weighted_mean(combine):
    updates = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    weights = np.array([1.0, 20.0, 0.0, 3.5, 1e-3])
    expected = weights @ updates.astype(np.float64) / weights.sum()
    np.testing.assert_allclose(combine("mean", updates, weights), expected, atol=1e-6)


def test_mean_with_equal_weights_is_the_plain_mean(combine):
    updates = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(combine("mean", updates, [2.5] * 4), updates.mean(axis=0), atol=1e-6)


def test_mean_does_not_depend_on_the_order_of_clients(combine):
    rng = np.random.default_rng(2)
    updates, weights = rng.normal(size=(9, 11)).astype(np.float32), rng.integers(1, 90, 9)
    shuffled = rng.permutation(9)
    np.testing.assert_allclose(
        combine("mean", updates, weights), combine("mean", updates[shuffled], weights[shuffled]), atol=1e-6
    )


def test_mean_of_one_client_is_its_update(combine):
    update = np.array([[1.5, -2.0]], np.float32)
    np.testing.assert_allclose(combine("mean", update, [40]), update[0], rtol=1e-6)


def test_mean_of_no_weight_at_all_is_zero_not_nan(combine):
    np.testing.assert_array_equal(combine("mean", np.ones((3, 2), np.float32), [0, 0, 0]), [0, 0])


SIZES = {"a": 1, "b": 3, "c": 2}


def nobody_is_asked():
    raise AssertionError


def test_weights_by_examples_uniform_and_inverse_variance():
    assert client_weights("examples", SIZES, nobody_is_asked) == {"a": 1, "b": 3, "c": 2}
    assert client_weights("uniform", SIZES, nobody_is_asked) == {"a": 1, "b": 1, "c": 1}
    variances = {"a": 1.0, "b": 4.0, "c": 3 / 16}
    assert client_weights("inverse_variance", SIZES, lambda: variances) == {"a": 1, "b": 1 / 4, "c": 16 / 3}
    assert kinds("weighting") == {"examples", "uniform", "inverse_variance"}


def test_inverse_variance_of_equal_features_is_an_error_that_names_the_client():
    with pytest.raises(DataError, match=r"inverse_variance: .*client dark have zero variance.*use examples or uniform"):
        client_weights("inverse_variance", {**SIZES, "dark": 7}, lambda: {"a": 1.0, "b": 4.0, "c": 0.5, "dark": 0.0})


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting 'size'"):
        client_weights("size", SIZES, nobody_is_asked)


def test_kinds_without_weights_count_clients_alike():
    assert {"median", "trimmed_mean", "krum", "multi_krum", "dp_mean"} <= kinds("kind") - set(WEIGHTED)
    for kind in WEIGHTED:
        assert weighting_of(AggregatorSettings(kind=kind, weighting="inverse_variance")) == "inverse_variance"
    for kind in kinds("kind") - set(WEIGHTED):
        assert weighting_of(AggregatorSettings(kind=kind)) == "uniform"
        with pytest.raises(ValueError, match="weighting has no effect"):
            AggregatorSettings(kind=kind, weighting="inverse_variance")


def clipped(updates, norm):
    return np.stack([u * min(1.0, norm / np.linalg.norm(u)) for u in np.asarray(updates, np.float64)])


def test_clipped_mean_is_the_weighted_mean_of_updates_no_longer_than_the_norm(combine):
    updates, weights = normal(6, 8) * np.array([[0.01], [0.1], [1], [1], [10], [1e6]]), np.arange(1.0, 7)
    expected = weights @ clipped(updates, 1.5) / weights.sum()
    np.testing.assert_allclose(combine("clipped_mean", updates, weights, clip_norm=1.5), expected, atol=1e-6)


def test_clipped_mean_with_a_large_norm_is_the_mean(combine):
    updates, weights = normal(5, 8), np.arange(1.0, 6)
    found = combine("clipped_mean", updates, weights, clip_norm=1e6)
    np.testing.assert_allclose(found, combine("mean", updates, weights), atol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e10, 1e18])
def test_one_client_moves_a_clipped_mean_by_no_more_than_its_share_of_the_norm(combine, size):
    honest = 0.1 * normal(9, 8)
    without = combine("clipped_mean", [*honest, np.zeros(8)], clip_norm=1.0)
    attacked = combine("clipped_mean", [*honest, np.full(8, size)], clip_norm=1.0)
    # 1 of 10 clients, clip norm 1.
    assert np.linalg.norm(attacked - without) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_adaptive_norm_goes_to_the_quantile_of_the_norms(rounds_of, quantile):
    # Updates of one entry, 0.21, 0.41 … 9.81: their mean is Σ min(u, C) / K, which gives the norm C.
    updates, norm, expected = np.arange(0.21, 10, 0.2), 1.0, []
    for _ in range(100):
        expected.append(np.minimum(updates, norm).mean())
        norm *= math.exp(-0.2 * (np.mean(updates <= norm) - quantile))
    chosen = {"clipping": "adaptive", "clip_norm": 1.0, "clip_quantile": quantile}
    found = rounds_of("clipped_mean", [updates[:, None]] * 100, **chosen).ravel()
    # When C passes one of the updates, float32 can see it a round later, and step by exp(0.2 / K) more.
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert norm == pytest.approx(np.quantile(updates, quantile, method="inverted_cdf"), rel=0.05)


@pytest.mark.parametrize("zeroing", [False, True])
def test_adaptive_norms_do_not_count_clients_that_failed(rounds_of, zeroing):
    # Failed clients come as zeros of weight 0. The norm rises from 0.1 to the median of the others, and not below it.
    updates, weights = 4 * normal(7, 3), np.array([1.0] * 7 + [0.0] * 3)
    failed = np.concatenate([updates, np.zeros((3, 3))])
    chosen = {"clipping": "adaptive", "clip_norm": 0.1, "zeroing": zeroing}
    found = rounds_of("clipped_mean", [failed] * 60, weights, **chosen)
    np.testing.assert_array_equal(found, rounds_of("clipped_mean", [updates] * 60, **chosen))
    norm = np.median(np.linalg.norm(updates, axis=1))
    np.testing.assert_allclose(found[-1], clipped(updates, norm).mean(axis=0), rtol=0.1, atol=0.02)


def test_adaptive_norm_stays_where_every_client_failed(rounds_of):
    updates = normal(4, 3)
    chosen = {"clipping": "adaptive", "clip_norm": 0.5}
    found = rounds_of("clipped_mean", [np.zeros((4, 3)), np.zeros((4, 3)), updates], **chosen)
    np.testing.assert_allclose(found[-1], clipped(updates, 0.5).mean(axis=0), atol=1e-6)


def test_adaptive_norm_counts_an_update_as_long_as_itself_as_within(rounds_of):
    # Three of length 1 = C: b = 1, and C becomes exp(−0.2 (1 − 0.5)); the second round shows it.
    updates = np.array([[1.0, 0.0]] * 3)
    found = rounds_of("clipped_mean", [updates, 9 * updates], clipping="adaptive", clip_norm=1.0, clip_quantile=0.5)
    np.testing.assert_allclose(found, [[1, 0], [np.exp(-0.1), 0]], rtol=1e-6)


def test_zeroing_drops_updates_far_beyond_the_others(combine):
    # In the first round the largest entry allowed is 2·10 + 1 = 21; the zeroed client keeps its weight.
    updates = np.array([[1.0, 0.0], [0.0, 1.0], [22.0, 0.0], [-1e6, 1.0]])
    found = combine("clipped_mean", updates, clip_norm=100.0, zeroing=True)
    np.testing.assert_allclose(found, [0.25, 0.25], atol=1e-6)
    np.testing.assert_allclose(combine("clipped_mean", updates, clip_norm=1e9), updates.mean(axis=0), rtol=1e-5)


def test_zeroing_begins_above_twice_the_norm_and_one(combine):
    # In the first round 2 · 10 + 1 = 21 is the largest entry that is kept; the zeroed client keeps its weight.
    updates = np.array([[20.5, 0.0], [0.0, 1.0], [-21.5, 3.0]])
    found = combine("clipped_mean", updates, clip_norm=1e9, zeroing=True)
    np.testing.assert_allclose(found, [20.5 / 3, 1 / 3], rtol=1e-6)


def test_zeroing_follows_updates_that_are_all_large(rounds_of):
    # All entries are above the estimate. It grows by a factor of up to 10 a round, so soon nothing is zeroed any more.
    updates = 1e3 * (2 + normal(5, 3))
    found = rounds_of("clipped_mean", [updates] * 4, clip_norm=1e9, zeroing=True)
    np.testing.assert_array_equal(found[0], np.zeros(3))
    np.testing.assert_allclose(found[-1], updates.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_compressed_mean_is_within_half_a_level_of_the_mean(combine, bits):
    updates, weights = normal(5, 400), np.array([1.0, 5, 2, 9, 3])
    mean = weights @ updates.astype(np.float64) / weights.sum()
    ranges = weights * (updates.max(axis=1) - updates.min(axis=1))
    half_a_level = ranges.sum() / weights.sum() / (2**bits - 1) / 2
    off = np.abs(combine("compressed_mean", updates, weights, quantization_bits=bits) - mean).max()
    assert off <= half_a_level + 1e-5
    # The update is quantised: the largest error of 400 entries is not a small part of the bound.
    assert off > 0.2 * half_a_level


def test_compressed_update_has_no_more_values_than_levels(combine):
    (update,) = normal(1, 1000)
    found = combine("compressed_mean", [update], quantization_bits=3)
    assert len(np.unique(found)) == 8
    assert [found.min(), found.max()] == pytest.approx([update.min(), update.max()], rel=1e-5)


def test_compressed_mean_is_the_same_every_time(combine):
    updates = normal(4, 50)
    first, second = (combine("compressed_mean", updates, quantization_bits=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_compressed_mean_of_constant_updates_is_exact(combine):
    updates = np.outer([1.0, -3.0], np.ones(5))
    np.testing.assert_allclose(combine("compressed_mean", updates), -np.ones(5), rtol=1e-6)


def test_dp_noise_has_the_sd_of_its_multiplier_and_is_centred_on_the_clipped_mean(combine):
    updates, num_params = normal(8, 40_000), 40_000
    found = combine("dp_mean", updates, clip_norm=3.0, noise_multiplier=2.0)
    noise = found - clipped(updates, 3.0).mean(axis=0)
    # sd of the mean's noise: multiplier · clip / K = 2·3/8. Of n draws, the estimated sd is within 5·sd/√(2n), the mean
    # within 5·sd/√n, both except once in 1.7 million times.
    sd = 2 * 3 / 8
    assert noise.std() == pytest.approx(sd, abs=5 * sd / math.sqrt(2 * num_params))
    assert abs(noise.mean()) < 5 * sd / math.sqrt(num_params)
    # A Gaussian's share beyond 2 sd is 4.55 %, here within 5 binomial sd.
    beyond = np.mean(np.abs(noise) > 2 * sd)
    assert beyond == pytest.approx(0.0455, abs=5 * math.sqrt(0.0455 * 0.9545 / num_params))


def test_dp_noise_is_fresh_in_every_round_and_run_whatever_the_seed_of_tensorflow(rounds_of):
    drawn = []
    for _ in range(2):
        tf.random.set_seed(1)
        drawn += list(rounds_of("dp_mean", np.zeros((2, 3, 50))))
    for i, noise in enumerate(drawn):
        for other in drawn[:i]:
            # Two independent draws of 50 normal numbers with a correlation above 0.8: once in 10^12.
            assert abs(np.corrcoef(noise, other)[0, 1]) < 0.8


def test_one_client_moves_a_dp_mean_by_no_more_than_twice_the_norm_over_k(combine):
    # This is the sensitivity that privacy.py uses. The noise of 1e-6 · 1 / 10 is far below the compared values.
    honest = 0.1 * normal(9, 8)
    low, high = (
        combine("dp_mean", [*honest, np.full(8, sign * 1e9)], clip_norm=1.0, noise_multiplier=1e-6) for sign in (-1, 1)
    )
    assert np.linalg.norm(high - low) == pytest.approx(2 * 1.0 / 10, rel=1e-3)


def test_dp_mean_counts_a_missing_client_as_zero_and_all_alike(combine):
    updates = 0.1 * normal(3, 8)
    found = combine("dp_mean", updates, [1.0, 50, 7], num_clients=4, clip_norm=9.0, noise_multiplier=1e-6)
    np.testing.assert_allclose(found, updates.sum(axis=0) / 4, atol=1e-4)


def test_adaptive_dp_mean_clips_at_first_with_the_norm_that_was_given_and_then_follows_the_quantile(rounds_of):
    updates = np.linspace(0.1, 10, 100)[:, None]
    found = rounds_of(
        "dp_mean", [updates] * 60, clipping="adaptive", clip_norm=1.0, clip_quantile=0.5, noise_multiplier=1e-4
    )
    # Σ min(u, C) / 100, C = 1 at first and then near the median 5. The count's noise of 5 % moves C by 0.2 · 5 % a
    # round, and each round takes back a tenth of C's distance: in the end an sd of 1 % / √(2 · 0.1) = 2.2 %.
    assert found[0] == pytest.approx(np.minimum(updates, 1).mean(), abs=1e-3)
    low, high = (np.minimum(updates, 5 * (1 + off)).mean() for off in (-0.15, 0.15))
    assert low <= found[-1] <= high


def test_adaptive_dp_noise_makes_up_for_the_noised_count(combine):
    updates, num_params = np.zeros((40, 40_000)), 40_000
    found = combine("dp_mean", updates, clipping="adaptive", clip_norm=1.0, noise_multiplier=1.0)
    # The count's noise has sd 40/20 = 2. For a sensitivity of 1/2 this is a multiplier of 4, so the multiplier of the
    # sum must be (1⁻² − 4⁻²)^−½ (Andrew 2021, Theorem 1).
    sd = (1 - 1 / 16) ** -0.5 / 40
    assert found.std() == pytest.approx(sd, abs=5 * sd / math.sqrt(2 * num_params))


STATEFUL = [
    ("clipped_mean", {"clipping": "adaptive", "zeroing": True}),
    ("dp_mean", {"noise_multiplier": 0.5}),
    ("dp_mean", {"clipping": "adaptive", "noise_multiplier": 0.1}),
    ("compressed_mean", {}),
]


@pytest.mark.parametrize(("kind", "chosen"), STATEFUL)
def test_the_state_of_an_aggregator_comes_back_from_a_checkpoint(one_thread, tmp_path, kind, chosen):
    factory = aggregator(AggregatorSettings(kind=kind, **chosen), 4)
    process = factory.create(tff.TensorType(np.float32, [3]), tff.TensorType(np.float32))
    updates, weights, checkpoints = list(normal(4, 3)), [np.float32(1)] * 4, Checkpoints(tmp_path / "c", {})
    with one_thread():
        state = process.next(process.initialize(), updates, weights).state
        params = np.zeros(3, np.float32)
        checkpoints.save(1, ServerState(params, [], state))
        loaded = checkpoints.load(1, ServerState(params, [], process.initialize())).aggregator
        checkpoints.close()
        for found, expected in zip(tf.nest.flatten(loaded), tf.nest.flatten(state), strict=True):
            np.testing.assert_array_equal(found, expected)
        process.next(loaded, updates, weights)


def refusal(settings, num_clients):
    with pytest.raises(SettingsError) as caught:
        check(settings, num_clients, 1000)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chosen(settings_of, dotted):
    return settings_of({f"federate.aggregator.{name}": value for name, value in dotted.items()})


def test_a_trim_that_leaves_out_nobody_is_refused(settings_of):
    settings = chosen(settings_of, {"kind": "trimmed_mean", "trim": 0.2})
    check(settings, 5, 1000)
    assert refusal(settings, 4) == (
        "federate.aggregator.trim must be 0, or >= 1/4 and < 0.5, got 0.2: with 4 clients in a round, this "
        "trims no client"
    )
    assert "must be 0, got 0.2: with 2 clients in a round, this trims no client" in refusal(settings, 2)
    check(chosen(settings_of, {"kind": "trimmed_mean", "trim": 0.0}), 1, 1000)


@pytest.mark.parametrize("trim", [0.5, 0.7, -0.1])
def test_a_trim_that_leaves_nobody_is_refused(settings_of, trim):
    with pytest.raises(SettingsError, match=r"federate\.aggregator\.trim must be (< 0\.5|>= 0)"):
        chosen(settings_of, {"kind": "trimmed_mean", "trim": trim})


@pytest.mark.parametrize("kind", ["krum", "multi_krum"])
def test_more_faulty_clients_than_krum_bears_are_refused(settings_of, kind):
    settings = chosen(settings_of, {"kind": kind, "num_faulty": 3})
    check(settings, 9, 1000)
    assert refusal(settings, 8) == (
        f"federate.aggregator.num_faulty is too large for the 8 clients in a round: {kind} needs "
        "2 * num_faulty + 3 clients: must be <= 2, got 3"
    )
    assert "at least 3 are needed, got 0" in refusal(chosen(settings_of, {"kind": kind, "num_faulty": 0}), 2)


def test_krum_is_checked_against_the_clients_of_a_round_not_of_the_run(settings_of):
    dotted = {
        "federate.aggregator.kind": "krum",
        "federate.aggregator.num_faulty": 2,
        "federate.sampling.kind": "uniform",
        "federate.sampling.clients_per_round": 6,
    }
    assert "for the 6 clients in a round" in refusal(settings_of(dotted), 100)
    check(settings_of(dotted | {"federate.sampling.clients_per_round": 7}), 100, 1000)


def test_more_selected_than_are_not_faulty_is_refused(settings_of):
    settings = chosen(settings_of, {"kind": "multi_krum", "num_selected": 8, "num_faulty": 2})
    check(settings, 10, 1000)
    assert refusal(settings, 9) == (
        "federate.aggregator.num_selected must be <= 7, the 9 clients in a round minus num_faulty (2): with more, a "
        "faulty client is always selected, got 8"
    )


@pytest.mark.parametrize("kind", ["mean", "median", "geometric_median", "clipped_mean", "compressed_mean"])
def test_other_kinds_take_any_number_of_clients(settings_of, kind):
    check(chosen(settings_of, {"kind": kind}), 1, 1000)


@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "geometric_median", "krum", "multi_krum"])
def test_updates_that_do_not_fit_into_memory_at_once_are_refused_with_their_bytes(kind, settings_of):
    settings, there = chosen(settings_of, {"kind": kind}), available()
    # 4 bytes for each of K · P values; rules on pairs of clients need three matrices (K, K) of 8 bytes more.
    pairs = 0 if kind in ("median", "trimmed_mean") else 3 * 8 * 100**2
    fits = (there - pairs) // 400
    check(settings, 100, fits)
    needed = 400 * (fits + 1) + pairs
    with pytest.raises(SettingsError, match=rf"^federate.aggregator.kind {kind} needs .*: {needed:,} bytes.*sampling"):
        check(settings, 100, fits + 1)
    # What counts is the clients of one round.
    sampled = {"federate.aggregator.kind": kind, "federate.sampling.kind": "uniform"}
    check(settings_of({**sampled, "federate.sampling.clients_per_round": 10}), 100, fits + 1)


@pytest.mark.parametrize("kind", ["mean", "clipped_mean", "compressed_mean"])
def test_sums_need_no_memory_for_all_updates(kind, settings_of):
    check(chosen(settings_of, {"kind": kind}), 100_000, available())


def test_bytes_of_all_updates_are_logged_before_the_first_round(make_clients, settings_of, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = make_clients(sizes=(9, 4, 7)).write(tmp_path)
    settings = settings_of({"federate.model": "logistic", "federate.rounds": 1, "federate.aggregator.kind": "median"})
    federate(settings, folder)
    assert bytes_at_once(settings, 3, 30) == 4 * 3 * 30
    lines = [record.getMessage() for record in caplog.records]
    said = lines.index("median holds all updates of a round: 0.0 MB")
    assert said < next(place for place, line in enumerate(lines) if line.startswith("1 rounds, 3 clients"))
