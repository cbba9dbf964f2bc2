"""The measures of skew: closed forms, slow references, and finite numbers for JSON."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import distance

from tasks.arrays import as_float32
from tasks.partition.discrepancy import (
    CLIENT_SAMPLE,
    PRODUCT_ERROR,
    maximum_mean_discrepancies,
    moment_distances,
    squared_distances,
    whole_moments,
    whole_sample,
)
from tasks.partition.skew import (
    BATCH_VALUES,
    coefficient_of_variation,
    hellinger,
    jensen_shannon,
    skew_by_client,
    summary,
)
from tasks.skew import earth_mover, entropy, gini

MIXES = hnp.arrays(np.int64, 6, elements=st.integers(0, 50)).filter(np.any).map(lambda counts: counts / counts.sum())
SIZES = st.lists(st.integers(1, 10_000), min_size=1, max_size=30).map(np.array)


def mmd(xs: list[np.ndarray], images: bool = False, seed: int = 0) -> np.ndarray:
    rng, sizes = np.random.default_rng(seed), np.array([len(x) for x in xs])
    sample = whole_sample(xs, sizes, whole_moments(xs, images), rng)
    starts = np.cumsum(sizes) - sizes
    return np.array(maximum_mean_discrepancies(xs, starts, sample, rng))


def distances(xs: list[np.ndarray], images: bool) -> np.ndarray:
    """The distances of the means and of the variances, (2, K)."""
    whole = whole_moments(xs, images)
    return np.array([moment_distances(x, whole) for x in xs]).T


# Labels


def test_label_distances_of_equal_mixes_are_zero() -> None:
    p = np.array([0.1, 0.2, 0.7])
    assert earth_mover(p, p) == jensen_shannon(p, p) == hellinger(p, p) == 0


def test_label_distances_of_mixes_with_no_class_in_common_are_their_largest() -> None:
    p, q = np.array([0.25, 0.75, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert earth_mover(p, q) == pytest.approx(2)
    assert jensen_shannon(p, q) == pytest.approx(1)
    assert hellinger(p, q) == pytest.approx(1)


def test_label_distances_of_one_class_to_an_even_pair() -> None:
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4). The sum of the differences is 1/2 + 1/2.
    # KL(p || m) = log2 4/3, KL(q || m) = (log2 2/3 + log2 2) / 2 = log2(4/3) / 2, and their mean is 3/4 log2 4/3.
    # Hellinger is sqrt(1 - sum sqrt(p q)) = sqrt(1 - sqrt(1/2)).
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert earth_mover(p, q) == pytest.approx(1)
    assert jensen_shannon(p, q) == pytest.approx(0.75 * np.log2(4 / 3))
    assert hellinger(p, q) == pytest.approx(np.sqrt(1 - np.sqrt(0.5)))


@given(p=MIXES, q=MIXES)
def test_label_distances_are_symmetric_bounded_and_agree_with_each_other(p: np.ndarray, q: np.ndarray) -> None:
    for measure in (earth_mover, jensen_shannon, hellinger):
        assert float(measure(p, q)) == pytest.approx(float(measure(q, p)), abs=1e-12)
    variation, js, h = float(earth_mover(p, q)) / 2, float(jensen_shannon(p, q)), float(hellinger(p, q))
    assert 0 <= js <= 1 + 1e-12
    # Le Cam: H^2 <= total variation <= H sqrt(2 - H^2); Lin 1991: JS (bits) <= total variation.
    assert h**2 <= variation + 1e-12
    assert variation <= h * np.sqrt(2 - min(h, 1) ** 2) + 1e-12
    assert js <= variation + 1e-12
    # SciPy returns the square root.
    assert js == pytest.approx(np.nan_to_num(distance.jensenshannon(p, q, base=2)) ** 2, abs=1e-7)


# Sizes


def test_gini_of_equal_sizes_is_zero_and_of_two_to_three_is_known() -> None:
    # For 1 and 3, the |differences| of all ordered pairs sum to 4, divided by 2 · 2 · 4.
    assert gini(np.array([5, 5, 5])) == 0
    assert gini(np.array([3, 1])) == pytest.approx(4 / 16)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(1 - 1 / 4)


@given(sizes=SIZES)
def test_gini_is_the_mean_difference_of_all_pairs(sizes: np.ndarray) -> None:
    slow = sum(abs(int(a) - int(b)) for a in sizes for b in sizes) / (2 * len(sizes) * int(sizes.sum()))
    assert gini(sizes) == pytest.approx(slow, abs=1e-12)


def test_coefficient_of_variation_is_sd_over_mean() -> None:
    assert coefficient_of_variation(np.array([1, 3])) == pytest.approx(1 / 2)  # mean 2, deviations -1 and 1
    assert coefficient_of_variation(np.array([4, 4])) == 0


# Means and variances


def test_moments_of_the_whole_are_those_of_the_pooled_examples() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.normal(k, k + 1, size=(n, 2, 3, 1)).astype(np.float32) for k, n in enumerate((1, 7, 30))]
    of = whole_moments(xs, images=False)
    pooled = np.concatenate(xs).reshape(38, 6).astype(np.float64)
    np.testing.assert_allclose(of.mean, pooled.mean(axis=0))
    np.testing.assert_allclose(of.variance, pooled.var(axis=0))
    np.testing.assert_allclose(of.scale, pooled.std(axis=0))
    np.testing.assert_allclose(whole_moments(xs, images=True).scale, np.sqrt(pooled.var(axis=0).mean()))


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1e-3, 1e6 / 3])
def test_feature_that_never_varies_has_no_variance_and_no_scale(value: float) -> None:
    # The computed mean of many equal floats can be another float; then the variance is about 1e-34.
    rng = np.random.default_rng(0)
    xs = [np.column_stack([np.full(n, value), rng.normal(size=n)]).astype(np.float32) for n in (1, 3, 7, 100, 999)]
    of = whole_moments(xs, images=False)
    assert (of.variance[0], of.scale[0]) == (0, 0)
    assert of.scale[1] > 0.5
    # A feature that differs in one example varies.
    xs[0][0, 0] += 1
    assert whole_moments(xs, images=False).scale[0] > 0


def test_moment_distances_of_two_opposite_clients() -> None:
    # One feature is -1 at one client and 1 at the other, so the whole has mean 0 and variance 1. Each client's mean is
    # at distance 1, and so is its variance, 0. A second feature is constant. In a table it is left out. Among pixels it
    # counts, and the common scale is s = sqrt(1/2). The distances are sqrt(((1 / s)^2 + 0) / 2) = 1 and
    # sqrt(((1 / s^2)^2 + 0) / 2) = sqrt 2.
    xs = [np.full((4, 2), sign, np.float32) for sign in (-1, 1)]
    for x in xs:
        x[:, 1] = 0.1
    table_means, table_variances = distances(xs, images=False)
    np.testing.assert_allclose(table_means, [1, 1])
    np.testing.assert_allclose(table_variances, [1, 1])
    pixel_means, pixel_variances = distances(xs, images=True)
    np.testing.assert_allclose(pixel_means, [1, 1], rtol=1e-6)
    np.testing.assert_allclose(pixel_variances, [np.sqrt(2)] * 2, rtol=1e-6)


@pytest.mark.parametrize("images", [False, True])
def test_moment_distances_agree_with_the_pooled_examples(images: bool) -> None:
    rng = np.random.default_rng(6)
    xs = [rng.normal(1e3 + k, k + 1, size=(n, 5)).astype(np.float32) for k, n in enumerate((1, 6, 40))]
    pooled = np.concatenate(xs).astype(np.float64)
    variance = pooled.var(axis=0)
    scale = np.sqrt(np.full(5, variance.mean()) if images else variance)
    means, variances = distances(xs, images)
    for k, x in enumerate(xs):
        own = x.astype(np.float64)
        off = (own.mean(axis=0) - pooled.mean(axis=0)) / scale
        np.testing.assert_allclose(means[k], np.sqrt((off**2).mean()), rtol=1e-9)
        off = (own.var(axis=0) - variance) / scale**2
        np.testing.assert_allclose(variances[k], np.sqrt((off**2).mean()), rtol=1e-9)


def test_measures_of_bytes_are_those_of_the_numbers_that_they_mean() -> None:
    rng = np.random.default_rng(7)
    xs = [rng.integers(0, 100 + 50 * k, size=(9 + k, 4, 3, 1), dtype=np.uint8) for k in range(3)]
    counts = np.array([[3, 6 + k] for k in range(3)])
    of_bytes = skew_by_client(xs, counts, True, np.random.default_rng(0))
    assert of_bytes == skew_by_client([as_float32(x) for x in xs], counts, True, np.random.default_rng(0))


def test_moment_distances_do_not_depend_on_a_table_features_unit() -> None:
    rng = np.random.default_rng(1)
    xs = [rng.normal(k, 1, size=(20, 3)).astype(np.float32) for k in range(3)]
    scaled = [x * np.array([1, 1024, 2**-10], np.float32) + np.float32(0) for x in xs]
    for one, other in zip(
        distances(xs, images=False),
        distances(scaled, images=False),
        strict=True,
    ):
        np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("images", [False, True])
def test_feature_measures_of_data_that_never_varies_are_zero(images: bool) -> None:
    xs = [np.full((n, 4), 0.1, np.float32) for n in (1, 3, 100)]
    means, variances = distances(xs, images)
    assert not means.any()
    assert not variances.any()
    assert not mmd(xs, images).any()


# Maximum mean discrepancy


def slow_mmd(xs: list[np.ndarray]) -> list[float]:
    """Gretton 2012, equation 3, in loops over pairs of different examples, for small tables, without sampling."""
    pooled = np.concatenate(xs).astype(np.float64)
    pooled = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    owners = np.repeat(range(len(xs)), [len(x) for x in xs])
    apart = [np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]]
    width = np.median([d for d in apart if d > 0])

    def mean_kernel(rows: np.ndarray, columns: np.ndarray) -> float:
        pairs = [(i, j) for i in rows for j in columns if i != j]
        return float(np.mean([np.exp(-np.sum((pooled[i] - pooled[j]) ** 2) / (2 * width**2)) for i, j in pairs]))

    everyone = np.arange(len(pooled))
    return [
        mean_kernel(own, own) - 2 * mean_kernel(own, everyone) + mean_kernel(everyone, everyone)
        for own in (np.flatnonzero(owners == k) for k in range(len(xs)))
    ]


def test_mmd_agrees_with_the_slow_definition() -> None:
    rng = np.random.default_rng(4)
    xs = [rng.normal(k, 1 + k, size=(n, 3)).astype(np.float32) for k, n in enumerate((2, 9, 15))]
    np.testing.assert_allclose(mmd(xs), slow_mmd(xs), atol=1e-10)


def test_mmd_of_many_features_agrees_with_the_slow_definition() -> None:
    rng = np.random.default_rng(5)
    xs = [rng.normal(k, 1 + k, size=(n, 300)).astype(np.float32) for k, n in enumerate((2, 9, 15))]
    np.testing.assert_allclose(mmd(xs), slow_mmd(xs), atol=PRODUCT_ERROR)


def test_mmd_of_near_examples_that_are_far_from_the_mean_agrees_with_the_slow_definition() -> None:
    # Most pairs are of one client, so the kernel's width is their distance: 1e-4 of their distance from the mean. The
    # squared norms in float32 are rounded by more than the square of this width.
    rng = np.random.default_rng(5)
    xs = [rng.normal(mean, 1e-4, size=(n, 256)).astype(np.float32) for mean, n in ((-1, 20), (1, 6))]
    np.testing.assert_allclose(mmd(xs), slow_mmd(xs), atol=PRODUCT_ERROR)


@pytest.mark.parametrize("num_features", [3, 2**13])
def test_mmd_of_a_client_does_not_depend_on_the_clients_measured_with_it(num_features: int) -> None:
    rng = np.random.default_rng(6)
    sizes = np.array([20, 1, 2, 50, 1, 7])
    xs = [rng.normal(k / 9, 1, size=(n, num_features)).astype(np.float32) for k, n in enumerate(sizes)]
    starts, counts = np.cumsum(sizes) - sizes, sizes[:, None]
    draws = np.random.default_rng(0)
    sample = whole_sample(xs, sizes, whole_moments(xs, False), draws)
    alone = [maximum_mean_discrepancies([x], starts[k : k + 1], sample, draws)[0] for k, x in enumerate(xs)]
    together = [of["mmd_squared"] for of in skew_by_client(xs, counts, False, np.random.default_rng(0))]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert (together[1], together[4]) == (0, 0)
    # With 2^13 features, the clients that begin at examples 0 to 31 are measured together, and then the last two.
    assert BATCH_VALUES == 32 * 2**13


def test_mmd_of_two_clients_that_are_points() -> None:
    # n examples are at one point and n at another. The median distance is the distance of the points, so the kernel is
    # 1 within a client and e = exp(-1/2) between clients. Its mean is 1 over a client's own pairs, and
    # a = ((n - 1) + n e) / (2n - 1) both over pairs with the whole and over the whole's pairs. So MMD^2 is
    # 1 - 2 a + a = n (1 - e) / (2n - 1).
    n = 20
    xs = [np.zeros((n, 2), np.float32), np.ones((n, 2), np.float32)]
    np.testing.assert_allclose(mmd(xs), n * (1 - np.exp(-0.5)) / (2 * n - 1), rtol=1e-6)


def test_mmd_is_zero_on_average_for_clients_alike_of_any_size() -> None:
    # The estimator is unbiased: the mean over 300 small and over 20 larger IID clients is 0 within 5 standard errors.
    # The biased estimator adds about (1 - mean kernel) / n, 0.1 for the small clients, more than 10 standard errors.
    rng = np.random.default_rng(2)
    xs = [rng.normal(size=(4 if k < 300 else 60, 5)).astype(np.float32) for k in range(320)]
    found = mmd(xs)
    for group in (found[:300], found[300:]):
        assert abs(group.mean()) < 5 * group.std() / np.sqrt(len(group))


def test_mmd_of_the_only_client_is_zero() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(mmd([x]), 0, atol=1e-12)


def test_mmd_finds_the_client_whose_features_moved() -> None:
    rng = np.random.default_rng(3)
    xs = [rng.normal(2.0 if k == 4 else 0.0, 1, size=(2 * CLIENT_SAMPLE, 6)).astype(np.float32) for k in range(10)]
    found = mmd(xs)
    assert found.argmax() == 4
    assert found[4] > 5 * np.delete(found, 4).max()


@given(
    a=hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e6, 1e6)),
    b=hnp.arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6)),
)
# The squares of these are 6e-323, with few bits left, or 0.
@example(a=np.full((4, 3), 7.87235141e-162), b=np.full((5, 3), 1e-170))
@example(a=np.array([[1e6] * 3, *[[7.87235141e-162] * 3] * 3]), b=np.full((5, 3), 7.87235141e-162))
def test_squared_distances_are_those_of_the_differences(a: np.ndarray, b: np.ndarray) -> None:
    slow = ((a[:, None] - b) ** 2).sum(axis=2)
    of_a, of_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    norms = of_a[:, None] + of_b
    assert (abs(squared_distances(a, of_a, b, of_b) - slow) <= 2e-10 * norms + np.finfo(np.float64).tiny).all()
    assert not np.diag(squared_distances(a, of_a, a, of_a)).any()


# All together


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    values=st.data(),
    images=st.booleans(),
)
@settings(max_examples=60)
def test_measures_are_finite_for_any_data(sizes: list[int], values: st.DataObject, images: bool) -> None:
    # Few different values, so that features repeat or are constant, and the ends of float32.
    ends = [float(np.float32(value)) for value in (0, 1, -1, 0.1, 1e-45, 3e38, -3e38)]
    some = st.sampled_from(ends) | st.floats(width=32, min_value=-10, max_value=10)
    xs = [values.draw(hnp.arrays(np.float32, (n, 3), elements=some)) for n in sizes]
    labels = [values.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 2))) for n in sizes]
    counts = np.array([np.bincount(own, minlength=3) for own in labels])
    found = skew_by_client(xs, counts, images, np.random.default_rng(0))
    text = json.dumps([found, summary(found, np.array(sizes))], allow_nan=False)
    assert len(json.loads(text)[0]) == len(sizes)


def test_measures_name_what_each_client_lacks() -> None:
    xs = [np.zeros((4, 2), np.float32), np.ones((2, 2), np.float32)]
    # The whole is (4, 2, 0) / 6. No client has class 2, so it is missing at none.
    first, second = skew_by_client(xs, np.array([[4, 0, 0], [0, 2, 0]]), False, np.random.default_rng(0))
    assert first["missing_classes"] == second["missing_classes"] == 1
    assert first["earth_mover"] == pytest.approx(1 / 3 + 1 / 3)
    assert second["earth_mover"] == pytest.approx(2 / 3 + 2 / 3)


def test_measures_do_not_depend_on_the_order_of_the_clients() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.normal(k, 1, size=(10 + k, 2)).astype(np.float32) for k in range(4)]
    counts = np.array([[3 + k, 7] for k in range(4)])
    ahead = skew_by_client(xs, counts, False, np.random.default_rng(0))
    back = skew_by_client(xs[::-1], counts[::-1], False, np.random.default_rng(0))[::-1]
    for one, other in zip(ahead, back, strict=True):
        assert one == pytest.approx(other)


def test_summary_is_the_mean_and_the_largest_over_clients() -> None:
    found = summary([{"hellinger": 0.2}, {"hellinger": 0.6}], np.array([1, 3]))
    assert found == pytest.approx({"hellinger_mean": 0.4, "hellinger_max": 0.6, "size_gini": 0.25, "size_cv": 0.5})


def test_entropy_is_the_loss_of_the_best_answer_for_all_examples() -> None:
    # Shares 1/2, 1/4, 1/4: 1/2 ln 2 + 1/2 ln 4 = 1.5 ln 2. A class without examples does not count.
    assert entropy(np.array([2, 0, 1, 1])) == pytest.approx(1.5 * np.log(2))
    assert entropy(np.array([0, 7])) == 0
