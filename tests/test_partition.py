"""The rules of `partition.kind`: which client gets which examples."""

import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.datasets import RawExamples
from tasks.errors import DataError
from tasks.partition import division
from tasks.partition.division import PARTITION_DRAWS, PARTITIONERS, divide, natural
from tasks.partition.features import change_for, noise, shift
from tasks.partition.labels import classes, dirichlet, fill_counts, label_mix, shards
from tasks.partition.shares import cut, dirichlet_logits, dirichlet_shares
from tasks.partition.sizes import iid, quantity
from tasks.settings import PartitionKind, PartitionSettings

KINDS = get_args(PartitionKind)
SEEDS = st.integers(0, 2**31 - 1)
LABELS = st.lists(st.integers(0, 11), min_size=2, max_size=200)
# All allowed values of a setting that must be > 0: finite, up to the ends of the floats.
POSITIVE = st.floats(min_value=5e-324, max_value=1.7e308, exclude_max=True)


def examples(labels: Any, images: bool = False, clients: Any = None) -> RawExamples:
    """N examples with these labels; the first feature is different in each."""
    y = np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int32)
    x = np.zeros((len(y), 4, 4, 1) if images else (len(y), 3), np.float32)
    x.reshape(len(y), -1)[:, 0] = np.arange(len(y)) / len(y)
    names = tuple(str(label) for label in range(y.max() + 1))
    return RawExamples(x, y, names, None if clients is None else np.asarray(clients), x[:1], y[:1])


def balanced(num_classes: int, per_class: int) -> np.ndarray:
    return np.repeat(np.arange(num_classes), per_class).astype(np.int32)


def counts_of(y: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    return np.array([np.bincount(y[part], minlength=y.max() + 1) for part in parts])


def assert_covers_once(parts: list[np.ndarray], num_examples: int) -> None:
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num_examples))
    for part in parts:
        np.testing.assert_array_equal(part, np.sort(part))


def test_registry_holds_every_kind_of_the_settings() -> None:
    assert set(PARTITIONERS) == set(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("classes", "natural")])
@given(labels=LABELS, num_clients=st.integers(1, 60), seed=SEEDS, alpha=POSITIVE, power=st.booleans(), data=st.data())
@settings(max_examples=40)
def test_every_kind_covers_every_example_once(
    kind: PartitionKind, labels: list[int], num_clients: int, seed: int, alpha: float, power: bool, data: st.DataObject
) -> None:
    given_settings: dict[str, Any] = {"kind": kind, "num_clients": num_clients, "min_examples": 0}
    if kind in ("dirichlet", "label_mix", "quantity"):
        given_settings["alpha"] = alpha
    if kind == "shards":
        given_settings["shards_per_client"] = data.draw(st.integers(1, 5))
    if kind == "quantity" and power:
        given_settings |= {"law": "power", "exponent": data.draw(POSITIVE)}
    chosen = PartitionSettings(**given_settings)
    raw = examples(labels)
    divided = divide(raw, chosen, seed)
    assert_covers_once(divided.parts, len(labels))
    assert len(divided.ids) == len(divided.parts) == num_clients
    again = divide(raw, chosen, seed)
    assert all(np.array_equal(one, other) for one, other in zip(divided.parts, again.parts, strict=True))


@given(labels=LABELS, num_clients=st.integers(1, 30), per_client=st.integers(1, 12), seed=SEEDS)
@settings(max_examples=60)
def test_classes_covers_every_example_once_or_says_why_not(
    labels: list[int], num_clients: int, per_client: int, seed: int
) -> None:
    num_classes = len(set(labels))
    y = examples(labels).y
    rng = np.random.default_rng(seed)
    if per_client > num_classes or num_clients * per_client < num_classes:
        with pytest.raises(DataError, match=r"partition\.classes_per_client must be .* " + str(num_classes)):
            classes(y, num_clients, per_client, rng)
        return
    parts = classes(y, num_clients, per_client, rng)
    assert_covers_once(parts, len(labels))
    assert (counts_of(y, parts) > 0).sum(axis=1).max() <= per_client


