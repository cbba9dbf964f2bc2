import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.federate.schedule import (
    check_clients,
    client_rng,
    clients_per_round,
    draw_seed,
    epochs,
    highest,
    learning_rate_factor,
    sample,
    stops_early,
    visits,
)
from tasks.settings import (
    EarlyStoppingSettings,
    FaultSettings,
    FederateSettings,
    LocalWorkSettings,
    SamplingSettings,
    ScheduleSettings,
)

SIZES = {"d": 6, "a": 1, "c": 3, "b": 2}
ids = st.text("0123456789abcdefXYZ._-", min_size=1, max_size=12)
seeds = st.integers(0, 2**31 - 1)
rounds = st.integers(1, 10_000)

ROOT = math.sqrt(5)


def assert_frequency(hits, trials, p):
    # Five standard deviations of Binomial(trials, p): by chance, more than that happens less than once in a million.
    assert abs(hits / trials - p) <= 5 * math.sqrt(p * (1 - p) / trials)


def inclusion_by_examples(sizes, drawn):
    """The probability that each client is drawn, summed over every ordered draw without replacement."""
    found = dict.fromkeys(sizes, 0.0)
    for ordered in itertools.permutations(sizes, drawn):
        left, p = sum(sizes.values()), 1.0
        for client in ordered:
            p *= sizes[client] / left
            left -= sizes[client]
        for client in ordered:
            found[client] += p
    return found


@given(st.dictionaries(ids, st.integers(1, 500), min_size=1, max_size=20), st.integers(1, 25), seeds, rounds)
def test_sample_is_sorted_without_duplicates_and_repeatable(sizes, drawn, seed, round_num):
    for kind in ("uniform", "by_examples"):
        settings = SamplingSettings(kind=kind, clients_per_round=drawn)
        clients = sample(settings, sizes, seed, round_num)
        assert clients == sorted(set(clients))
        assert len(clients) == min(drawn, len(sizes))
        assert set(clients) <= set(sizes)
        assert sample(settings, dict(reversed(sizes.items())), seed, round_num) == clients


def test_sample_all_takes_every_client_in_order():
    assert sample(SamplingSettings(kind="all"), SIZES, 3, 7) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_sample_uniform_draws_each_client_equally_often(drawn):
    settings, trials = SamplingSettings(kind="uniform", clients_per_round=drawn), 4000
    hits = Counter(client for t in range(trials) for client in sample(settings, SIZES, 1, t))
    for client in SIZES:
        assert_frequency(hits[client], trials, drawn / len(SIZES))


@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_sample_by_examples_draws_in_proportion_without_replacement(drawn):
    settings, trials = SamplingSettings(kind="by_examples", clients_per_round=drawn), 4000
    hits = Counter(client for t in range(trials) for client in sample(settings, SIZES, 1, t))
    for client, p in inclusion_by_examples(SIZES, drawn).items():
        assert_frequency(hits[client], trials, p)


def test_sample_draws_other_clients_in_other_rounds_and_seeds():
    settings, many = SamplingSettings(kind="uniform", clients_per_round=5), dict.fromkeys("abcdefghijkl", 1)
    # There are 792 possible draws: 20 equal ones have a probability of 792^-19.
    assert len({tuple(sample(settings, many, 0, t)) for t in range(20)}) > 1
    assert len({tuple(sample(settings, many, s, 1)) for s in range(20)}) > 1


label_counts = st.integers(1, 6).flatmap(
    lambda num_classes: st.dictionaries(
        ids, st.lists(st.integers(0, 9), min_size=num_classes, max_size=num_classes), min_size=1, max_size=12
    )
)


@given(label_counts, st.integers(1, 14), seeds, rounds)
def test_stratified_covers_as_many_labels_as_it_can(counts, drawn, seed, round_num):
    labels = {client: np.array(c) for client, c in counts.items()}
    sizes = {client: int(c.sum()) for client, c in labels.items()}
    settings = SamplingSettings(kind="stratified", clients_per_round=drawn)
    clients = sample(settings, sizes, seed, round_num, labels)
    assert clients == sorted(set(clients))
    assert len(clients) == min(drawn, len(sizes))
    held = sum(labels.values()) > 0
    covered = sum(labels[client] for client in clients) > 0
    # While a label that a client has is not covered, each draw takes a client with an uncovered label.
    assert covered.sum() >= min(drawn, held.sum())
    assert sample(settings, dict(reversed(sizes.items())), seed, round_num, labels) == clients


