"""The labels in arrays, and the classes that they become."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.datasets.archive import Stored
from tasks.datasets.checks import (
    Raw,
    check_features,
    dtype_name,
    example_shape,
    features_of,
    is_bytes,
    named_classes,
)
from tasks.datasets.resize import Size, resized_blocks, resized_shape
from tasks.datasets.spool import Spool
from tasks.datasets.unreadable import LeaveOut, Unreadable, few_or_none
from tasks.errors import DataError, reading, shown

_log = logging.getLogger(__name__)

_NAMED = 20
"""Most classes that a line names."""

_BITS = {2: 11, 4: 24}
"""Bytes of a float to the bits of the integers that it represents exactly; 53 for larger floats."""

_ALLOWED = "integers, text, truth values or one-hot rows"


@dataclass(frozen=True, eq=False)
class RawLabels:
    """The labels of N examples as in their array.

    Attributes:
        names: the different labels, as text.
        index: place of each example's label in `names`, (N,); -1 if the label cannot be read.
        form: form of the labels, such as `integers` or `text`.
        where: name of the array, as the beginning of an error.
    """

    names: tuple[str, ...]
    index: NDArray[np.int64]
    form: str
    where: str


def read_labelled(
    x: Stored, y: Raw, where_x: str, where_y: str, leave_out: LeaveOut, size: Size, spool: Spool
) -> RawLabels:
    """Returns the labels by `read_labels`; writes the features by `features_of`, resized to `size`, to `spool`.

    Features of another form than the examples in `spool` are checked and not written: `check_alike` refuses them.

    Raises:
        DataError: see these functions; or the lengths differ, or the features do not fit on the disk.
    """
    check_features(x, where_x)
    dtype = np.dtype(np.uint8 if is_bytes(x) else np.float32)
    spool.expect(x.shape[0], resized_shape(example_shape(x), size), dtype, where_x)
    for features in features_of(x.blocks(), where_x, leave_out):
        for block in resized_blocks(features, size):
            if spool.takes(block):
                spool.append(block)
    if y.ndim and x.shape[0] != len(y):
        raise DataError(f"{where_x} and {where_y} must be of one length, got {x.shape[0]} examples and {len(y)} labels")
    return read_labels(y, where_y, leave_out)


def read_labels(raw: Raw, where: str, leave_out: LeaveOut) -> RawLabels:
    """Returns the labels of an array: integers, floats without a fraction, text, truth values, or one-hot rows.

    The shape is (N,) or (N, 1), or (N, C) with C >= 2 for one-hot rows, in which column c is label c. Bytes are text in
    UTF-8.

    Raises:
        DataError: the array has another type or shape, or is empty.
    """
    if raw.dtype.kind not in "biufUS":
        raise DataError(f"{where} must hold labels ({_ALLOWED}), got {dtype_name(raw)}")
    if raw.ndim not in (1, 2) or (raw.ndim == 2 and raw.shape[1] == 0):
        raise DataError(f"{where} must be of shape (N,), (N, 1) or, one-hot, (N, classes), got {raw.shape}")
    if raw.size == 0:
        raise DataError(f"{where} must hold at least one label, got shape {raw.shape}")
    if raw.ndim == 2 and raw.shape[1] > 1:
        return _one_hot(raw, where, leave_out)
    flat = raw.reshape(-1)
    if raw.dtype.kind in "US":
        return _text(flat, where, leave_out)
    wrong = np.zeros(len(flat), dtype=np.bool_)
    if raw.dtype.kind == "f":
        # A larger float represents several integers, so two classes would become one.
        exact = 2.0 ** _BITS.get(raw.dtype.itemsize, 53)
        missing = ~np.isfinite(flat)
        fraction = ~missing & ~((np.abs(flat) <= exact) & (flat == np.floor(flat)))
        worst = int(np.argmax(missing))
        leave_out(missing, f"{where} must hold a label for each example, got {flat[worst]} in example {worst}")
        worst = int(np.argmax(fraction))
        few_or_none(leave_out, fraction)(
            fraction,
            f"{where} must hold labels ({_ALLOWED}), got {flat[worst]} in example {worst}: a number to predict must be "
            "cut into classes first",
        )
        wrong = missing | fraction
    form = "truth values" if raw.dtype.kind == "b" else "integers"
    return _indexed(flat, wrong, form, where)


def _indexed(flat: Raw, wrong: NDArray[np.bool_], form: str, where: str) -> RawLabels:
    index = np.full(len(flat), -1, dtype=np.int64)
    unique, index[~wrong] = np.unique(flat[~wrong], return_inverse=True)
    values = unique.tolist()
    return RawLabels(tuple(str(int(v)) if form == "integers" else str(v) for v in values), index, form, where)


def _text(flat: NDArray[Any], where: str, leave_out: LeaveOut) -> RawLabels:
    with reading(f"{where} must hold text in UTF-8"):
        text = np.char.strip(np.char.decode(flat, "utf-8") if flat.dtype.kind == "S" else flat)
        # NumPy turns a missing value among texts into "nan".
        wrong = np.isin(text, ["", "nan"])
        worst = int(np.argmax(wrong))
        leave_out(wrong, f"{where} must hold a label for each example, got {str(text[worst])!r} in example {worst}")
        return _indexed(text, wrong, "text", where)


def _one_hot(raw: Raw, where: str, leave_out: LeaveOut) -> RawLabels:
    columns = raw.shape[1]
    if raw.dtype.kind in "US":
        raise DataError(f"{where} must be of shape (N,) or (N, 1) if the labels are text, got {raw.shape}")
    wrong = ((raw != 0).sum(axis=1) != 1) | ((raw == 1).sum(axis=1) != 1)
    worst = int(np.argmax(wrong))
    few_or_none(leave_out, wrong)(
        wrong,
        f"{where} must have one 1 and otherwise 0 in each row of {columns} (one-hot), got "
        f"{shown(raw[worst].tolist())} in example {worst}: soft labels, or several labels of an example, must become "
        "one label (such as the largest column: argmax(axis=1))",
    )
    index = np.where(wrong, -1, np.argmax(raw == 1, axis=1))
    return RawLabels(tuple(map(str, range(columns))), index, f"one-hot rows of {columns}", where)


@dataclass(frozen=True, eq=False)
class Numbered:
    """The classes, and the numbered labels of each client and of the test set; -1 for a label that cannot be used."""

    classes: tuple[str, ...]
    y: dict[str, NDArray[np.int32]]


def number_labels(parts: Mapping[str, RawLabels], test: RawLabels | None, unreadable: Unreadable) -> Numbered:
    """Returns the classes and the numbered labels. The classes are the sorted labels; if all are integers, as numbers.

    A line of the log says which label became which class, unless the labels are the integers 0 … C-1.

    A label is out of range, and not a class, if all four conditions hold:

    1. All labels are integers, and not one-hot.
    2. There is a gap between the label and the integers that most examples have. -1 has a gap to 0.
    3. The test set, if there is one, has no label on this side of the gap.
    4. Only one of several clients has labels on this side of the gap; or there is only one client, and a test set.

    Labels at equal distances have no gap (0 and 255; 10, 20, 30; -1 and 1). Two errors cannot be found: a client that
    counts labels from 1 while the others count from 0, and a wrong label next to the right ones.

    Args:
        parts: training labels of each client, or of '' if there are no clients.
        test: labels of the data's own test set.
        unreadable: collects the examples whose label is not a class.

    Raises:
        DataError: the labels have two forms, or a label is too long.
    """
    parts = {whose: _readable(part, unreadable.wrong(whose, len(part.index))) for whose, part in parts.items()}
    test = test and _readable(test, unreadable.wrong(TEST, len(test.index)))
    first = next(iter(parts.values()))
    for part in [*parts.values(), *([test] if test else [])]:
        if part.form != first.form:
            raise DataError(f"{part.where} must hold {first.form} as {first.where} does, got {part.form}: use one form")
    counts = {whose: _counts(part) for whose, part in parts.items()}
    classes = named_classes(sorted(set[str]().union(*counts.values())), f"{first.where}: a label")[1]
    if not classes:
        raise DataError(f"{first.where} must hold examples that can be read, got none; the first: {unreadable.first}")
    strange = set[str]() if first.form.startswith("one-hot") else _out_of_range(classes, counts, test)
    classes = tuple(name for name in classes if name not in strange)
    _warn_of_ones(counts, first.form)
    numbered = Numbered(classes, {whose: _numbers(part, classes) for whose, part in parts.items()})
    for whose, part in parts.items():
        others = [*(["other client"] if whose else []), *(["test example"] if test else [])]
        _leave_out_strange(part, numbered.y[whose], classes, unreadable.of(whose), f"no {' and no '.join(others)}")
    if test:
        y = numbered.y[TEST] = _numbers(test, classes)
        wrong = (y < 0) & (test.index >= 0)
        worst = int(np.argmax(wrong))
        unreadable.of(TEST)(
            wrong,
            f"{test.where} must hold labels of the training examples, {_listed(classes)}, "
            f"got {test.names[test.index[worst]]} in example {worst}",
        )
    if len(classes) > 1 and (classes != tuple(map(str, range(len(classes)))) or first.form != "integers"):
        pairs = [
            f"{shown(name) if first.form == 'text' else name} is {label}" for label, name in enumerate(classes[:_NAMED])
        ]
        more = f" and {len(classes) - _NAMED} more in this order" if len(classes) > _NAMED else ""
        _log.info("the labels (%s) become %d classes: %s%s", first.form, len(classes), ", ".join(pairs), more)
    return numbered


def _warn_of_ones(counts: Mapping[str, Mapping[str, int]], form: str) -> None:
    """Warns of a client if its labels minus 1 are the others' labels: it may count from 1, and they from 0."""
    numbers = {whose: set(map(int, own)) for whose, own in counts.items()} if form == "integers" else {}
    having = Counter(number for own in numbers.values() for number in own)
    for whose, own in numbers.items() if len(numbers) > 2 else ():
        others = {number for number, clients in having.items() if clients > (number in own)}
        if {number - 1 for number in own} == others:
            _log.warning(
                "client %s has the labels %s, all others have %s: if it counts the same classes from another "
                "number, number them as the others do",
                whose,
                _listed(list(map(str, sorted(own)))),
                _listed(list(map(str, sorted(others)))),
            )


