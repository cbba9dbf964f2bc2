import hashlib
import json

import numpy as np
import pytest

from tasks.clients import Form
from tasks.errors import DataError
from tasks.local.description import (
    Description,
    describe,
    describe_today,
    feature_variance,
    read_descriptions,
    write_descriptions,
)
from tests.shards import alone, stored, write_sites

FORM = Form((2,), 3)
X, Y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([2, 0, 2, 2], np.int32)
MD5 = hashlib.md5(X.tobytes() + Y.tobytes()).hexdigest()


def test_a_description_counts_each_class_and_has_the_md5_of_the_bytes():
    assert describe("a", (X, Y), FORM) == Description((1, 0, 3), MD5)
    assert describe("a", (X, Y), FORM).num_examples == 4


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X[:, :1], Y, r"client a: x must be \(N, 2\), N > 0, as preprocess.json says, got \(4, 1\)"),
        (X, Y + 1, "client a: labels must be 0 to 2, as preprocess.json says, got 3 others"),
        (np.full_like(X, np.nan), Y, "client a: x must be finite, got 8 values"),
        (X[:0], Y[:0], "client a: x must be"),
    ],
)
def test_examples_that_cannot_be_used_have_no_description(x, y, says):
    with pytest.raises(DataError, match=says):
        describe("a", (x, y), FORM)


def test_what_was_written_is_right_as_long_as_the_bytes_are_the_same(tmp_path):
    written = Description((4, 0, 0), MD5)  # wrong counts: they stay if nothing is counted again
    assert describe_today(alone(tmp_path, "a", X, Y), written) is written
    other = alone(tmp_path, "a", X + 1, Y)
    today = describe_today(other, written)
    assert (today.labels, today.digest != MD5) == ((1, 0, 3), True)
    assert describe_today(other, None) == today


def test_a_digest_says_nothing_of_the_shape_which_is_checked_in_any_case(tmp_path):
    write_sites(tmp_path, {"a": (X.reshape(4, 1, 2), Y)})
    for written in (None, Description((1, 0, 3), MD5)):
        with pytest.raises(DataError, match="client a: x must be"):
            describe_today(stored(tmp_path, "a", FORM, 4), written)


def test_a_description_of_other_classes_is_not_used(tmp_path):
    held = alone(tmp_path, "a", X, Y, num_classes=4)
    assert describe_today(held, Description((1, 0, 3), MD5)).labels == (1, 0, 3, 0)


def test_descriptions_read_back_as_they_were_written_and_have_stable_bytes(tmp_path):
    descriptions = {"b": Description((1, 0, 3), MD5), "a": Description((0, 5, 0), "00")}
    write_descriptions(tmp_path, descriptions)
    first = (tmp_path / "descriptions.json").read_bytes()
    write_descriptions(tmp_path, dict(reversed(descriptions.items())))
    assert (tmp_path / "descriptions.json").read_bytes() == first
    assert read_descriptions(tmp_path) == descriptions


def test_without_a_file_nothing_is_described(tmp_path):
    assert read_descriptions(tmp_path) == {}


@pytest.mark.parametrize(
    "of_client", [{}, 3, {"labels": [1]}, {"labels": [-1, 2], "digest": ""}, {"labels": [0], "digest": ""}]
)
def test_a_damaged_file_is_refused(of_client, tmp_path):
    (tmp_path / "descriptions.json").write_text(json.dumps({"a": of_client}))
    with pytest.raises(DataError, match="run the step preprocess again"):
        read_descriptions(tmp_path)


def test_variance_is_that_of_all_features_with_the_public_ones(tmp_path):
    held = alone(tmp_path, "a", X, Y)
    # 0 … 7 and four zeros: mean 7/3, mean of squares 140/12.
    public = np.zeros((2, 2), np.float32), np.zeros(2, np.int32)
    assert feature_variance(held, None) == pytest.approx(21 / 4)
    assert feature_variance(held, public) == pytest.approx(140 / 12 - (7 / 3) ** 2)


def test_variance_of_many_large_values_does_not_overflow_float32(tmp_path):
    # 10^6 entries of ±1e19, variance 1e38: the square of one fits into float32, the sum of the squares does not.
    x = np.tile(np.array([1e19, -1e19], np.float32), 500_000).reshape(-1, 10)
    held = alone(tmp_path, "a", x, np.zeros(len(x), np.int32))
    assert feature_variance(held, None) == pytest.approx(1e38, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_variance_of_equal_features_is_exactly_zero(value, tmp_path):
    held = alone(tmp_path, "a", np.full((7, 2), value), np.zeros(7))
    assert feature_variance(held, None) == 0