def test_stratified_takes_everybody_in_turn_where_labels_are_equal():
    labels, trials = {client: np.array([1, 1]) for client in SIZES}, 3000
    settings = SamplingSettings(kind="stratified", clients_per_round=2)
    hits = Counter(client for t in range(trials) for client in sample(settings, SIZES, 1, t, labels))
    for client in SIZES:
        assert_frequency(hits[client], trials, 2 / 4)


def test_stratified_draws_the_clients_of_a_label_in_proportion_to_their_examples_of_it():
    # One draw is for label 0, by "a" or "b" in proportion 6 to 2; the other is for label 1, always by "c".
    labels = {"a": np.array([6, 0]), "b": np.array([2, 0]), "c": np.array([0, 5])}
    settings, trials = SamplingSettings(kind="stratified", clients_per_round=2), 3000
    drawn = [sample(settings, dict.fromkeys(labels, 1), 1, t, labels) for t in range(trials)]
    assert all("c" in clients for clients in drawn)
    assert_frequency(sum("a" in clients for clients in drawn), trials, 6 / 8)


def test_stratified_covers_next_the_label_of_which_the_smallest_part_is_covered():
    # Two draws take one client of each label. If "b" is one of them, 50 of 100 examples of label 0 are covered and 9 of
    # 10 of label 1, so the third draw is for label 0, though it has more examples. Else it is for label 1, of "b".
    labels = {"a": np.array([50, 0]), "b": np.array([0, 9]), "c": np.array([50, 0]), "d": np.array([0, 1])}
    settings, trials = SamplingSettings(kind="stratified", clients_per_round=3), 1000
    drawn = [sample(settings, dict.fromkeys(labels, 1), 1, t, labels) for t in range(trials)]
    assert all("b" in clients for clients in drawn)
    assert_frequency(sum(clients == ["a", "b", "c"] for clients in drawn), trials, 9 / 10)


def test_stratified_covers_a_label_of_one_example():
    labels = {"a": np.array([1, 0]), "b": np.array([0, 10]), "c": np.array([0, 10])}
    settings = SamplingSettings(kind="stratified", clients_per_round=2)
    assert all("a" in sample(settings, dict.fromkeys(labels, 1), 1, t, labels) for t in range(20))


def test_stratified_fills_up_with_clients_without_examples():
    labels = {"a": np.array([5, 5]), **dict.fromkeys("bcd", np.array([0, 0]))}
    settings = SamplingSettings(kind="stratified", clients_per_round=3)
    drawn = [sample(settings, dict.fromkeys(labels, 1), 1, t, labels) for t in range(20)]
    assert {len(set(clients)) for clients in drawn} == {3}
    assert all("a" in clients for clients in drawn)


def test_stratified_settles_equal_cover_by_draw():
    labels = {"a": np.array([10, 0]), "b": np.array([0, 10])}
    settings, trials = SamplingSettings(kind="stratified", clients_per_round=1), 1000
    drawn = [sample(settings, dict.fromkeys(labels, 1), 1, t, labels) for t in range(trials)]
    assert_frequency(drawn.count(["a"]), trials, 1 / 2)


def test_power_of_choice_draws_its_candidates_by_examples():
    settings = SamplingSettings(kind="power_of_choice", clients_per_round=1, candidates=2)
    trials = 4000
    hits = Counter(client for t in range(trials) for client in sample(settings, SIZES, 1, t))
    for client, p in inclusion_by_examples(SIZES, 2).items():
        assert_frequency(hits[client], trials, p)


def test_highest_takes_the_highest_losses_and_those_that_cannot_be_measured():
    assert highest({"c": 0.5, "a": 2.0, "b": 1.0}, 2) == ["a", "b"]
    assert highest({"c": 0.5, "a": 0.5, "b": 0.5}, 2) == ["a", "b"]
    assert highest({"a": 9.0, "b": math.nan, "c": math.inf}, 2) == ["b", "c"]
    assert highest({"a": 9.0}, 3) == ["a"]