@given(owners=st.lists(st.sampled_from(["b", "a", "10", "9", "z.-_"]), min_size=1, max_size=60))
def test_natural_gives_each_client_its_own_examples_in_order(owners: list[str]) -> None:
    parts = natural(np.array(owners))
    assert_covers_once(parts, len(owners))
    for client, part in zip(sorted(set(owners)), parts, strict=True):
        assert part.tolist() == [i for i, owner in enumerate(owners) if owner == client]


def test_natural_is_refused_where_data_has_no_clients() -> None:
    with pytest.raises(DataError, match=r"partition\.kind natural"):
        divide(examples([0, 1, 0, 1]), PartitionSettings(kind="natural", min_examples=0), 0)


# Shares


@given(
    size=st.integers(0, 500), weights=st.lists(st.floats(0, 1), min_size=1, max_size=30), offset=st.floats(0, 0.999999)
)
def test_cut_is_within_one_of_each_share(size: int, weights: list[float], offset: float) -> None:
    shares = np.array(weights) if sum(weights) > 0 else np.ones(len(weights))
    shares = shares / shares.sum()
    parts = cut(np.arange(size), shares, offset)
    assert_covers_once(parts, size)
    assert max(abs(len(part) - size * share) for part, share in zip(parts, shares, strict=True)) <= 1 + 1e-9


def test_cut_favours_no_client_on_average() -> None:
    # Over the offsets (j + 1/2) / 1000, the mean of floor(n S + offset) is n S within 1/1000. So the difference of two
    # cuts has the mean n p within 2/1000.
    shares = np.array([0.013, 0.5, 0.0, 0.287, 0.2])
    sizes = [[len(part) for part in cut(np.arange(7), shares, (j + 0.5) / 1000)] for j in range(1000)]
    np.testing.assert_allclose(np.mean(sizes, axis=0), 7 * shares, atol=2e-3)
    assert np.array(sizes)[:, 2].max() == 0


@pytest.mark.parametrize("alpha", [0.02, 0.5, 30.0])
def test_dirichlet_shares_have_the_moments_of_the_distribution(alpha: float) -> None:
    # A share is Beta(alpha, (K - 1) alpha): E p^m = prod_{i<m} (alpha + i) / (K alpha + i). The mean of M draws of p^m
    # has the standard error sqrt((E p^2m - (E p^m)^2) / M). The shares of one draw are dependent, so only the first is
    # used.
    K, M = 4, 20_000
    first = np.random.default_rng(1)
    shares = np.array([dirichlet_shares(alpha, K, first)[0] for _ in range(M)])

    def moment(m: int) -> float:
        return float(np.prod([(alpha + i) / (K * alpha + i) for i in range(m)]))

    for m in (1, 2):
        error = np.sqrt((moment(2 * m) - moment(m) ** 2) / M)
        assert abs((shares**m).mean() - moment(m)) < 5 * error


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-10, 1e308])
def test_dirichlet_shares_are_finite_at_the_ends_of_alpha(alpha: float) -> None:
    shares = dirichlet_shares(alpha, 7, np.random.default_rng(0))
    assert abs(shares.sum() - 1) < 1e-12
    # alpha -> 0: one share is 1. alpha -> inf: all shares are equal.
    np.testing.assert_allclose(np.sort(shares), [0] * 6 + [1] if alpha < 1 else [1 / 7] * 7, atol=1e-6)


# Label skew


def test_dirichlet_of_large_alpha_gives_everyone_the_same() -> None:
    # A share has the sd sqrt(1/K (1 - 1/K) / (K alpha + 1)) = sqrt(0.09 / 1e9) = 1e-5, or 0.01 of 1000 examples. The
    # rounding is below 1, so each count is 99, 100 or 101.
    y = balanced(10, 1000)
    counts = counts_of(y, dirichlet(y, 10, 1e8, np.random.default_rng(3)))
    assert abs(counts - 100).max() <= 1


