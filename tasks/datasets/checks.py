"""Checks of raw arrays, with errors that say what an array must hold and what it holds.

`where` names the file, key or client. Every error begins with it.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Features
from tasks.datasets.unreadable import LeaveOut, refuse
from tasks.errors import DataError, shown
from tasks.memory import available

_log = logging.getLogger(__name__)

Raw = NDArray[np.generic]

LONGEST_CLASS = 200
"""Most characters of a class's name, which pictures, reports and tables show. A longer text is not a class name."""


class Shaped(Protocol):
    """An array of which only the shape and the type are known."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""


def check_features(raw: Shaped, where: str) -> None:
    """Refuses an array that cannot hold the features of N examples.

    Raises:
        DataError: the array does not hold numbers, has another rank than 2, 3 or 4, or is empty.
    """
    shape = raw.shape
    if raw.dtype.kind not in "biuf":
        raise DataError(f"{where} must hold integers or floats, got {dtype_name(raw)}")
    if len(shape) not in (2, 3, 4):
        raise DataError(
            f"{where} must be of shape (N, features), (N, height, width) or (N, height, width, channels), got {shape}"
        )
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] > 4:
        _log.warning(
            "%s is read as %d images %d pixels high and %d wide, with %d channels; if the channels come first, save "
            "numpy.moveaxis(x, 1, -1)",
            where,
            *shape,
        )
    if 0 in shape:
        raise DataError(f"{where} must hold at least one example and one feature, got shape {shape}")


def features_of(blocks: Iterable[Raw], where: str, leave_out: LeaveOut = refuse) -> Iterator[Features]:
    """Yields the features of arrays that `check_features` accepts, (n, F) or (n, H, W, C). (n, H, W) gets a last axis.

    Images of uint8 stay uint8. All other numbers become float32 of the same value; truth values become 0 and 1. At the
    end, `leave_out` gets the examples of all blocks together that are not finite as float32.
    """
    wrong, says, num_before = [], "", 0
    for raw in blocks:
        with np.errstate(over="ignore"):
            x: Features = raw.astype(np.float32, copy=False) if not is_bytes(raw) else raw.astype(np.uint8, copy=False)
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1) if x.dtype != np.uint8 else np.ones(len(x), np.bool_)
        if not (says or finite.all()):
            worst = int(np.argmin(finite))
            value = raw[worst][~np.isfinite(x[worst])].flat[0]
            says = f"{where} must hold finite float32 numbers, got {value} in example {num_before + worst}"
        wrong.append(~finite)
        num_before += len(x)
        yield x[..., np.newaxis] if x.ndim == 3 else x
    if says:
        leave_out(np.concatenate(wrong), says)


def check_alike(first: Shaped, other: Shaped, where_first: str, where: str, resizing: bool = False) -> None:
    """Refuses `other` if its examples have another shape or scale than `first`; `check_features` accepted both.

    Images that will be resized can differ in height and width.

    Raises:
        DataError: they differ. Images of bytes and images of floats cannot be mixed: only bytes are divided by 255.
    """
    shape, other_shape = example_shape(first), example_shape(other)
    of_one_kind = len(shape) == len(other_shape) == 3 and shape[2] == other_shape[2]
    if shape != other_shape and not (resizing and of_one_kind):
        raise DataError(
            f"{where} must hold examples of shape {shape} as {where_first} does, got {other_shape}"
            f"{': set preprocess.resize, such as ' + str(list(shape[:2])) if of_one_kind else ''}"
        )
    if is_bytes(first) != is_bytes(other):
        raise DataError(
            f"{where} must hold {first.dtype} images as {where_first} does, got {other.dtype}: save both as uint8, or "
            "both as floats (only uint8 images are divided by 255)"
        )


def named_classes(names: Iterable[str], where: str = "a label") -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Returns labels (N,) and the classes, which are the sorted unique names; if all are integers, sorted as numbers.

    Raises:
        DataError: a name is longer than LONGEST_CLASS characters, or not in UTF-8.
    """
    listed = list(names)
    unique = set(listed)
    for name in unique:
        if len(name) > LONGEST_CLASS:
            raise DataError(f"{where} must have at most {LONGEST_CLASS} characters, got {shown(name)} of {len(name)}")
        check_text(name, where)
    numeric = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in unique)
    classes = tuple(sorted(unique, key=lambda name: (int(name) if numeric else 0, name)))
    label = {name: index for index, name in enumerate(classes)}
    return np.array([label[name] for name in listed], dtype=np.int32), classes


def check_text(text: str, where: str) -> None:
    """Refuses text that cannot be written as UTF-8: Python reads such bytes of a file's name as half characters.

    Raises:
        DataError: `text` has a half character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise DataError(f"{where} must be in UTF-8, got {os.fsencode(text[:LONGEST_CLASS])!r}") from exc


def check_memory(num_bytes: int, where: str) -> None:
    """Refuses data that are larger than the memory, before they are unpacked: a small file can unpack to terabytes.

    Raises:
        DataError: `num_bytes` is more than the machine's whole memory.
    """
    there = available()
    if num_bytes > there:
        raise DataError(
            f"{where} must fit into memory ({there / 2**30:.0f} GB), got {num_bytes / 2**30:,.0f} GB when unpacked"
        )


def example_shape(raw: Shaped) -> tuple[int, ...]:
    """Returns the shape of an example as `features_of` yields it: (F,) or (H, W, C)."""
    return raw.shape[1:] if len(raw.shape) != 3 else (*raw.shape[1:], 1)


def is_bytes(raw: Shaped) -> bool:
    """Whether the values are images of uint8, in which v means v / 255. In a table, v of uint8 is the number v."""
    return len(raw.shape) > 2 and raw.dtype == np.uint8


def dtype_name(raw: Shaped) -> str:
    """Returns a word for the type of an array's values, for errors."""
    return {"U": "text", "S": "bytes", "O": "objects"}.get(raw.dtype.kind, str(raw.dtype))
