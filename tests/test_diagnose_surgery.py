"""The changes of a replay to the clients' data, and two changes at once."""

import numpy as np
import pytest

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.surgery import (
    features_aligned,
    labels_changed_back,
    labels_dealt_evenly,
    sizes_made_equal,
)


def sites(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    made = {}
    for k, (size, labels) in enumerate(((40, [0]), (7, [1, 2]), (23, [2]), (30, [0, 1, 2]))):
        x = rng.normal(k, 1 + k, (size, 4, 4, 1)).astype(np.float32)
        made[f"{k:02}"] = x, rng.choice(labels, size).astype(np.int32)
    return made


def test_dealing_keeps_sizes_and_examples_and_evens_the_labels() -> None:
    before = sites(np.random.default_rng(0))
    after = labels_dealt_evenly(5)(before)
    assert {c: len(y) for c, (_, y) in after.items()} == {c: len(y) for c, (_, y) in before.items()}
    pooled = [np.sort(np.concatenate([x.sum((1, 2, 3)) for x, _ in s.values()])) for s in (before, after)]
    np.testing.assert_array_equal(*pooled)
    whole = np.bincount(np.concatenate([y for _, y in before.values()]), minlength=3)
    for _, y in after.values():
        # Examples are whole, so each count is within 2 of the client's share of the label.
        assert np.abs(np.bincount(y, minlength=3) - len(y) * whole / whole.sum()).max() <= 2


def test_dealing_leaves_kept_clients_alone() -> None:
    before = sites(np.random.default_rng(1))
    after = labels_dealt_evenly(5, kept=("02",))(before)
    np.testing.assert_array_equal(after["02"][0], before["02"][0])
    assert not set(after["00"][0].sum((1, 2, 3))) & set(before["02"][0].sum((1, 2, 3)))


def test_equal_sizes_keep_the_label_mix() -> None:
    before = sites(np.random.default_rng(2))
    after = sizes_made_equal(3)(before)
    assert {len(y) for _, y in after.values()} == {25}  # (40 + 7 + 23 + 30) / 4
    for client, (_, y) in after.items():
        had = np.bincount(before[client][1], minlength=3) / len(before[client][1])
        assert np.abs(np.bincount(y, minlength=3) / 25 - had).max() <= 1 / 25 + 1e-9


def test_aligned_features_have_mean_0_and_sd_1_at_every_client() -> None:
    for x, _ in features_aligned(sites(np.random.default_rng(3))).values():
        assert x.mean() == pytest.approx(0, abs=1e-5)
        assert x.std() == pytest.approx(1, abs=1e-5)


def test_changes_add_up() -> None:
    both = Change("without client 01", without=("01",)) | Change("at a rate of 1", {"a": 1})
    assert both.described() == {"a": 1, "leave out": ["01"]}
    assert (both | NO_CHANGE) == both


def test_dealt_examples_keep_their_labels() -> None:
    before = sites(np.random.default_rng(4))
    labels = {x_.tobytes(): int(y_) for x, y in before.values() for x_, y_ in zip(x, y, strict=True)}
    for surgery in (labels_dealt_evenly(5), sizes_made_equal(3)):
        for x, y in surgery(before).values():
            assert [labels[x_.tobytes()] for x_ in x] == y.tolist()


def test_labels_change_back_for_the_named_clients_only() -> None:
    before = sites(np.random.default_rng(5))
    after = labels_changed_back({"03": (2, 1, 0)})(before)
    np.testing.assert_array_equal(after["03"][1], 2 - before["03"][1])
    np.testing.assert_array_equal(after["02"][1], before["02"][1])


def test_every_channel_is_aligned_by_its_own_mean_and_sd_in_float32() -> None:
    # Two channels have the pixels -1 and 1, one of them times 10 and plus 100. Both become -1 and 1.
    signs = np.array([-1, 1, 1, -1, 1, -1, -1, 1], np.float32).reshape(2, 2, 2)
    x = np.stack([signs, 100 + 10 * signs], axis=-1)
    aligned, labels = features_aligned({"00": (x, np.array([0, 1], np.int32))})["00"]
    np.testing.assert_allclose(aligned, np.stack([signs, signs], axis=-1), rtol=1e-6)
    assert (aligned.dtype, aligned.shape, labels.tolist()) == (np.float32, x.shape, [0, 1])


def test_a_channel_that_is_the_same_everywhere_is_aligned_to_0() -> None:
    # The mean of 10,000 values float32(0.1) is exact in float64. In float32 a rest as large as the sd would stay.
    x = np.full((100, 10, 10, 1), 0.1, np.float32)
    aligned, _ = features_aligned({"00": (x, np.zeros(100, np.int32))})["00"]
    assert not aligned.any()


def test_another_seed_draws_other_examples_of_equal_number() -> None:
    before = sites(np.random.default_rng(6))
    first, again, other = (sizes_made_equal(seed)(before) for seed in (3, 3, 4))
    # 25 of 40 examples are drawn, so two draws are not equal by chance.
    np.testing.assert_array_equal(first["00"][0], again["00"][0])
    assert set(first["00"][0].sum((1, 2, 3))) != set(other["00"][0].sum((1, 2, 3)))
