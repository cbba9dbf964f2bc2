import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tasks.federate import statistics
from tasks.federate.statistics import geometric_median_shares, gram, update_statistics


def random_updates(num_clients, num_params, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=num_params)).astype(np.float32) for _ in range(num_clients)]


def statistics_of(updates, share=None):
    share = np.full(len(updates), 1 / len(updates)) if share is None else np.asarray(share, np.float64)
    return update_statistics(gram(updates), share)


def slow_geometric_median(points):
    """argmin_z Σ ‖Δ_k − z‖ by a general optimiser, from the best of the points and from the mean."""

    def objective(z):
        return np.linalg.norm(points - z, axis=1).sum()

    starts = [points[np.argmin([objective(p) for p in points])], points.mean(axis=0)]
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000}
    found = [minimize(objective, start, method="Nelder-Mead", options=options) for start in starts]
    return min(found, key=lambda result: result.fun).x


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@settings(max_examples=40)
@given(st.integers(2, 8), st.integers(2, 60), st.integers(0, 10**6), st.sampled_from([1e-4, 1.0, 1e4]))
def test_statistics_equal_those_of_the_vectors(num_clients, num_params, seed, scale):
    updates = random_updates(num_clients, num_params, seed, scale)
    share = np.random.default_rng(seed).dirichlet(np.ones(num_clients))
    found = statistics_of(updates, share)
    vectors = np.stack(updates).astype(np.float64)
    mean = share @ vectors
    distance = np.linalg.norm(vectors - mean, axis=1)
    np.testing.assert_allclose(found.norm, np.linalg.norm(vectors, axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.cosine, [cosine(v, mean) for v in vectors], atol=1e-7)
    # A distance is the root of differences of float64 inner products of size ‖Δ‖²: √1e-16 of ‖Δ‖ can be lost.
    np.testing.assert_allclose(found.distance, distance, atol=1e-6 * found.norm.max(), rtol=1e-4)
    assert found.drift == pytest.approx(np.sqrt(share @ distance**2), rel=1e-6)
    together = np.linalg.norm(vectors.sum(axis=0)) ** 2
    assert found.gradient_diversity == pytest.approx((vectors**2).sum() / together, rel=1e-3)


@pytest.mark.parametrize("num_clients", [1, 2, 7])
def test_clients_that_agree_have_no_drift(num_clients):
    (update,) = random_updates(1, 1000, seed=3)
    found = statistics_of([update] * num_clients)
    norm = np.linalg.norm(update)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    np.testing.assert_allclose(found.cosine_robust, 1, atol=1e-6)
    np.testing.assert_allclose(found.distance, 0, atol=1e-6 * norm)
    assert found.drift == pytest.approx(0, abs=1e-6 * norm)
    # K ‖Δ‖² / ‖K Δ‖² = 1/K
    assert found.gradient_diversity == pytest.approx(1 / num_clients, rel=1e-6)


@pytest.mark.parametrize("apart", [1e-3, 1e-5])
def test_a_small_drift_beside_a_large_common_update_is_not_lost(apart):
    # All clients move by the same large vector, and differ by little: as late in training, or with few local steps.
    common, *noise = random_updates(6, 5000, seed=1)
    updates = [common + np.float32(apart) * n for n in noise]
    vectors = np.stack(updates).astype(np.float64)
    distance = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    found = statistics_of(updates)
    # 1e-16 ‖Δ‖² can be lost of a squared distance of 1e-10 ‖Δ‖².
    np.testing.assert_allclose(found.distance, distance, rtol=1e-4)
    assert found.drift == pytest.approx(np.sqrt(np.mean(distance**2)), rel=1e-4)


def test_a_tiny_update_beside_large_ones_keeps_its_norm_and_cosine():
    *large, tiny = random_updates(5, 5000, seed=6)
    updates = [*large, np.float32(1e-9) * tiny, np.zeros_like(tiny)]
    vectors = np.stack(updates).astype(np.float64)
    found = statistics_of(updates)
    np.testing.assert_allclose(found.norm, np.linalg.norm(vectors, axis=1), rtol=1e-9)
    assert found.cosine[4] == pytest.approx(cosine(vectors[4], vectors.mean(axis=0)), rel=1e-6)
    assert np.isnan(found.cosine[5])


def test_orthogonal_updates_have_diversity_one():
    found = statistics_of(list(np.eye(4, dtype=np.float32) * [[1], [2], [3], [4]]))
    assert found.gradient_diversity == pytest.approx(1)
    # Mean (¼, ½, ¾, 1): cos = ¼k² / (k · ¼√30) = k/√30
    np.testing.assert_allclose(found.cosine, np.arange(1, 5) / np.sqrt(30), atol=1e-6)


def test_updates_that_cancel_have_no_diversity_and_no_cosine():
    (update,) = random_updates(1, 50)
    found = statistics_of([update, -update])
    assert np.isnan(found.gradient_diversity)
    assert np.isnan(found.cosine).all()
    assert found.drift == pytest.approx(np.linalg.norm(update), rel=1e-5)


def test_updates_of_zero_give_numbers_or_nan_but_no_error():
    found = statistics_of([np.zeros(5, np.float32)] * 3)
    assert found.norm.tolist() == found.distance.tolist() == [0, 0, 0]
    assert found.drift == 0
    assert np.isnan(found.cosine).all()
    assert np.isnan(found.cosine_robust).all()
    assert np.isnan(found.gradient_diversity)


def test_gram_of_clients_is_their_inner_products():
    updates = random_updates(5, 301, seed=9)
    expected = [[np.dot(a.astype(np.float64), b.astype(np.float64)) for b in updates] for a in updates]
    np.testing.assert_allclose(gram(updates), expected, atol=1e-4)


@pytest.mark.parametrize("num_clients", [1, 2, 7, 20])
@pytest.mark.parametrize("num_params", [1, 63, 64, 65, 1000])
def test_gram_in_blocks_is_that_of_the_whole(num_clients, num_params, monkeypatch):
    # Blocks of at most 256 parameters for two clients, of at most 64 for seven and more.
    monkeypatch.setattr(statistics, "_BLOCK", 512)
    monkeypatch.setattr(statistics, "_LEAST", 64)
    vectors = np.stack(random_updates(num_clients, num_params, seed=4)).astype(np.float64)
    np.testing.assert_allclose(gram(list(vectors.astype(np.float32))), vectors @ vectors.T, rtol=1e-9, atol=1e-9)


BITS = """
import hashlib, os, sys
import numpy as np
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from tasks.runtime.kinds import runtime
from tasks.federate.statistics import gram, update_statistics
from tasks.settings import RuntimeSettings

found = hashlib.sha256()
with runtime(RuntimeSettings()):
    for num_clients, num_params in ((10, 300_000), (100, 25_000), (130, 2000)):
        common, *noise = np.random.default_rng(0).normal(size=(1 + num_clients, num_params)).astype(np.float32)
        inner = gram([common + n for n in noise])
        statistics = update_statistics(inner, np.full(num_clients, 1 / num_clients))
        for values in (inner, *vars(statistics).values()):
            found.update(np.asarray(values).tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_one_core_and_many_give_the_same_bits():
    """One core, and more cores with more threads of BLAS. BLAS chooses its threads when it is loaded."""

    def bits(cores):
        given = {**os.environ, "OPENBLAS_NUM_THREADS": cores, "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.check_output([sys.executable, "-c", BITS, cores], env=given, stderr=subprocess.DEVNULL)

    assert bits("1") == bits("2") != b""


@settings(max_examples=15)
@given(st.integers(3, 9), st.integers(0, 10**6))
def test_geometric_median_is_that_of_a_general_optimiser(num_clients, seed):
    updates = random_updates(num_clients, 2, seed)
    points = np.stack(updates).astype(np.float64)

    def objective(a):
        return np.linalg.norm(points - a @ points, axis=1).sum()

    # The sums of distances are compared, not the points: the sum is flat around its minimum.
    lowest = np.linalg.norm(points - slow_geometric_median(points), axis=1).sum()
    exact, quick = geometric_median_shares(gram(updates), 20_000, 1e-9), geometric_median_shares(gram(updates))
    assert objective(exact) == pytest.approx(lowest, rel=1e-5)
    # Weiszfeld's iteration is slow if the median is close to one of the points.
    assert objective(quick) == pytest.approx(lowest, rel=2e-3)
    for a in (exact, quick):
        assert a.sum() == pytest.approx(1)
        assert (a >= 0).all()


def test_geometric_median_of_three_points_on_a_line_is_the_middle_one():
    updates = [np.array([x, 2 * x], np.float32) for x in (1.0, 3.0, 50.0)]
    z = geometric_median_shares(gram(updates)) @ np.stack(updates)
    np.testing.assert_allclose(z, [3, 6], atol=1e-2)


def test_half_of_the_votes_is_no_majority_that_alone_is_the_median():
    # Every point between the two places has the same sum of distances, so neither pair decides alone.
    updates = [np.array(point, np.float32) for point in ((0, 0), (0, 0), (4, 0), (4, 0))]
    np.testing.assert_allclose(geometric_median_shares(gram(updates)), [0.25] * 4, atol=1e-6)
    np.testing.assert_allclose(
        geometric_median_shares(gram([*updates, updates[0]])), [1 / 3, 1 / 3, 0, 0, 1 / 3], atol=1e-6
    )


def test_geometric_median_of_a_square_is_its_centre():
    updates = [np.array(p, np.float32) for p in ((0, 0), (2, 0), (0, 2), (2, 2))]
    np.testing.assert_allclose(geometric_median_shares(gram(updates)), [0.25] * 4, atol=1e-4)


@pytest.mark.parametrize("size", [1e1, 1e3, 1e6, 1e9, 1e15])
@pytest.mark.parametrize("together", [True, False], ids=["in one direction", "in many"])
def test_geometric_median_does_not_follow_four_outliers_of_ten(size, together):
    honest = random_updates(6, 20, seed=2)
    directions = random_updates(4, 20, seed=5)
    outliers = [np.float32(size) * (directions[0] if together else d) for d in directions]
    z = geometric_median_shares(gram(honest + outliers)) @ np.stack(honest + outliers).astype(np.float64)
    largest = max(np.linalg.norm(update) for update in honest)
    # With a share α < ½ of outliers, ‖z‖ ≤ 2(1 − α)/(1 − 2α) · max honest ‖Δ‖ (Lopuhaä & Rousseeuw 1991): 6 here.
    assert np.linalg.norm(z) <= 6 * largest


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e15])
def test_robust_cosine_tells_honest_clients_from_huge_ones(size):
    (common,) = random_updates(1, 50, seed=7)
    honest = [common + np.float32(0.3) * noise for noise in random_updates(6, 50, seed=8)]
    found = statistics_of([*honest, *[np.float32(-size) * common] * 4])
    assert (found.cosine_robust[:6] > 0.8).all()
    assert (found.cosine_robust[6:] < -0.8).all()
    # The outliers decide the mean, so by the cosine to it the honest clients drift.
    assert (found.cosine[:6] < 0).all()


def test_robust_cosine_gives_every_client_one_vote_whatever_its_share():
    updates = [np.array(point, np.float32) for point in ((1, 0), (1, 0), (0, 1))]
    found = statistics_of(updates, [0.1, 0.1, 0.8])
    # Two of three votes agree: the median is (1, 0), at a right angle to the third.
    np.testing.assert_allclose(found.cosine_robust, [1, 1, 0], atol=1e-6)
    # The mean (0.2, 0.8) has the length √0.68, and is close to the third.
    np.testing.assert_allclose(found.cosine, np.array([0.2, 0.2, 0.8]) / np.sqrt(0.68), atol=1e-6)


def test_distance_and_drift_follow_the_shares_and_the_diversity_does_not():
    updates = [np.array(point, np.float32) for point in ((0, 0), (4, 0))]
    found = statistics_of(updates, [0.25, 0.75])
    # The mean is (3, 0); drift² = ¼ · 3² + ¾ · 1² = 3; diversity = (0 + 16) / 4².
    np.testing.assert_allclose(found.distance, [3, 1])
    assert found.drift == pytest.approx(np.sqrt(3))
    assert found.gradient_diversity == pytest.approx(1)


def test_geometric_median_of_a_majority_that_does_not_move_is_zero():
    updates = [np.zeros(3, np.float32)] * 3 + [np.array([5, 1, 0], np.float32)] * 2
    z = geometric_median_shares(gram(updates)) @ np.stack(updates)
    np.testing.assert_allclose(z, 0, atol=1e-3)


def test_one_client_is_its_own_mean_and_median():
    (update,) = random_updates(1, 10)
    found = statistics_of([update])
    np.testing.assert_allclose([found.cosine[0], found.cosine_robust[0], found.gradient_diversity], 1, atol=1e-6)
    assert geometric_median_shares(gram([update])).tolist() == [1]


def test_geometric_median_has_no_unit():
    updates = random_updates(7, 5)
    shares = geometric_median_shares(gram(updates))
    for scale in (1e-3, 1e3):
        np.testing.assert_allclose(
            geometric_median_shares(gram([scale * update for update in updates])), shares, rtol=1e-4
        )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_geometric_median_ends_with_the_first_step_below_a_100_000th_of_the_radius(seed, scale):
    """Weiszfeld's iteration on the vectors themselves; one step more or less would change the shares by over 1e-6."""
    updates = random_updates(5, 2, seed, scale)
    points = np.stack(updates).astype(np.float64)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    from_medoid = apart[apart.sum(axis=1).argmin()]
    radius = np.sort(from_medoid)[2]  # three of five are the majority
    share = (from_medoid <= radius) / 3
    moved = np.inf
    while moved >= 1e-5 * radius:  # after 14 to 78 steps, none of them within 0.8 % of the bound
        before = share @ points
        closeness = 1 / np.linalg.norm(points - before, axis=1)
        share = closeness / closeness.sum()
        moved = np.linalg.norm(share @ points - before)
    np.testing.assert_allclose(geometric_median_shares(gram(updates)), share, atol=1e-9)
