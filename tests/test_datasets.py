import io
import logging
import os
import pickle
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from tasks.datasets import KINDS, RawExamples, load_raw
from tasks.datasets.checks import check_features, check_memory, features_of, named_classes
from tasks.datasets.hold_out import stratified
from tasks.datasets.synthetic import client_examples
from tasks.errors import DataError, SettingsError
from tasks.settings import DataKind, DataSettings
from tests.raw_examples import as_numbers

IN_TMP_PATH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def read(kind: DataKind, path: Path | str = "tasks/datasets", seed: int = 0, **fields: Any) -> RawExamples:
    return as_numbers(load_raw(DataSettings(kind=kind, path=str(path), **fields), seed, Path("/nowhere")))


def refusal(kind: DataKind, path: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(kind, path, **fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def outcome(kind: DataKind, path: Path) -> str | None:
    """The error in one line; None if the data can be read."""
    try:
        read(kind, path)
    except DataError as exc:
        message = str(exc)
        assert "\n" not in message
        return message
    return None


def arrays(**changed: Any) -> dict[str, Any]:
    """Twelve training and four test examples with two classes and three features; None leaves an array out."""
    x = np.arange(36, dtype=np.float32).reshape(12, 3)
    whole = {"x_train": x, "y_train": np.arange(12) % 2, "x_test": x[:4], "y_test": np.arange(4) % 2} | changed
    return {name: array for name, array in whole.items() if array is not None}


def npz(folder: Path, **changed: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays(**changed))
    return path


def clients(folder: Path, **changed: Any) -> Path:
    """Clients `a` (4 examples) and `b` (6) and a test set (2), of two classes; `changed`: {stem: arrays or None}."""
    home = folder / "clients"
    home.mkdir()
    whole = {
        stem: {"x": np.full((n, 3), n, dtype=np.float32), "y": np.arange(n) % 2}
        for stem, n in {"a": 4, "b": 6, "test": 2}.items()
    }
    for stem, content in (whole | changed).items():
        if content is not None:
            np.savez(home / f"{stem}.npz", **content)
    return home


def picture(path: Path, value: int = 0, size: tuple[int, int] = (5, 4), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "1", "I;16") else (value,) * len(mode)).save(path)
    return path


def class_folders(folder: Path) -> Path:
    """Six images of 5×4 pixels for each of the classes `cat` and `dog`; image i has the grey level 10 · i."""
    for name in ("cat", "dog"):
        for i in range(6):
            picture(folder / "images" / name / f"{i}.png", 10 * i)
    return folder / "images"


def table(folder: Path, text: str = "a,b,label\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n") -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


# The kinds


def test_every_kind_of_the_settings_is_read() -> None:
    assert set(KINDS) == set(get_args(DataKind))


def test_digits_are_those_of_scikit_learn() -> None:
    examples = read("digits")
    assert examples.x.shape == (1797 - len(examples.test_y), 8, 8, 1)
    assert examples.classes == tuple("0123456789")
    assert examples.clients is None
    whole = load_digits()
    # Hold-out and training examples together are the data, in another order: both are compared as sorted rows.
    got = np.column_stack(
        [
            np.concatenate([examples.y, examples.test_y]),
            16 * np.concatenate([examples.x, examples.test_x]).reshape(1797, 64),
        ]
    )
    want = np.column_stack([whole.target, whole.data])
    np.testing.assert_array_equal(got[np.lexsort(got.T)], want[np.lexsort(want.T)])


def test_npz_keeps_its_own_test_set(tmp_path: Path) -> None:
    examples = read("npz", npz(tmp_path))
    np.testing.assert_array_equal(examples.x, arrays()["x_train"])
    np.testing.assert_array_equal(examples.test_x, arrays()["x_test"])
    np.testing.assert_array_equal(examples.test_y, [0, 1, 0, 1])
    assert (examples.x.dtype, examples.y.dtype, examples.classes) == (np.float32, np.int32, ("0", "1"))


def test_npz_without_a_test_set_is_split(tmp_path: Path) -> None:
    examples = read("npz", npz(tmp_path, x_test=None, y_test=None), test_fraction=0.5)
    # Six examples of each of two classes: half of each is held out.
    assert np.bincount(examples.y).tolist() == np.bincount(examples.test_y).tolist() == [3, 3]


def test_medmnist_naming_is_read_and_its_validation_set_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([[0], [1], [1], [0]], dtype=np.uint8)
    both = {
        f"{part}_{what}": a for part in ("train", "val", "test") for what, a in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "med.npz", **both)
    examples = read("npz", tmp_path / "med.npz")
    assert examples.x.shape == examples.test_x.shape == (4, 2, 3, 1)
    np.testing.assert_array_equal(examples.x[..., 0], images / np.float32(255))
    np.testing.assert_array_equal(examples.y, [0, 1, 1, 0])
    assert not caplog.records


def test_arrays_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read("npz", npz(tmp_path, x_val=np.zeros(3)))
    assert "x_val" in caplog.text


def test_path_is_relative_to_the_workspace(tmp_path: Path) -> None:
    npz(tmp_path)
    assert len(load_raw(DataSettings(kind="npz", path="data.npz"), 0, tmp_path).y) == 12


@IN_TMP_PATH
@given(
    x=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float16, np.float32, np.float64]),
        st.sampled_from([(6, 3), (6, 2, 3), (6, 2, 3, 1), (6, 2, 2, 3)]),
        elements=st.integers(0, 127),
    ),
    y=st.permutations([0, 0, 1, 1, 2, 2]),
    integral=st.sampled_from([np.uint8, np.int64, np.float64]),
)
def test_what_goes_into_an_npz_comes_out(tmp_path: Path, x: Any, y: list[int], integral: Any) -> None:
    labels = np.array(y, dtype=integral).reshape(-1, 1)
    examples = read("npz", npz(tmp_path, x_train=np.asfortranarray(x), y_train=labels, x_test=x[:2], y_test=labels[:2]))
    scale = np.float32(255 if x.ndim > 2 and x.dtype == np.uint8 else 1)
    channels = (1,) if x.ndim == 3 else ()
    np.testing.assert_array_equal(examples.x, (x.astype(np.float32) / scale).reshape(x.shape + channels))
    np.testing.assert_array_equal(examples.y, y)
    assert examples.x.flags.c_contiguous
    assert examples.x.dtype == examples.test_x.dtype == np.float32
    assert examples.y.dtype == examples.test_y.dtype == np.int32


