"""Labels of arrays in every form, and values that are no labels."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.datasets import RawExamples, load_raw
from tasks.datasets.labels import read_labels
from tasks.datasets.unreadable import refuse
from tasks.errors import DataError
from tasks.settings import DataKind, DataSettings
from tests.raw_examples import as_numbers


def read(kind: DataKind, path: Path, **fields: Any) -> RawExamples:
    return as_numbers(load_raw(DataSettings(kind=kind, path=str(path), **fields), 0, Path("/nowhere")))


def npz(folder: Path, y: Any, y_test: Any = None) -> Path:
    """An .npz in which the feature of an example is its place; with or without a test set."""
    path = folder / "data.npz"
    arrays = {"x_train": np.arange(len(y), dtype=float)[:, None], "y_train": y}
    if y_test is not None:
        arrays |= {"x_test": np.zeros((len(y_test), 1)), "y_test": y_test}
    np.savez(path, **arrays)
    return path


def clients(folder: Path, **labels: Any) -> Path:
    home = folder / "clients"
    home.mkdir()
    for client, y in labels.items():
        np.savez(home / f"{client}.npz", x=np.ones((len(y), 2)), y=y)
    return home


# Eight labels of three classes in the order a, b, c, a, b, c, a, b -> the array, its classes, part of the log line.
ORDER = np.array([0, 1, 2, 0, 1, 2, 0, 1])
FORMS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "from 1": (ORDER + 1, ("1", "2", "3"), "(integers) become 3 classes: 1 is 0, 2 is 1, 3 is 2"),
    "unsigned": (ORDER.astype(np.uint8) + 1, ("1", "2", "3"), "1 is 0, 2 is 1, 3 is 2"),
    "gaps": (np.array([2, 10, 30])[ORDER], ("2", "10", "30"), "2 is 0, 10 is 1, 30 is 2"),
    "negative": (ORDER - 1, ("-1", "0", "1"), "-1 is 0, 0 is 1, 1 is 2"),
    "whole floats": (ORDER + 5.0, ("5", "6", "7"), "5 is 0, 6 is 1, 7 is 2"),
    "half floats": (ORDER.astype(np.float16) + 5, ("5", "6", "7"), "5 is 0, 6 is 1, 7 is 2"),
    "large": (ORDER + 2**62, tuple(str(2**62 + k) for k in range(3)), "4611686018427387904 is 0"),
    "larger": (ORDER.astype(np.uint64) + 2**63, tuple(str(2**63 + k) for k in range(3)), "9223372036854775808 is 0"),
    "text": (np.array(["ant", "bee", "cow"])[ORDER], ("ant", "bee", "cow"), "(text) become 3 classes: 'ant' is 0"),
    "text of numbers": (np.array(["9", "10", "11"])[ORDER], ("9", "10", "11"), "'9' is 0, '10' is 1, '11' is 2"),
    "bytes": (np.array([b"ant", b"bee", b"cow"])[ORDER], ("ant", "bee", "cow"), "'ant' is 0"),
    "padded": (np.array(["ant ", " bee", "cow"])[ORDER], ("ant", "bee", "cow"), "'ant' is 0"),
    "one-hot": (np.eye(3)[ORDER], ("0", "1", "2"), "(one-hot rows of 3) become 3 classes: 0 is 0"),
    "one-hot of bytes": (np.eye(3, dtype=np.uint8)[ORDER], ("0", "1", "2"), "one-hot rows of 3"),
    "one-hot of truth values": (np.eye(3, dtype=bool)[ORDER], ("0", "1", "2"), "one-hot rows of 3"),
    "one-hot with a column for nobody": (np.eye(4)[[0, 1, 3]][ORDER], ("0", "1", "3"), "0 is 0, 1 is 1, 3 is 2"),
    "a column": (ORDER[:, None] + 1, ("1", "2", "3"), "1 is 0, 2 is 1, 3 is 2"),
    "column of text": (np.array(["a", "b", "c"])[ORDER][:, None], ("a", "b", "c"), "'a' is 0"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tested", [True, False])
def test_labels_of_every_form_become_numbers_and_that_is_said(
    tmp_path: Path, form: str, tested: bool, caplog: pytest.LogCaptureFixture
) -> None:
    raw, classes, says = FORMS[form]
    with caplog.at_level(logging.INFO, "tasks.datasets.labels"):
        examples = read("npz", npz(tmp_path, raw, raw[:3] if tested else None))
    assert examples.classes == classes
    # The feature of an example is its place in the array.
    np.testing.assert_array_equal(examples.y, ORDER[examples.x[:, 0].astype(int)])
    (message,) = [record.getMessage() for record in caplog.records]
    assert says in message


def test_truth_values_are_two_classes(tmp_path: Path) -> None:
    examples = read("npz", npz(tmp_path, np.array([True, False] * 4), np.array([True])))
    assert examples.classes == ("False", "True")
    np.testing.assert_array_equal(examples.y, [1, 0] * 4)
    np.testing.assert_array_equal(examples.test_y, [1])


def test_bytes_are_text(tmp_path: Path) -> None:
    raw = np.char.encode(np.array(["é", "a"] * 4), "utf-8")
    assert raw.dtype.kind == "S"
    assert read("npz", npz(tmp_path, raw)).classes == ("a", "é")


def test_minus_one_and_one_are_two_classes(tmp_path: Path) -> None:
    home = clients(tmp_path, a=np.array([-1, -1, -1]), b=np.array([1, 1, 1]), test=np.array([1, -1]))
    examples = read("clients", home)
    assert examples.classes == ("-1", "1")
    np.testing.assert_array_equal(examples.y, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(examples.test_y, [1, 0])


@pytest.mark.parametrize("raw", [np.array([0, 1] * 4), np.array([0.0, 1.0] * 4), np.array([[0], [1]] * 4)])
def test_labels_from_0_are_not_worth_a_line(tmp_path: Path, raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert read("npz", npz(tmp_path, raw)).classes == ("0", "1")
    assert not caplog.records


@pytest.mark.parametrize("y", [np.linspace(1, 3, 12), np.full((12, 2), 0.5), np.ones((12, 14))])
def test_what_is_no_label_is_refused_also_where_records_may_be_skipped(tmp_path: Path, y: Any) -> None:
    # Three of the twelve numbers are whole. Training on these alone would be wrong.
    with pytest.raises(DataError, match=r"cut into classes|must become one label") as caught:
        read("npz", npz(tmp_path, y), skip_unreadable=True)
    assert "data.skip_unreadable" not in str(caught.value)


def test_text_of_several_lines_is_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read("npz", npz(tmp_path, np.array(["a\nb", "c"] * 4)))
    assert len(caplog.messages[0].splitlines()) == 1


def test_many_classes_are_one_line_of_bounded_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read("npz", npz(tmp_path, np.arange(2000) % 1000 + 1))
    assert caplog.messages[0].endswith("20 is 19 and 980 more in this order")


# Labels out of range: one of a client's labels 0 … 3 is changed.

USUAL = np.array([0, 1, 2, 3] * 3)
ODD = np.where(np.arange(12) == 5, 255, USUAL)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, "U3", "S3"])
@pytest.mark.parametrize("tested", [True, False])
def test_a_label_out_of_range_names_the_client(tmp_path: Path, dtype: Any, tested: bool) -> None:
    of = {"a": USUAL, "h3": ODD, "z": USUAL} | ({"test": USUAL} if tested else {})
    with pytest.raises(DataError, match=r"^client h3 .*: y must hold .* 0 to 3, got 255 in example 5") as caught:
        read("clients", clients(tmp_path, **{client: y.astype(dtype) for client, y in of.items()}))
    assert "data.skip_unreadable" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


TAKEN: dict[str, tuple[dict[str, Any], int]] = {
    "two clients have it": ({"a": ODD, "b": ODD, "c": USUAL, "test": USUAL}, 5),
    "the test set has it": ({"a": ODD, "b": USUAL, "test": ODD}, 5),
    "next to the others": ({"a": np.where(ODD == 255, 4, ODD), "b": USUAL, "test": USUAL}, 5),
    "a single client": ({"a": ODD}, 5),
    "equal distances": ({"a": USUAL[:9] % 2 * 255, "b": np.zeros(9), "test": np.zeros(9)}, 2),
    "around 0": ({"a": USUAL % 3 - 1, "b": USUAL % 2, "test": USUAL % 3 - 1}, 3),
    "around 0 without it": ({"a": USUAL % 2 * 2 - 1, "b": np.ones(3), "test": np.ones(3)}, 2),
    "one-hot": ({"a": np.eye(9)[[0, 1, 8, 1]], "b": np.eye(9)[[0, 1, 0, 1]], "test": np.eye(9)[[0, 1]]}, 3),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_label_behind_a_gap_may_be_a_class(tmp_path: Path, case: str) -> None:
    of, num_classes = TAKEN[case]
    assert len(read("clients", clients(tmp_path, **of)).classes) == num_classes


def test_a_label_of_one_form_beside_another_names_the_client(tmp_path: Path) -> None:
    home = clients(tmp_path, a=USUAL, b=np.array(["0", "1"]))
    with pytest.raises(DataError, match=r"^client b .* must hold integers as client a .* got text"):
        read("clients", home)


def test_one_hot_rows_of_two_widths_are_refused(tmp_path: Path) -> None:
    # The two columns of client b could be the classes 0 and 2.
    home = clients(tmp_path, a=np.eye(3)[[0, 1, 2]], b=np.eye(2)[[0, 1]])
    with pytest.raises(
        DataError, match=r"^client b .* must hold one-hot rows of 3 as client a .* got one-hot rows of 2"
    ):
        read("clients", home)


@given(
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_any_array_is_read_or_refused(raw: Any) -> None:
    try:
        labels = read_labels(raw, "y", refuse)
    except DataError:
        return
    assert len(labels.index) == len(raw)
    assert 0 <= labels.index.min() <= labels.index.max() < len(labels.names)


@given(st.permutations(range(12)), st.sampled_from([lambda y: y + 7, lambda y: y.astype("U2"), lambda y: np.eye(4)[y]]))
def test_the_order_of_examples_changes_no_class(order: list[int], form: Callable[[Any], Any]) -> None:
    straight, mixed = (read_labels(form(y), "y", refuse) for y in (USUAL, USUAL[order]))
    assert [mixed.names[k] for k in mixed.index] == [straight.names[straight.index[place]] for place in order]


@pytest.mark.parametrize(("third", "warned"), [(ORDER + 1, True), (ORDER, False), (np.array([0, 3]), False)])
def test_a_client_that_may_count_from_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, third: Any, warned: bool
) -> None:
    read("clients", clients(tmp_path, a=ORDER, b=ORDER[::-1], c=third))
    said = "client c has the labels 1 to 3, all others have 0 to 2: if it counts the same classes from another number"
    assert (said in caplog.text) == warned


def test_classes_that_differ_in_capitals_only_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = read("npz", npz(tmp_path, np.array(["Yes", "yes", "no"])[ORDER]))
    assert data.classes == ("Yes", "no", "yes")
    assert "2 classes differ in capitals only: 'Yes', 'yes'" in caplog.text


def test_names_of_arrays_may_be_in_capitals(tmp_path: Path) -> None:
    x, y = np.arange(8.0)[:, None], ORDER
    np.savez(tmp_path / "d.npz", X_train=x, Y_train=y, X_test=x[:3], y_test=y[:3])
    data = read("npz", tmp_path / "d.npz")
    np.testing.assert_array_equal(data.test_x, x[:3])
    np.savez(tmp_path / "d.npz", X_train=x, x_train=x, y_train=y)
    with pytest.raises(DataError, match="must hold each array once, got X_train, x_train, y_train"):
        read("npz", tmp_path / "d.npz")


@pytest.mark.parametrize(("shape", "warned"), [((3, 6, 5), True), ((6, 5, 3), False), ((3, 5, 4), False)])
def test_channels_that_may_come_first_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], warned: bool
) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((8, *shape)), y_train=ORDER)
    read("npz", tmp_path / "d.npz")
    assert ("3 pixels high and 6 wide, with 5 channels; if the channels come first" in caplog.text) == warned