@pytest.mark.parametrize(
    ("patience", "min_delta", "losses", "expected"),
    [
        (0, 0.0, [3, 4, 5, 6, 7], False),  # off
        (2, 0.0, [3, 2, 1, 1], False),
        (2, 0.0, [3, 2, 1, 1, 1.5], True),  # 1 was the lowest, two rounds ago
        (2, 0.0, [3, 1, 2, 0.9, 2], False),
        (2, 0.5, [3, 2.6, 2.55], True),  # 3 is the best loss, and no later loss is lower than 3 - 0.5
        (2, 0.5, [3, 2.6, 2.4], False),
        (1, 0.0, [math.nan], True),
        (3, 0.0, [1, None, 2], False),
        (2, 0.0, [], False),
    ],
)
def test_stops_early_after_rounds_without_a_lower_loss(patience, min_delta, losses, expected):
    assert stops_early(EarlyStoppingSettings(patience=patience, min_delta=min_delta), losses) is expected


@given(st.integers(1, 60), st.integers(1, 4), seeds, rounds, ids)
def test_visits_are_a_permutation_in_every_epoch(num_examples, num_epochs, seed, round_num, client):
    order = visits(num_examples, num_epochs, client_rng(seed, round_num, client))
    assert order.dtype == np.int32
    assert order.shape == (num_epochs * num_examples,)
    for epoch in order.reshape(num_epochs, num_examples):
        assert sorted(epoch) == list(range(num_examples))
    np.testing.assert_array_equal(order, visits(num_examples, num_epochs, client_rng(seed, round_num, client)))


def test_visits_differ_between_epochs_rounds_clients_and_seeds():
    # There are 30! orders: by chance no two are equal.
    first, second = visits(30, 2, client_rng(0, 1, "a")).reshape(2, 30).tolist()
    others = [visits(30, 1, client_rng(*key)).tolist() for key in ((0, 2, "a"), (0, 1, "b"), (1, 1, "a"))]
    assert len({tuple(order) for order in (first, second, *others)}) == 5


def test_a_longer_order_begins_with_the_shorter_one():
    # So the first epochs of a client do not depend on how many follow.
    short, long = visits(9, 1, client_rng(5, 2, "x")), visits(9, 4, client_rng(5, 2, "x"))
    np.testing.assert_array_equal(long[:9], short)


def test_no_two_streams_coincide():
    keys = list(itertools.product((0, 1, 2, 2**31 - 1), (1, 2, 3, 50, 257), ("0", "1", "2", "00", "01", "10", "12")))
    streams = {tuple(client_rng(*key).integers(0, 2**63, 2).tolist()) for key in keys}
    augments = {draw_seed(*key).tobytes() for key in keys}
    assert len(streams) == len(augments) == len(keys)
    # A client's draws and its augmentation have different first words too.
    first = {np.random.SeedSequence(k).generate_state(2).tobytes() for k in ([2, *_words(key)] for key in keys)}
    assert not augments & first


def _words(key):
    seed, round_num, client = key
    return seed, round_num, *client.encode()


@given(st.tuples(seeds, rounds, ids), st.tuples(seeds, rounds, ids))
def test_different_keys_give_different_streams(one, other):
    same = one == other
    assert (client_rng(*one).integers(0, 2**63) == client_rng(*other).integers(0, 2**63)) == same
    assert (draw_seed(*one).tobytes() == draw_seed(*other).tobytes()) == same


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**32 - 1])
def test_a_client_draws_as_numpy_draws_from_the_words_of_its_key(seed):
    # 2 is the first word of a client's draws.
    expected = np.random.default_rng([2, seed, 3, *b"client-1"]).integers(0, 2**63, 4).tolist()
    assert client_rng(seed, 3, "client-1").integers(0, 2**63, 4).tolist() == expected


def test_draw_seed_is_two_int32_words():
    words = draw_seed(3, 4, "client-1")
    assert words.dtype == np.int32
    assert words.shape == (2,)


def test_epochs_same_and_per_client():
    rng = client_rng(0, 1, "a")
    assert epochs(LocalWorkSettings(kind="same", epochs=3), "a", rng) == 3
    by_client = LocalWorkSettings(kind="per_client", epochs=2, by_client={"a": 7})
    assert [epochs(by_client, client, rng) for client in ("a", "b")] == [7, 2]