def test_clients_keep_their_examples(tmp_path: Path) -> None:
    home = clients(tmp_path)
    (home / ".hidden").write_text("not data")
    (home / "README.md").write_text("about the data")
    examples = read("clients", home)
    assert examples.clients is not None
    assert examples.clients.tolist() == ["a"] * 4 + ["b"] * 6
    # Client a's features are all 4, client b's all 6, the test set's all 2.
    np.testing.assert_array_equal(examples.x[:, 0], [4] * 4 + [6] * 6)
    np.testing.assert_array_equal(examples.test_x, np.full((2, 3), 2))


def test_clients_without_a_test_file_are_split_over_all_clients(tmp_path: Path) -> None:
    examples = read("clients", clients(tmp_path, test=None), test_fraction=0.4)
    # Two of the five examples of each class are held out. The other six keep their client.
    assert np.bincount(examples.test_y).tolist() == [2, 2]
    assert examples.clients is not None
    np.testing.assert_array_equal(examples.x[:, 0], np.where(examples.clients == "a", 4, 6))


def test_a_class_may_be_missing_at_a_client(tmp_path: Path) -> None:
    content = {"x": np.zeros((2, 3), dtype=np.float32), "y": np.array([2, 2])}
    assert read("clients", clients(tmp_path, c=content)).classes == ("0", "1", "2")


def test_clients_that_lose_every_example_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Each client has one example of each class, and one of the two is held out. Some seed holds out both of one client.
    single = {stem: {"x": np.zeros((2, 3)), "y": np.array([0, 1])} for stem in ("a", "b")}
    home = clients(tmp_path, test=None, **single)
    with caplog.at_level(logging.WARNING):
        kept = [read("clients", home, seed=seed).clients for seed in range(10)]
    lost = [set("ab") - set(owners.tolist()) for owners in kept if owners is not None]
    named = [record.getMessage()[-1] for record in caplog.records]
    assert named == [client for gone in lost for client in gone]
    assert named


def test_images_of_class_folders(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / ".DS_Store").write_bytes(b"x")
    (home / "cat" / "Thumbs.db").write_bytes(b"x")
    examples = read("images", home, test_fraction=0.5)
    assert examples.classes == ("cat", "dog")
    assert examples.x.shape == (6, 4, 5, 1)
    levels = np.concatenate([examples.x, examples.test_x])[np.concatenate([examples.y, examples.test_y]) == 1, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(levels), np.arange(0, 60, 10, dtype=np.float32) / 255)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpe", "jfif", "bmp", "tif", "webp", "ppm", "pnm", "gif"])
def test_images_of_every_format_in_colour(tmp_path: Path, suffix: str) -> None:
    for i in range(4):
        picture(tmp_path / "images" / f"{i % 2}" / f"{i}.{suffix}", 200, mode="RGB")
    examples = read("images", tmp_path / "images")
    assert examples.x.shape == (2, 4, 5, 1 if suffix == "gif" else 3)  # the palette of this GIF is grey
    # One colour; JPEG and WebP can round it by one or two steps of 1/255.
    np.testing.assert_allclose(examples.x, 200 / 255, atol=3 / 255)