def test_dirichlet_of_tiny_alpha_gives_each_class_to_one_client() -> None:
    y = balanced(10, 50)
    counts = counts_of(y, dirichlet(y, 8, 1e-12, np.random.default_rng(0)))
    np.testing.assert_array_equal((counts > 0).sum(axis=0), 1)


def test_dirichlet_counts_have_the_variance_of_the_distribution() -> None:
    # The count of a class at a client is n p, rounded. Var p = 1/K (1 - 1/K) / (K alpha + 1) = 0.09 / 6 at alpha 0.5.
    # The variance of 2000 independent counts has the relative error sqrt((kurtosis - 1) / 2000). The kurtosis of
    # Beta(0.5, 4.5) is 7.1, so this is 5.5 %, and the bound of 25 % is more than 4 sd.
    y = balanced(200, 1000)
    counts = [counts_of(y, dirichlet(y, 10, 0.5, np.random.default_rng(seed)))[0] for seed in range(10)]
    assert abs(np.var(np.array(counts) / 1000) / (0.09 / 6) - 1) < 0.25


def test_label_mix_sizes_are_equal_within_one() -> None:
    y = balanced(7, 31)
    sizes = [len(part) for part in label_mix(y, 10, 0.05, np.random.default_rng(0))]
    assert sorted(sizes) == [21] * 3 + [22] * 7  # 217 = 7 · 22 + 3 · 21


def test_label_mix_of_large_alpha_has_the_mix_of_the_whole() -> None:
    # With q = p, each count of a client of n = 200 is nearly Binomial(200, p). The totals are fixed, so the spread is
    # smaller: sd <= sqrt(200 p (1 - p)), 7.1 for p = 1/2. The bound for each of the 4 · 30 counts is 6 sd.
    y = np.repeat(np.arange(4), [3000, 1500, 900, 600]).astype(np.int32)
    p = np.array([0.5, 0.25, 0.15, 0.1])
    counts = counts_of(y, label_mix(y, 30, 1e9, np.random.default_rng(5)))
    assert (abs(counts - 200 * p) < 6 * np.sqrt(200 * p * (1 - p))).all()


def test_label_mix_gives_a_client_its_class_while_it_lasts() -> None:
    # alpha -> 0: each client requests one class only. With 5 clients of 20 examples and 5 classes of 20, a client that
    # alone requests a class gets the whole class.
    y = balanced(5, 20)
    rng = np.random.default_rng(2)
    wanted = dirichlet_logits(np.full(5, 1e-12 / 5), (5, 5), np.random.default_rng(2)).argmax(axis=1)
    counts = counts_of(y, label_mix(y, 5, 1e-12, rng))
    alone = [k for k in range(5) if (wanted == wanted[k]).sum() == 1]
    assert alone
    assert all(counts[k, wanted[k]] == 20 for k in alone)