def test_epochs_range_draws_every_number_equally_often_for_each_client_and_round():
    settings, trials = LocalWorkSettings(kind="range", low=2, high=4), 3000
    drawn = Counter(epochs(settings, "a", client_rng(0, t, "a")) for t in range(trials))
    assert set(drawn) == {2, 3, 4}
    for count in drawn.values():
        assert_frequency(count, trials, 1 / 3)
    assert len({epochs(settings, str(c), client_rng(0, 1, str(c))) for c in range(30)}) == 3


def test_check_clients_names_unknown_ids():
    settings = FederateSettings(
        local_work=LocalWorkSettings(kind="per_client", by_client={"a": 2, "z": 3}), width={"b": 0.5}
    )
    check_clients(settings, ["a", "b", "z"])
    with pytest.raises(SettingsError, match=r"federate.local_work.by_client names z, .*: a, b"):
        check_clients(settings, ["a", "b"])
    with pytest.raises(SettingsError, match=r"federate.width names b, .*: a, z"):
        check_clients(settings, ["a", "z"])
    faulty = FederateSettings(faults=FaultSettings(kind="not_finite", clients=("a", "y")))
    check_clients(faulty, ["a", "y", "z"])
    with pytest.raises(SettingsError, match=r"federate.faults.clients names y, .*: a, z"):
        check_clients(faulty, ["a", "z"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ScheduleSettings(), [1, 1, 1, 1, 1]),
        (ScheduleSettings(kind="exponential", decay=0.5), [1, 0.5, 0.25, 0.125, 0.0625]),
        (ScheduleSettings(kind="step", decay=0.5, every=2), [1, 1, 0.5, 0.5, 0.25]),
        # Half a cosine from 1 to 0.2 in 5 steps: 0.2 + 0.8 (1 + cos(πi/5)) / 2.
        # cos(π/5) = (√5 + 1)/4, cos(2π/5) = (√5 − 1)/4.
        (
            ScheduleSettings(kind="cosine", final=0.2),
            [1, *(0.6 + 0.1 * c for c in (ROOT + 1, ROOT - 1, 1 - ROOT, -1 - ROOT))],
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_learning_rate_factor_closed_forms(settings, expected):
    assert [learning_rate_factor(settings, t, 5) for t in range(1, 6)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["constant", "exponential", "step", "cosine"])
def test_learning_rate_factor_of_no_round_is_zero(kind):
    assert all(learning_rate_factor(ScheduleSettings(kind=kind), t, 30) > 0 for t in range(1, 31))


@pytest.mark.parametrize("kind", ["constant", "exponential", "step", "cosine"])
def test_learning_rate_factor_of_a_single_round_is_one(kind):
    assert learning_rate_factor(ScheduleSettings(kind=kind), 1, 1) == 1


@pytest.mark.parametrize(("weighting", "expected"), [("uniform", 14 / 15 / 2), ("examples", 14 / 15 * 7 / 8)])
def test_drawn_and_weighed_by_examples_size_counts_twice(weighting, expected):
    # The large client is drawn unless first a small one (0.3) and then another small one (20 of 90) is drawn, so with
    # probability 14/15. It then has 1/2 or 7/8 of the mean. Its share of the examples is 0.7.
    sizes = {"a": 70, "b": 10, "c": 10, "d": 10}
    settings = SamplingSettings(kind="by_examples", clients_per_round=2)
    weight = sizes if weighting == "examples" else dict.fromkeys(sizes, 1)
    shares = []
    for t in range(1, 4001):
        drawn = sample(settings, sizes, 0, t)
        shares.append(weight["a"] * ("a" in drawn) / sum(weight[client] for client in drawn))
    assert np.mean(shares) == pytest.approx(expected, abs=0.02)


def test_all_are_more_than_the_clients_per_round_that_another_kind_draws():
    settings, seven = SamplingSettings(kind="all"), dict.fromkeys("abcdefg", 1)
    assert settings.clients_per_round == 5  # which has no effect with all
    assert sample(settings, seven, 3, 7) == list("abcdefg")
    assert clients_per_round(settings, len(seven)) == 7
    assert [clients_per_round(SamplingSettings(kind="uniform"), num) for num in (4, 5, 7)] == [4, 5, 5]