def _readable(part: RawLabels, wrong: NDArray[np.bool_]) -> RawLabels:
    """Returns `part` without the labels of examples that cannot be read: such a label makes no class."""
    return replace(part, index=np.where(wrong, -1, part.index))


def _counts(part: RawLabels) -> dict[str, int]:
    """Returns the number of examples of each label. Labels that differ only in blanks at the ends are the same."""
    counts = Counter[str]()
    held, times = np.unique(part.index[part.index >= 0], return_counts=True)
    for place, count in zip(held.tolist(), times.tolist(), strict=True):
        counts[part.names[place]] += count
    return counts


def _numbers(part: RawLabels, classes: Sequence[str]) -> NDArray[np.int32]:
    label = {name: number for number, name in enumerate(classes)}
    numbers = np.array([*(label.get(name, -1) for name in part.names), -1], dtype=np.int32)
    return numbers[part.index]


def _leave_out_strange(
    part: RawLabels, y: NDArray[np.int32], classes: Sequence[str], leave_out: LeaveOut, nobody: str
) -> None:
    wrong = (y < 0) & (part.index >= 0)
    worst = int(np.argmax(wrong))
    name = part.names[part.index[worst]]
    leave_out(
        wrong,
        f"{part.where} must hold labels in the range of the others, {_listed(classes)}, got {name} in example {worst}"
        f"{f' and {wrong.sum() - 1} more' if wrong.sum() > 1 else ''} ({nobody} has it): correct these labels, or, if "
        "they are classes, number the classes without a gap",
    )