@pytest.mark.parametrize("whole_folder", [True, False])
def test_images_of_a_csv_with_clients(tmp_path: Path, whole_folder: bool, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["path,client,label"]
    for i in range(8):
        picture(tmp_path / "scans" / f"{i}.png", i)
        rows.append(f"scans/{i}.png,site-{i % 4}, {10 - i % 2 * 8}")
    (tmp_path / "labels.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    examples = read("images", tmp_path if whole_folder else tmp_path / "labels.csv", test_fraction=0.25)
    assert examples.classes == ("2", "10")
    assert ("call it labels.csv and set data.path to its folder" in caplog.text) != whole_folder
    assert examples.clients is not None
    # Image i has the grey level i, the client i mod 4, and the class 10 if i is even.
    number = np.rint(255 * examples.x[:, 0, 0, 0]).astype(int)
    assert examples.clients.tolist() == [f"site-{i % 4}" for i in number]
    np.testing.assert_array_equal(examples.y, 1 - number % 2)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_columns_become_features_in_order(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(
        {"b": [1, 2, 3, 4], "grade": [10, 9, 10, 9], "site": ["01", "02", "02", "01"], "a": [0.5, 1.5, 2.5, 3.5]}
    )
    frame["wet"] = [True, False, False, True]
    path = tmp_path / f"table{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    examples = read("table", path, label_column="grade", client_column="site", test_fraction=0.5)
    # Numbers sort as numbers: 9 before 10.
    assert examples.classes == ("9", "10")
    together = np.concatenate([examples.x, examples.test_x])
    want = np.array([[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 0], [4, 3.5, 1]], dtype=np.float32)
    np.testing.assert_array_equal(together[np.argsort(together[:, 0])], want)
    assert examples.clients is not None
    row = examples.x[:, 0].astype(int) - 1
    assert examples.clients.tolist() == frame["site"].iloc[row].tolist()
    np.testing.assert_array_equal(examples.y, frame["grade"].iloc[row] == 10)


def test_table_of_floats_without_a_fraction_as_labels(tmp_path: Path) -> None:
    assert read("table", table(tmp_path, "a,label\n1,2.0\n2,1.0\n3,2.0\n4,1.0\n")).classes == ("1", "2")


def test_synthetic_follows_its_seed_and_not_the_number_of_clients() -> None:
    few, many = read("synthetic", num_clients=3), read("synthetic", num_clients=4)
    assert few.clients is not None
    assert many.clients is not None
    assert sorted(set(many.clients.tolist())) == ["00", "01", "02", "03"]

    def rows(examples: RawExamples) -> set[bytes]:
        return {row.tobytes() for row in np.concatenate([examples.x, examples.test_x])}

    # With four clients, the first three have the same examples. Only the choice of hold-out data differs.
    assert rows(few) < rows(many)
    assert not rows(few) & rows(read("synthetic", num_clients=3, seed=1))


def test_synthetic_alpha_changes_no_example() -> None:
    # u_k adds the same number to all logits of an example, so the largest one is the same.
    (x, y), (other_x, other_y) = (client_examples(alpha, 1.0, np.random.default_rng(3)) for alpha in (0.0, 5.0))
    np.testing.assert_array_equal(x, other_x)
    np.testing.assert_array_equal(y, other_y)


def test_synthetic_labels_are_the_most_likely_class_of_the_clients_model() -> None:
    x, y = client_examples(1.0, 1.0, np.random.default_rng(5))
    # The same draws in the order of the paper's definitions, then the softmax of each example.
    rng = np.random.default_rng(5)
    u, B = rng.normal(0, 1.0), rng.normal(0, 1.0)
    rng.normal(B, 1, 60)
    W, b = rng.normal(u, 1, (60, 10)), rng.normal(u, 1, 10)
    for features, label in zip(x, y, strict=True):
        logits = W.T @ features + b
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert label == np.argmax(probabilities)


def test_synthetic_ids_are_padded_to_one_width() -> None:
    owners = read("synthetic", num_clients=101).clients
    assert owners is not None
    assert {len(owner) for owner in owners.tolist()} == {3}


def test_synthetic_sizes_and_features_follow_the_paper() -> None:
    drawn = [client_examples(0.0, 0.0, np.random.default_rng([7, k])) for k in range(400)]
    sizes = np.array([len(y) for _, y in drawn])
    assert sizes.min() >= 50
    # The median of LogNormal(4, 2) is e^4 = 54.6, and of its floor + 50 about 104. The log median of 400 draws has the
    # standard error 2 · sqrt(pi / 2) / sqrt(400) = 0.125. The bound is four standard errors.
    assert abs(np.log(np.median(sizes) - 50 + 0.5) - 4) < 4 * 0.125
    # The quantile at 0.841 (one sd) is e^6. Standard error of its log: 2 · sqrt(0.841 · 0.159 / 400) / 0.242 = 0.151.
    assert abs(np.log(np.quantile(sizes, 0.8413) - 50) - 6) < 4 * 0.151
    # Var(x_j) = j^-1.2 around the client's own mean. Pooled over 400 clients of at least 50 examples, the variance has
    # a relative standard error of at most sqrt(2 / 20000) = 0.01.
    spread = sum(((x - x.mean(axis=0)) ** 2).sum(axis=0) for x, _ in drawn) / (sizes - 1).sum()
    np.testing.assert_allclose(spread, np.arange(1, 61) ** -1.2, rtol=0.05)
    # With beta 0, v_k ~ N(0, 1). In each feature, the mean of 400 clients has the standard error 1 / sqrt(400).
    means = np.array([x.mean(axis=0) for x, _ in drawn])
    assert abs(means.mean()) < 4 / np.sqrt(400 * 60)
    assert abs(means[:, -1].std() - 1) < 4 / np.sqrt(2 * 400)


def test_synthetic_beta_moves_clients_as_a_standard_deviation() -> None:
    means = [client_examples(0.0, 3.0, np.random.default_rng([9, k]))[0].mean() for k in range(400)]
    # The mean of client k over 60 features is B_k + noise with a variance of little more than 1/60, so its sd is
    # sqrt(9 + 1/60) = 3.0. The sd of 400 draws has the standard error 3 / sqrt(800) = 0.11. If beta were the variance,
    # the sd would be 1.73.
    assert abs(np.std(means) - 3) < 4 * 0.11


# The hold-out


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
def test_hold_out_takes_each_class_its_share_within_one_example(counts: list[int], fraction: float, seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    held = stratified(y, fraction, np.random.default_rng(seed))
    for label, n in enumerate(counts):
        taken = int(held[y == label].sum())
        if n == 1:
            assert taken == 0
        else:
            assert abs(taken - fraction * n) <= 1
            assert 1 <= taken <= n - 1


def test_hold_out_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    path = npz(tmp_path, x_test=None, y_test=None)
    first, again, other = (read("npz", path, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.test_x, again.test_x)
    np.testing.assert_array_equal(first.x, again.x)
    assert (first.test_x != other.test_x).any()


def test_hold_out_keeps_the_order_of_what_stays(tmp_path: Path) -> None:
    examples = read("npz", npz(tmp_path, x_test=None, y_test=None))
    assert (np.diff(examples.x[:, 0]) > 0).all()
    together = np.concatenate([examples.x, examples.test_x])
    np.testing.assert_array_equal(together[np.argsort(together[:, 0])], arrays()["x_train"])


def test_classes_of_one_example_leave_nothing_to_hold_out(tmp_path: Path) -> None:
    path = npz(tmp_path, x_train=np.ones((3, 2)), y_train=np.arange(3), x_test=None, y_test=None)
    assert "3 examples of 3 classes" in refusal("npz", path)


@given(st.lists(st.integers(-50, 50), min_size=1))
def test_classes_of_integers_sort_as_numbers(numbers: list[int]) -> None:
    y, classes = named_classes(str(number) for number in numbers)
    assert [int(name) for name in classes] == sorted(set(numbers))
    assert [int(classes[label]) for label in y] == numbers


def test_classes_of_text_sort_as_text() -> None:
    assert named_classes(["b", "10", "9", "b"])[1] == ("10", "9", "b")


# Wrong input: arrays

WRONG_X = {
    "objects": (np.array([[None] * 3] * 12, dtype=object), "x_train", "pickled"),
    "text": (np.full((12, 3), "1"), "x_train", "text"),
    "complex": (np.ones((12, 3), dtype=complex), "x_train", "complex128"),
    "dates": (np.zeros((12, 3), dtype="datetime64[s]"), "x_train", "datetime64[s]"),
    "records": (np.zeros((12, 3), dtype=[("a", "f4")]), "x_train", "'a'"),
    "not a number": (np.where(np.arange(36).reshape(12, 3) == 7, np.nan, 1), "x_train", "nan in example 2"),
    "infinite": (np.where(np.arange(36).reshape(12, 3) == 7, -np.inf, 1), "x_train", "-inf in example 2"),
    "infinite as float32": (np.full((12, 3), 1e39), "x_train", "1e+39 in example 0"),
    "rank 1": (np.ones(12), "x_train", "(12,)"),
    "rank 5": (np.ones((12, 1, 1, 1, 1)), "x_train", "(12, 1, 1, 1, 1)"),
    "no feature": (np.ones((12, 0)), "x_train", "(12, 0)"),
    "empty": (np.ones((0, 3)), "x_train", "(0, 3)"),
    "longer": (np.ones((13, 3)), "x_train", "13 examples and 12 labels"),
    "other features": (np.ones((12, 4)), "x_test", "(4,)"),
}


@pytest.mark.parametrize("case", WRONG_X)
def test_wrong_features_are_refused_by_name(tmp_path: Path, case: str) -> None:
    x, name, got = WRONG_X[case]
    message = refusal("npz", npz(tmp_path, x_train=x))
    assert f"data.npz: {name}" in message
    assert got in message


WRONG_Y = {
    "text beside integers": (np.array(["a", "b"] * 6), "y_test must hold text as"),
    "truth values beside integers": (np.array([True, False] * 6), "y_test must hold truth values as"),
    "text without a label": (np.array(["a", " "] * 6), "'' in example 1"),
    "text of a missing value": (np.array(["a", np.nan] * 6), "'nan' in example 1"),
    "bytes that are not UTF-8": (np.array([b"a", b"\xff"] * 6), "text in UTF-8"),
    "dates": (np.zeros(12, dtype="datetime64[s]"), "datetime64[s]"),
    "complex": (np.ones(12, dtype=complex), "complex128"),
    "objects": (np.array(["a", "b"] * 6, dtype=object), "pickled"),
    "fractions": (np.where(np.arange(12) == 5, 0.5, 1), "0.5 in example 5"),
    "not a number": (np.where(np.arange(12) == 5, np.nan, 1), "nan in example 5"),
    "infinite": (np.where(np.arange(12) == 5, np.inf, 1), "inf in example 5"),
    "a whole float that stands for two integers": (np.where(np.arange(12) == 5, 2.0**60, 1), "in example 5"),
    "-1 for none": (np.where(np.arange(12) == 5, -1, np.arange(12) % 2), "0 to 1, got -1 in example 5"),
    "out of range": (np.where(np.arange(12) == 5, 255, np.arange(12) % 2), "0 to 1, got 255 in example 5"),
    "one-hot beside integers": (np.eye(2)[np.arange(12) % 2], "y_test must hold one-hot rows of 2 as"),
    "soft labels": (np.full((12, 2), 0.5), "[0.5, 0.5] in example 0: soft labels"),
    "several labels": (np.ones((12, 14)), "one-hot"),
    "rows of text": (np.full((12, 2), "a"), "(12, 2)"),
    "rows of nothing": (np.ones((12, 0)), "(12, 0)"),
    "rank 3": (np.ones((12, 1, 1)), "(12, 1, 1)"),
    "empty": (np.ones((0,), dtype=int), "12 examples and 0 labels"),
    "shorter": (np.arange(11) % 2, "12 examples and 11 labels"),
    "scalar": (np.array(1), "()"),
}


@pytest.mark.parametrize("case", WRONG_Y)
def test_wrong_labels_are_refused_by_name(tmp_path: Path, case: str) -> None:
    y, got = WRONG_Y[case]
    message = refusal("npz", npz(tmp_path, y_train=y))
    assert "data.npz: y_train" in message or "y_train must" in message
    assert got in message


def test_test_label_that_no_training_example_has_is_refused(tmp_path: Path) -> None:
    message = refusal("npz", npz(tmp_path, y_test=np.array([0, 1, 2, 0])))
    assert "y_test" in message
    assert "0 to 1, got 2 in example 2" in message


def test_test_images_of_another_scale_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, x_train=np.ones((12, 2, 2), dtype=np.uint8), x_test=np.ones((4, 2, 2), dtype=np.float32))
    assert "uint8 images as x_train does, got float32" in refusal("npz", path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    assert "two classes, got only '0'" in refusal(
        "npz", npz(tmp_path, y_train=np.zeros(12, dtype=int), y_test=np.zeros(4, dtype=int))
    )


@pytest.mark.parametrize("missing", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_array_is_named(tmp_path: Path, missing: str) -> None:
    assert f"must hold {missing}, got" in refusal("npz", npz(tmp_path, **{missing: None}))


def test_npz_of_no_known_naming_or_of_two_is_refused(tmp_path: Path) -> None:
    nothing = dict.fromkeys(arrays())
    assert "x_train, y_train, x_test, y_test or train_images" in refusal(
        "npz", npz(tmp_path, **nothing, images=np.ones(3))
    )
    assert "got train_images, x_test, x_train" in refusal("npz", npz(tmp_path, train_images=np.ones((12, 3))))


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Bomb()))
    inside = npz(tmp_path, x_train=np.array([Bomb()] * 12, dtype=object))
    for path in (plain, inside):
        refusal("npz", path)
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("x_train")
    np.save(tmp_path / "single.npy", np.ones(3))
    with zipfile.ZipFile(tmp_path / "raw", "w") as opened:
        opened.writestr("x_train", b"bytes")
        opened.writestr("y_train", b"bytes")
    for name in ("empty", "text", "single.npy", "missing", ".", "raw"):
        assert str(tmp_path / name) in refusal("npz", tmp_path / name)


def _archive() -> bytes:
    opened = io.BytesIO()
    np.savez_compressed(opened, **arrays())
    return opened.getvalue()


@IN_TMP_PATH
@given(length=st.integers(0, len(_archive()) - 1))
def test_cut_npz_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.npz").write_bytes(_archive()[:length])
    assert "cut.npz" in refusal("npz", tmp_path / "cut.npz")


@settings(parent=IN_TMP_PATH, max_examples=200)
@given(position=st.integers(0, len(_archive()) - 1), value=st.integers(0, 255))
def test_damaged_npz_is_read_or_refused(tmp_path: Path, position: int, value: int) -> None:
    damaged = bytearray(_archive())
    damaged[position] = value
    (tmp_path / "damaged.npz").write_bytes(damaged)
    try:
        examples = read("npz", tmp_path / "damaged.npz")
    except DataError:
        return
    assert np.isfinite(examples.x).all()
    assert examples.y.max() < len(examples.classes)


@given(hnp.arrays(hnp.scalar_dtypes() | hnp.byte_string_dtypes(), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0)))
def test_any_array_is_checked_or_refused(raw: Any) -> None:
    try:
        check_features(raw, "x")
        checked = np.concatenate(list(features_of([raw[:1], raw[1:]] if len(raw) > 1 else [raw], "x")))
    except DataError:
        return
    assert np.isfinite(checked).all()
    assert checked.size == raw.size


def lying(path: Path, shape: str, size: int | None = None) -> Path:
    """An .npz whose header of x_train has the wrong `shape`; `size`: a wrong unpacked size in the archive, in bytes."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12 * 3 * 4)
    npz(path.parent, x_train=None).rename(path)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("x_train.npy", array)
    if size is not None:
        content, entry = bytearray(path.read_bytes()), b"PK\x01\x02"
        at = content.rindex(entry) + 24
        content[at : at + 4] = size.to_bytes(4, "little")
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("(12, 3, 10000000000)", "144 bytes of data where the header promises 1440000000000"),
        ("(12, 2)", "144 bytes of data where the header promises 96"),
        (f"({2**62}, 4)", "144 bytes of data where the header promises"),
        ("(-1, 3)", "144 bytes of data where"),
        (f"({'9' * 5000},)", "x_train must be a whole array"),
    ],
)
def test_a_header_that_lies_about_its_shape_is_refused_before_memory_is_asked_for(
    shape: str, says: str, tmp_path: Path
) -> None:
    assert says in refusal("npz", lying(tmp_path / "lie.npz", shape))


def test_an_archive_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    assert "x_train must be a whole array" in refusal("npz", lying(tmp_path / "a.npz", f"({2**27 - 5}, 4)", 2**31 - 4))


def test_what_does_not_fit_into_memory_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(DataError, match=r"x must fit into memory \([0-9]+ GB\), got 1,024 GB"):
        check_memory(2**40, "x")


def test_an_array_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    with zipfile.ZipFile(path, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("y_train.npy", b"")
    assert "must hold each array once, got x_train, y_train, x_test, y_test, y_train" in refusal("npz", path)


# Wrong input: every kind


@pytest.mark.parametrize("kind", ["npz", "clients", "images", "table"])
def test_every_error_names_the_setting_to_change(kind: DataKind, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file.csv").write_bytes(b"\0")
    below = "file.csv/x"
    for path in ("empty", "circle", "file.csv", "nowhere", "x" * 300, "y/" * 3000, "a\0b", below):
        message = refusal(kind, tmp_path / path)
        assert "data.path" in message or "data.label_column" in message
        assert len(message) <= 600
        assert message.isprintable()


def test_the_default_path_of_another_kind_is_said() -> None:
    message = refusal("npz", Path(__file__).parents[1] / "tasks/datasets")
    assert "tasks/datasets must be an .npz file, got a folder (data.kind npz, data.path '/" in message


def test_synthetic_features_beyond_float32_are_refused() -> None:
    with pytest.raises(DataError, match=r"^data.beta is too large for float32 features, got 1e\+300$"):
        read("synthetic", beta=1e300, num_clients=2)


# Wrong input: clients


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({"x": np.ones((2, 3))}, "must hold y"),
        ({"x": np.ones((2, 4)), "y": [0, 1]}, "(4,)"),
        ({"x": np.ones((2, 3)), "y": [0, -1]}, "0 to 1, got -1 in example 1"),
        ({"x": np.ones((0, 3)), "y": np.ones(0, dtype=int)}, "(0, 3)"),
        ({"x": np.full((2, 3), np.nan), "y": [0, 1]}, "nan in example 0"),
        ({"x": np.ones((2, 3)), "y": [0, 1, 1]}, "2 examples and 3 labels"),
        ({"x": np.ones((2, 3)), "y": np.array([0, 1], dtype=object)}, "pickled"),
    ],
)
def test_broken_client_is_named(tmp_path: Path, content: dict[str, Any], got: str) -> None:
    message = refusal("clients", clients(tmp_path, b=content))
    assert message.startswith("client b ")
    assert got in message


def test_cut_client_file_is_named(tmp_path: Path) -> None:
    home = clients(tmp_path)
    (home / "b.npz").write_bytes((home / "b.npz").read_bytes()[:100])
    assert refusal("clients", home).startswith("client b ")


def test_client_images_of_another_scale_are_refused(tmp_path: Path) -> None:
    images = {
        stem: {"x": np.ones((2, 4, 4), dtype=dtype), "y": [0, 1]} for stem, dtype in (("a", np.uint8), ("b", float))
    }
    message = refusal("clients", clients(tmp_path, test=None, **images))
    assert message.startswith("client b ")
    assert "uint8 images as client a does, got float64" in message


def test_label_behind_a_gap_and_unknown_test_label_are_refused(tmp_path: Path) -> None:
    gap = {"x": np.ones((2, 3)), "y": [3, 3]}
    message = refusal("clients", clients(tmp_path, c=gap))
    assert message.startswith("client c ")
    assert "0 to 1, got 3 in example 0 and 1 more (no other client and no test" in message
    (tmp_path / "clients").rename(tmp_path / "first")
    message = refusal("clients", clients(tmp_path, test=gap))
    assert "test.npz: y" in message
    assert "got 3" in message


def test_client_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    home = clients(tmp_path)
    np.savez(home / "no good.npz", x=np.ones((2, 3)), y=[0, 1])
    assert "'no good'" in refusal("clients", home)
    (home / "no good.npz").rename(home / "c.npy")
    assert "c.npy must be an .npz" in refusal("clients", home)
    (tmp_path / "empty").mkdir()
    assert "got none" in refusal("clients", tmp_path / "empty")
    assert "nothing there" in refusal("clients", tmp_path / "missing")
    assert "a file" in refusal("clients", home / "a.npz")


@pytest.mark.parametrize("name", [".git.npz", ".a.npz", "__pycache__.npz", "a.pyc.npz", "Test.npz", "nul.npz"])
def test_client_files_whose_folder_would_be_lost_are_refused_not_skipped(tmp_path: Path, name: str) -> None:
    home = clients(tmp_path)
    np.savez(home / name, x=np.ones((2, 3)), y=[0, 1])
    message = refusal("clients", home)
    assert message.startswith(f"{home / name}: a client id must ")


def test_clients_that_differ_in_capitals_only_are_refused(tmp_path: Path) -> None:
    home = clients(tmp_path, A={"x": np.ones((2, 3)), "y": [0, 1]})
    assert "client ids must differ in more than capitals, got 'A' and 'a'" in refusal("clients", home)


def test_a_client_may_be_called_license(tmp_path: Path) -> None:
    home = clients(tmp_path, license={"x": np.ones((2, 3)), "y": [0, 1]})
    (home / "LICENSE").write_text("of the data")
    (home / "._a.npz").write_bytes(b"left by macOS")
    owners = read("clients", home).clients
    assert owners is not None
    assert set(owners.tolist()) == {"a", "b", "license"}


def test_a_class_may_be_called_readme(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / "cat").rename(home / "readme")
    (home / "readme.md").write_text("about the data")
    assert read("images", home).classes == ("dog", "readme")


# Wrong input: images


def test_a_class_folder_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    os.rename(home / "cat", os.fsencode(home) + b"/c\xe4t")
    assert r"every name must be in UTF-8, got b'c\xe4t'" in refusal("images", home)


def test_an_image_s_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    os.rename(home / "cat" / "0.png", os.fsencode(home) + b"/cat/\xff.png")
    assert r"every name must be in UTF-8, got b'\xff.png'" in refusal("images", home)


def test_a_client_file_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    home = clients(tmp_path)
    os.rename(home / "a.npz", os.fsencode(home) + b"/\xff.npz")
    assert "every name must be in UTF-8" in refusal("clients", home)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 279])  # width, height, bits, … in a baseline TIFF
def test_a_tiff_without_dimensions_or_another_tag_is_read_or_refused(tag: int, tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / "cat" / "0.png").unlink()
    path = picture(home / "cat" / "0.tif")
    content = bytearray(path.read_bytes())
    order = "little" if content[:2] == b"II" else "big"
    place = content.index(tag.to_bytes(2, order), 8)
    content[place : place + 2] = (60000).to_bytes(2, order)
    path.write_bytes(content)
    assert str(path) in (refusal("images", home) if tag in (256, 257) else outcome("images", home) or str(path))


def test_an_image_of_more_pixels_than_memory_is_refused(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    path = home / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (2**31 - 1).to_bytes(4, "big") * 2  # width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert refusal("images", home).startswith(f"{path} must be a whole image")


def test_image_without_a_label_is_refused(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    stray = picture(home / "stray.png")
    assert f"{stray} has no label" in refusal("images", home)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / "cow").mkdir()
    assert "class 'cow', got none" in refusal("images", home)
    (home / "cow" / "deeper").mkdir()
    assert "got a folder" in refusal("images", home)
    (home / "cow" / "deeper").rename(home / "cow" / ".hidden")
    (home / "cow" / "0.txt").write_text("moo")
    assert "got .txt" in refusal("images", home)
    (tmp_path / "empty").mkdir()
    assert "got none" in refusal("images", tmp_path / "empty")
    assert "nothing there" in refusal("images", tmp_path / "missing")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_cut_image_is_named(tmp_path: Path, suffix: str) -> None:
    home = class_folders(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (4, 5), dtype=np.uint8)
    cut = home / "cat" / f"0.{suffix}"
    Image.fromarray(noise).save(cut)
    whole = cut.read_bytes()
    for length in range(0, len(whole) * 3 // 4, 7):
        cut.write_bytes(whole[:length])
        assert refusal("images", home).startswith(str(cut))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path;label\na/0.png;x\na/1.png;x\nb/0.png;y\nb/1.png;y\n;\n", "utf-8-sig"),
        ("path\tlabel\r\na/0.png\tx\r\na/1.png\tx\r\nb/0.png\ty\r\nb/1.png\ty\r\n", "utf-16"),
        ("path, label\na\\0.png, x\na\\1.png, x\nb\\0.png, y\n.\\b\\1.png, y\n", "utf-8"),
    ],
)
def test_a_list_of_images_is_read_as_spreadsheets_and_windows_write_it(
    tmp_path: Path, text: str, encoding: str
) -> None:
    for folder, value in (("a", 10), ("b", 200)):
        (tmp_path / folder).mkdir()
        for name in "01":
            Image.new("L", (2, 2), value).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    data = read("images", tmp_path)
    assert data.classes == ("x", "y")
    np.testing.assert_allclose(data.x[:, 0, 0, 0], np.array([10, 200])[data.y] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "columns path, label"),
        ("path,label\n", "no row"),
        ("path,class\n0.png,a\n", "['path', 'class']"),
        ("path,label,label\n0.png,a,b\n", "each once"),
        ("path,label\n0.png,\n", "row 1 has no label"),
        ("path,label\n,a\n", "row 1 has no path"),
        ("path,label\n0.png\n", "row 1 must have as many cells"),
        ("path,label\n0.png,a,b\n", "row 1 must have as many cells"),
        ("path,label,client\n0.png,a,\n", "row 1 has no client"),
        ("path,label,client\n0.png,a,../up\n", "row 1: a client id"),
        ("path,label\n0.png,a\n0.png,b\n", "row 2: '0.png' must occur once, got it in row 1"),
        ("path,label\n/0.png,a\n", "row 1: path must be relative"),
        ("path,label\nC:\\0.png,a\n", "row 1: path must be relative"),
        ("path,label\n..\\0.png,a\n", "row 1: path must stay in the folder of the CSV"),
        ("path,label\n../0.png,a\n", "row 1: path must stay in the folder of the CSV, got '../0.png'"),
        ("path,label\na/../../0.png,a\n", "row 1: path must stay in the folder of the CSV"),
        ("path,label\n0.png,a\n1.png,a\n", "1.png must be an image, got nothing there"),
        ("path,label\n0.png,a\n1.png,a\n", "list.csv row 2: '1.png'"),
        ('path,label\n"0.png,a\n', "must be a CSV"),
    ],
)
def test_wrong_csv_of_images_is_refused_by_row(tmp_path: Path, text: str, got: str) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "list.csv").write_text(text)
    assert got in refusal("images", tmp_path / "list.csv")


@pytest.mark.parametrize(
    "twin", ["a/0.png", "./a//0.png", "a/../a/0.png", "link/0.png", "link/../a/0.png", "a/up/a/0.png"]
)
def test_one_image_cannot_stand_there_twice_under_two_names(twin: str, tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "list.csv").write_text(f"path,label\na/0.png,x\n{twin},y\n")
    message = refusal("images", tmp_path / "list.csv")
    assert f"list.csv row 2: '{twin}' must occur once, got it in row 1 (data." in message


def test_equal_images_are_two_where_dvc_links_both_to_its_cache(tmp_path: Path) -> None:
    cached = picture(tmp_path / "cache" / "0.png")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.png").symlink_to(cached)
    (tmp_path / "raw" / "1.png").symlink_to(cached)
    os.link(cached, tmp_path / "raw" / "2.png")
    os.link(cached, tmp_path / "raw" / "3.png")
    rows = "".join(f"raw/{n}.png,{'xy'[n % 2]}\n" for n in range(4))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    assert len(read("images", tmp_path / "list.csv").y) == 2


def test_one_image_cannot_be_in_two_class_folders(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / "cow").symlink_to("cat")
    message = refusal("images", home)
    assert message.startswith(f"{home / 'cow' / '0.png'} must occur once, got it as {home / 'cat' / '0.png'}")


def test_csv_of_images_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\n0.png,é\n".encode("latin-1"))
    assert "UTF-8" in refusal("images", tmp_path / "list.csv")


# Wrong input: tables


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "must have a header"),
        ("a,label\n", "at least one row"),
        ("a,b\n1,2\n", "data.label_column 'label', got 'a', 'b'"),
        ("label\nx\ny\n", "must have a feature column"),
        ("a,label\n1,x\ntwo,y\n", "column 'a' must hold numbers, got 'two' in row 2"),
        ("a,label\n1,x\n,y\n", "no value may be missing, got 1 missing in 1 of 1 columns (a 1; first in row 2)"),
        ("a,label\n1,x\ninf,y\n", "got inf in row 2"),
        ("a,label\n1,x\n1e39,y\n", "got 1e+39 in row 2"),
        ("a,label\n1,x\n2,\n", "column 'label' has no label in row 2"),
        ("a,label\n1,x\n2,NA\n", "column 'label' has no label in row 2"),
        ("a,label\n1,1\n2,0.5\n", "text or integers as labels, got 0.5 in row 2"),
        ("a,label\n1,x\n2,x\n", "two classes, got only 'x'"),
        (",a,label\n0,1,x\n1,2,y\n", "got none for column 1"),
        ("a,label,label\n1,x,y\n", "'label' more than once"),
        ("a,label\n1,x,9\n2,y,9\n", "whole CSV"),
        ("a,label\n1,x\n2,y,9\n", "whole CSV"),
        ("a:label\n1:x\n2:y\n", "got 'a:label'"),
    ],
)
def test_wrong_table_is_refused_by_column_and_row(tmp_path: Path, text: str, got: str) -> None:
    message = refusal("table", table(tmp_path, text))
    assert got in message
    assert "table.csv" in message or "data.kind table" in message


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("a,label,site\n1,x,s\n2,y,\n", "column 'site' has no client in row 2"),
        ("a,label,site\n1,x,s\n2,y,a/b\n", "row 2: a client id"),
        ("a,label,site\n1,x,s\n2,y,test\n", "row 2: a client id"),
        ("a,label\n1,x\n2,y\n", "data.client_column 'site'"),
    ],
)
def test_wrong_clients_of_a_table_are_refused(tmp_path: Path, text: str, got: str) -> None:
    assert got in refusal("table", table(tmp_path, text), client_column="site")


@pytest.mark.parametrize("digits", [201, 5000])
def test_a_label_of_many_digits_is_refused(digits: int, tmp_path: Path) -> None:
    for label in ("9" * digits, f"{'9' * digits}.0", f"1e{digits}", "x" * digits):
        message = refusal("table", table(tmp_path, f"a,label\n1,1.0\n2,{label}\n"))
        assert "data.label_column 'label'" in message
        assert len(message) < 500


def test_labels_beyond_2_to_53_stay_apart(tmp_path: Path) -> None:
    # As float64, both labels are 9007199254740992.
    text = "a,label\n" + "".join(f"{n},{label}\n" for label in ("9007199254740992", "9007199254740993.0") for n in "12")
    assert read("table", table(tmp_path, text)).classes == ("9007199254740992", "9007199254740993")


@pytest.mark.parametrize("cell", ["9" * 5000, "9" * 300, "1e400", "-" + "9" * 5000])
def test_a_number_of_many_digits_is_refused(cell: str, tmp_path: Path) -> None:
    message = refusal("table", table(tmp_path, f"a,label\n1,x\n{cell},y\n"))
    assert "column 'a' must hold" in message


def test_a_long_cell_that_is_no_number_takes_no_minute(tmp_path: Path) -> None:
    begun = time.monotonic()
    for cell in ("1" * 100_000 + "x", "1" * 100_000 + ".1x"):
        refusal("table", table(tmp_path, f"a,label\n1,x\n{cell},y\n"))
        refusal("table", table(tmp_path, f"a,label\n1,1.5\n2,{cell}\n"))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("last", ["label,c0", "other"])
def test_a_header_of_100_000_columns_takes_no_minute(last: str, tmp_path: Path) -> None:
    header = ",".join([*(f"c{n}" for n in range(100_000)), last])
    begun = time.monotonic()
    message = refusal("table", table(tmp_path, f"{header}\n"))
    assert time.monotonic() - begun < 5
    assert "got 'c0'" in message
    assert len(message) <= 600


def test_one_column_cannot_be_label_and_client(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'label' for both"):
        read("table", table(tmp_path), client_column="label")


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    assert ".parquet file, got .xlsx: save it as CSV UTF-8" in refusal("table", tmp_path / "table.xlsx")
    assert "nothing there" in refusal("table", tmp_path / "missing.csv")
    (tmp_path / "bytes.csv").write_bytes(b"a,label\n1,\xff\n")
    assert "bytes.csv" in refusal("table", tmp_path / "bytes.csv")
    pd.DataFrame({"a": [1, 2], "label": ["x", "y"]}).to_parquet(tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    assert "cut.parquet" in refusal("table", tmp_path / "cut.parquet")


@pytest.mark.parametrize("metadata", [b"[]", b"{}", b"null", b"1", b"\xff", b"[" * 100_000, b'{"columns": 3}'])
def test_parquet_with_metadata_of_another_form_is_read_or_refused(metadata: bytes, tmp_path: Path) -> None:
    held = pa.table({"a": [1.0, 2.0, 3.0, 4.0], "label": ["x", "y", "x", "y"]})
    path = tmp_path / "table.parquet"
    parquet.write_table(held.replace_schema_metadata({b"pandas": metadata}), path)
    assert str(path) in (outcome("table", path) or str(path))


def test_parquet_columns_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"a": [[1], [2]], "label": ["x", "y"]}).to_parquet(path)
    assert "must hold numbers, truth values, dates or text, got array([1]) in row 1" in refusal("table", path)
    pd.DataFrame({"a": [1, 2], "label": pd.to_datetime(["2020-01-01", "2021-01-01"])}).to_parquet(path)
    assert "column 'label' must hold text or integers" in refusal("table", path)