@given(
    num_clients=st.integers(1, 12),
    available=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    alpha=POSITIVE,
    seed=SEEDS,
)
@settings(max_examples=100)
def test_label_mix_fills_rows_and_columns_exactly(
    num_clients: int, available: list[int], alpha: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lacking = rng.multinomial(sum(available), np.full(num_clients, 1 / num_clients))
    logits = dirichlet_logits(alpha, (num_clients, len(available)), rng)
    counts = fill_counts(logits, lacking, np.array(available), rng)
    np.testing.assert_array_equal(counts.sum(axis=0), available)
    np.testing.assert_array_equal(counts.sum(axis=1), lacking)


def one_at_a_time(y: np.ndarray, num_clients: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """The slow, obvious label mix, counts (K, C): in turn, each client draws one example of a class that has some."""
    left = np.bincount(y)
    mixes = rng.dirichlet(alpha * left / len(y), num_clients)
    counts = np.zeros(mixes.shape, np.int64)
    for turn in range(len(y)):
        client = turn % num_clients
        mix = np.where(left > 0, mixes[client] + 1e-12, 0)
        label = rng.choice(len(left), p=mix / mix.sum())
        counts[client, label] += 1
        left[label] -= 1
    return counts


def test_label_mix_is_as_skewed_as_drawing_one_example_at_a_time() -> None:
    # The concentration is the sum of the squared shares of a client's labels (1/C: even; 1: one class), as a mean over
    # 8 clients and 60 seeds. The two rules request the same mixes and differ only when a class runs out: within 3 %.
    y = balanced(5, 80)

    def concentration(counts: np.ndarray) -> float:
        return float(((counts / counts.sum(axis=1, keepdims=True)) ** 2).sum(axis=1).mean())

    fast = [concentration(counts_of(y, label_mix(y, 8, 2.0, np.random.default_rng(s)))) for s in range(60)]
    slow = [concentration(one_at_a_time(y, 8, 2.0, np.random.default_rng(1000 + s))) for s in range(60)]
    error = np.sqrt((np.var(fast) + np.var(slow)) / 60)
    assert abs(np.mean(fast) - np.mean(slow)) < 0.03 * np.mean(slow) + 4 * error


@given(labels=LABELS, num_clients=st.integers(1, 20), per_client=st.integers(1, 4), seed=SEEDS)
@settings(max_examples=60)
def test_shards_bound_the_classes_held(labels: list[int], num_clients: int, per_client: int, seed: int) -> None:
    # C - 1 borders between classes cut the K s sorted shards: at most K s + C - 1 pairs of a shard and a class.
    y = examples(labels).y
    counts = counts_of(y, shards(y, num_clients, per_client, np.random.default_rng(seed)))
    assert (counts > 0).sum() <= num_clients * per_client + y.max()
    # A shard that is not longer than any class has at most one border.
    if np.bincount(y).min() >= -(-len(y) // (num_clients * per_client)):
        assert (counts > 0).sum(axis=1).max() <= 2 * per_client


def test_classes_of_many_clients_take_no_minute() -> None:
    begun = time.monotonic()
    parts = classes(np.arange(20_000, dtype=np.int32) % 10, 20_000, 2, np.random.default_rng(0))
    # Counting the clients of each class anew for each client takes 4e9 additions.
    assert time.monotonic() - begun < 10
    assert sum(map(len, parts)) == 20_000


def test_more_shards_than_memory_holds_are_refused() -> None:
    with pytest.raises(DataError, match=r"partition.shards_per_client must be <= 1000000, got 10 \* 2147483647"):
        shards(np.zeros(20, np.int32), 10, 2**31 - 1, np.random.default_rng(0))


def test_shards_aligned_with_classes_give_at_most_s_classes() -> None:
    # As in McMahan 2017: 100 shards of 10 examples from 10 classes of 100. No shard crosses a border.
    y = balanced(10, 100)
    counts = counts_of(y, shards(y, 50, 2, np.random.default_rng(0)))
    assert (counts > 0).sum(axis=1).max() == 2
    np.testing.assert_array_equal(counts.sum(axis=1), 20)


@given(num_clients=st.integers(1, 25), per_client=st.integers(1, 8), seed=SEEDS)
@settings(max_examples=60)
def test_classes_gives_each_class_to_nearly_equally_many(num_clients: int, per_client: int, seed: int) -> None:
    y = balanced(8, 30)
    if num_clients * per_client < 8:
        num_clients = 8
    counts = counts_of(y, classes(y, num_clients, per_client, np.random.default_rng(seed)))
    np.testing.assert_array_equal((counts > 0).sum(axis=1), per_client)
    holders = (counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    assert holders.min() >= 1
    # A class is divided equally over its clients.
    assert all(column[column > 0].max() - column[column > 0].min() <= 1 for column in counts.T)


# Sizes


def test_iid_sizes_and_labels_are_even() -> None:
    # The counts are hypergeometric: sd = sqrt(n p (1 - p) (N - n) / (N - 1)), 7.5 for n = 300, p = 0.3, N = 3000.
    y = np.repeat([0, 1], [900, 2100]).astype(np.int32)
    counts = counts_of(y, iid(y, 10, np.random.default_rng(0)))
    np.testing.assert_array_equal(counts.sum(axis=1), 300)
    assert abs(counts[:, 0] - 90).max() < 6 * np.sqrt(300 * 0.3 * 0.7 * 2700 / 2999)


def test_quantity_power_law_sizes_are_those_of_the_closed_form() -> None:
    # i^-1 for i = 1..4 gives the shares 12/25, 6/25, 4/25, 3/25 of 250.
    y = balanced(2, 125)
    sizes = [len(part) for part in quantity(y, 4, "power", 0.3, 1.0, np.random.default_rng(0))]
    assert sizes == [120, 60, 40, 30]


def test_quantity_power_law_sizes_are_rounded_not_cut_off() -> None:
    # The shares 6/11, 3/11, 2/11 of 20 end at 10.9 and 16.4, rounded 11 and 16.
    parts = quantity(balanced(2, 10), 3, "power", 0.3, 1.0, np.random.default_rng(0))
    assert [len(part) for part in parts] == [11, 5, 4]


@pytest.mark.parametrize(
    "draw",
    [
        lambda y, rng: classes(y, 3, 1, rng),
        lambda y, rng: label_mix(y, 3, 1.0, rng),
        lambda y, rng: shards(y, 3, 1, rng),
        lambda y, rng: dirichlet(y, 3, 1e9, rng),
        lambda y, rng: quantity(y, 3, "dirichlet", 1e9, 1.0, rng),
    ],
    ids=["classes", "label_mix", "shards", "dirichlet", "quantity"],
)
def test_who_gets_the_example_that_is_left_over_is_drawn(draw: Callable[..., list[np.ndarray]]) -> None:
    # Four examples for three clients: one client gets two, each in a third of the 300 seeds (100, sd 8.2).
    sizes = [[len(part) for part in draw(np.zeros(4, np.int32), np.random.default_rng(seed))] for seed in range(300)]
    assert {tuple(sorted(one)) for one in sizes} == {(1, 1, 2)}
    assert np.abs(np.sum(np.array(sizes) == 2, axis=0) - 100).max() < 5 * 8.2


@given(exponent=st.floats(0.01, 20), num_clients=st.integers(1, 50), size=st.integers(1, 500), seed=SEEDS)
def test_quantity_power_law_is_within_one_of_the_law(exponent: float, num_clients: int, size: int, seed: int) -> None:
    parts = quantity(np.zeros(size, np.int32), num_clients, "power", 0.3, exponent, np.random.default_rng(seed))
    total = sum(i**-exponent for i in range(1, num_clients + 1))
    for i, part in enumerate(parts, start=1):
        assert abs(len(part) - size * i**-exponent / total) <= 1 + 1e-6


def test_quantity_of_large_alpha_is_even() -> None:
    # A share has the sd sqrt(0.09 / 1e9) = 1e-5, or 0.05 of 5000 examples. The rounding is below 1.
    parts = quantity(balanced(2, 2500), 10, "dirichlet", 1e8, 1.5, np.random.default_rng(0))
    assert all(abs(len(part) - 500) <= 1 for part in parts)


# Features


def test_noise_has_the_variance_of_each_client() -> None:
    # The variance of n Gaussian draws of variance v has the sd v sqrt(2 / n), 1.4 % of v for n = 10,000. Bound: 6 sd.
    chosen = PartitionSettings(kind="feature_noise", num_clients=5, sigma=0.4)
    x = np.random.default_rng(0).uniform(size=(2000, 5)).astype(np.float32)
    change = change_for(chosen, x, 7)
    for k in range(5):
        noisy, done = change(x, k)
        variance = 0.4 * (k + 1) / 5
        assert done == {"noise_variance": pytest.approx(variance)}
        assert np.var(noisy.astype(np.float64) - x) == pytest.approx(variance, rel=6 * np.sqrt(2 / 10_000))


def test_noise_differs_between_clients_but_not_between_runs() -> None:
    chosen = PartitionSettings(kind="feature_noise", num_clients=2)
    x = np.zeros((50, 3), np.float32)
    first, second = change_for(chosen, x, 1)(x, 0)[0], change_for(chosen, x, 1)(x, 1)[0]
    np.testing.assert_array_equal(first, change_for(chosen, x, 1)(x, 0)[0])
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 6 / np.sqrt(150)


def test_noise_of_no_variance_changes_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(noise(x, 0.0, np.random.default_rng(0)), x)


def test_noise_beyond_float32_is_refused_by_name() -> None:
    chosen = PartitionSettings(kind="feature_noise", num_clients=2, sigma=1e200)
    x = np.zeros((5, 3), np.float32)
    with pytest.raises(DataError, match=r"partition\.sigma is too large .* got 1e\+200"):
        change_for(chosen, x, 0)(x, 0)


def test_shift_of_nothing_changes_nothing() -> None:
    x = np.random.default_rng(0).uniform(size=(3, 5, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(shift(x, 0.0, 1.0, 0.0), x)


def test_shift_adds_brightness_and_stretches_contrast_about_each_mean() -> None:
    # The first image has 0.4 and 0.6, so its mean is 0.5. Contrast 1.5 makes them 0.35 and 0.65, and brightness 0.1
    # makes them 0.45 and 0.75. The second image is 0.2 everywhere and only gets brighter.
    x = np.full((2, 2, 2, 1), 0.2, np.float32)
    x[0, :, 0], x[0, :, 1] = 0.4, 0.6
    shifted = shift(x, 0.1, 1.5, 0.0)
    np.testing.assert_allclose(shifted[0, :, :, 0], [[0.45, 0.75]] * 2, atol=1e-6)
    np.testing.assert_allclose(shifted[1], 0.3, atol=1e-6)


def test_shift_saturates_at_the_limits() -> None:
    x = np.array([0.0, 0.9], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(shift(x, 0.5, 1.0, 0.0).ravel(), [0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(shift(x, 0.5, 1.0, 0.0, limits=(0.0, 2.0)).ravel(), [1.0, 1.9], atol=1e-6)


def test_shift_turns_images_about_their_centre() -> None:
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 3)).astype(np.float32)
    half, quarter = shift(x, 0.0, 1.0, 180.0), shift(x, 0.0, 1.0, 90.0)
    np.testing.assert_allclose(half, x[:, ::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(quarter, np.rot90(x, axes=(1, 2)), atol=1e-5)
    assert half.dtype == np.float32


def test_feature_shift_of_a_client_is_the_same_among_more_clients_and_within_the_limits() -> None:
    x = np.random.default_rng(0).uniform(size=(4, 5, 5, 1)).astype(np.float32)
    few, many = (
        change_for(PartitionSettings(kind="feature_shift", num_clients=n, contrast=0.1, rotation=3.0), x, 11)
        for n in (5, 50)
    )
    drawn = [few(x, k)[1] for k in range(5)]
    assert drawn == [many(x, k)[1] for k in range(5)]
    assert len({done["rotation"] for done in drawn}) == 5
    for done in drawn:
        assert abs(done["brightness"]) <= 0.2
        assert abs(done["contrast"] - 1) <= 0.1
        assert abs(done["rotation"]) <= 3


def test_feature_shift_of_a_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"partition\.kind feature_shift needs images .* got a table of 3 features"):
        change_for(PartitionSettings(kind="feature_shift"), np.zeros((5, 3), np.float32), 0)


def test_other_kinds_leave_the_features_alone() -> None:
    x = np.ones((5, 3), np.float32)
    for kind in set(KINDS) - {"feature_noise", "feature_shift"}:
        assert change_for(PartitionSettings(kind=kind), x, 0)(x, 0) == (x, {})


# Fewest examples


def test_min_examples_is_kept_by_redrawing() -> None:
    # Some first draws of 200 seeds give a client fewer than 10 examples, or this tests nothing. No result does.
    raw = examples(balanced(10, 40))
    free = PartitionSettings(num_clients=8, alpha=0.1, min_examples=0)
    kept = PartitionSettings(num_clients=8, alpha=0.1, min_examples=10)
    first = [min(map(len, divide(raw, free, seed).parts)) for seed in range(200)]
    assert min(first) < 10
    for seed in range(200):
        parts = divide(raw, kept, seed).parts
        assert min(map(len, parts)) >= 10
        assert_covers_once(parts, 400)


def test_min_examples_out_of_reach_ends_after_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counted(data: RawExamples, chosen: PartitionSettings, rng: np.random.Generator) -> list[np.ndarray]:
        drawn.append(1)
        return dirichlet(data.y, chosen.num_clients, chosen.alpha, rng)

    monkeypatch.setitem(division.PARTITIONERS, "dirichlet", counted)
    chosen = PartitionSettings(num_clients=100, alpha=0.01)
    with pytest.raises(DataError) as caught:
        divide(examples(balanced(10, 180)), chosen, 0)
    assert len(drawn) == PARTITION_DRAWS
    # 10 classes with about one client each cannot reach 100 clients.
    said = str(caught.value)
    assert "partition.min_examples is 10, but the best of 1000 draws leaves client " in said
    assert "with 0 of the 1800 training examples" in said
    assert "partition.num_clients" in said
    assert "partition.alpha" in said


@pytest.mark.parametrize(
    "chosen",
    [
        PartitionSettings(kind="quantity", law="power", exponent=4.0),
        PartitionSettings(kind="natural", min_examples=200),
    ],
)
def test_min_examples_of_kinds_with_fixed_sizes_is_tried_once(
    chosen: PartitionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, drawn = PARTITIONERS[chosen.kind], []

    def counted(data: RawExamples, given_settings: PartitionSettings, rng: np.random.Generator) -> list[np.ndarray]:
        drawn.append(1)
        return original(data, given_settings, rng)

    monkeypatch.setitem(division.PARTITIONERS, chosen.kind, counted)
    with pytest.raises(DataError, match=rf"partition\.min_examples is {chosen.min_examples}, but {chosen.kind} leaves"):
        divide(examples(balanced(2, 90), clients=["a"] * 150 + ["b"] * 30), chosen, 0)
    assert len(drawn) == 1


@pytest.mark.parametrize("kind", ["iid", "label_mix"])
def test_clients_of_exactly_min_examples_are_enough(kind: PartitionKind) -> None:
    # 20 examples give 4 clients 5 each, without a second draw.
    chosen = PartitionSettings(kind=kind, num_clients=4, min_examples=5)
    assert [len(part) for part in divide(examples(balanced(2, 10)), chosen, 0).parts] == [5] * 4


def test_more_examples_asked_for_than_there_are_is_said_before_drawing() -> None:
    with pytest.raises(
        DataError, match=r"partition\.num_clients \* partition\.min_examples must be <= 20, .* got 3 \* 10"
    ):
        divide(examples(balanced(2, 10)), PartitionSettings(num_clients=3), 0)


@pytest.mark.parametrize(("num_clients", "first", "last"), [(1, "00", "00"), (100, "00", "99"), (101, "000", "100")])
def test_generated_ids_have_equal_width(num_clients: int, first: str, last: str) -> None:
    ids = divide(
        examples(balanced(2, 60)), PartitionSettings(kind="iid", num_clients=num_clients, min_examples=0), 0
    ).ids
    assert (ids[0], ids[-1], len(ids)) == (first, last, num_clients)
    assert ids == sorted(ids)