def _out_of_range(classes: Sequence[str], counts: Mapping[str, Mapping[str, int]], test: RawLabels | None) -> set[str]:
    """Returns the labels out of the sorted `classes` that are out of range (see `number_labels`)."""
    if not all(re.fullmatch(r"[+-]?[0-9]+", name) for name in classes):
        return set()
    values = [int(name) for name in classes]
    steps = [after - before for before, after in itertools.pairwise(values)]
    if len(set(steps)) <= 1 and (values[0] >= 0 or 0 not in values):
        return set()
    runs: list[list[str]] = [[classes[0]]]
    for name, value, step in zip(classes[1:], values[1:], steps, strict=True):
        if step > 1 or value == 0:
            runs.append([])
        runs[-1].append(name)
    total = Counter[str]()
    for own in counts.values():
        total.update(own)
    runs.remove(max(runs, key=lambda run: sum(total[name] for name in run)))
    return {name for run in runs if _is_strange(set(run), counts, test) for name in run}


def _is_strange(run: set[str], counts: Mapping[str, Mapping[str, int]], test: RawLabels | None) -> bool:
    if test and run & _counts(test).keys():
        return False
    if len(counts) == 1:
        return test is not None
    return sum(not run.isdisjoint(own) for own in counts.values()) == 1


def _listed(classes: Sequence[str]) -> str:
    if [*classes] == [str(int(classes[0]) + k) for k in range(len(classes))] if classes[0].isdecimal() else False:
        return f"{classes[0]} to {classes[-1]}"
    return ", ".join(classes[:_NAMED]) + (", …" if len(classes) > _NAMED else "")
