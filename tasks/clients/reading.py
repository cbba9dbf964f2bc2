"""How one client's examples are read, checked and normalised."""

import hashlib
import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import empty_aligned
from tasks.clients.shards import Form, Raw, Stored
from tasks.errors import DataError, reading, shown
from tasks.npz import Member, read_member

Examples = tuple[NDArray[np.float32], NDArray[np.int32]]
"""x (N, ...) and labels y (N,)."""


def read_raw(stored: Stored, unchanged: bool = False) -> Raw:
    """Returns one client's x (N, ...), float32 or uint8, and y (N,) int32, as they are stored.

    Only the client's own bytes of the shard are read. Threads can read at the same time.

    Args:
        stored: the client.
        unchanged: whether the shard is the same as when the client was read before. Its checksums, which take as long
            as reading, are then not computed again.

    Raises:
        DataError: the client is missing, its shard changed after it was found, or an array is cut short, damaged
            (unless `unchanged`), compressed, pickled, or not of these types and lengths.
    """
    x, y = _arrays(stored, unchanged)
    if x.dtype not in (np.float32, np.uint8) or y.dtype != np.int32 or x.ndim < 1 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"client {stored.client}: x must be float32 or uint8 (N, ...) and y int32 (N,), "
            f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    return x, y


def read_raw_checked(stored: Stored) -> Raw:
    """Returns one client's examples as they are stored.

    Raises:
        DataError: (1) see `read_raw`, (2) the arrays do not have the form or the number of examples of `stored`, or (3)
            a feature is not finite.
    """
    examples = read_raw(stored)
    check_arrays(stored.client, examples, stored.form, stored.num_examples)
    check_values(stored.client, examples, stored.form)
    return examples


def read_client(stored: Stored) -> Examples:
    """Returns one client's normalised x (N, ...) float32 and y (N,) int32, without checking them.

    Raises:
        DataError: see `read_raw`; or the statistics are missing.
    """
    x, y = read_raw(stored)
    return normalised(x, stored), y


def read_checked(stored: Stored) -> Examples:
    """Returns one client's normalised examples.

    Raises:
        DataError: see `read_raw_checked`; or the statistics are missing.
    """
    x, y = read_raw_checked(stored)
    return normalised(x, stored), y


def normalised(x: NDArray[np.float32] | NDArray[np.uint8], stored: Stored) -> NDArray[np.float32]:
    """Returns x (N, ..., C) as training sees it.

    Features of float32 were normalised before they were written, and x itself is returned. Pixels of uint8 become
    x · 1 / (255 sd) − mean / sd in float32, with the mean and sd (C,) of `stored.statistics`.

    Raises:
        DataError: x is uint8, and preprocess.json has no mean and sd.
    """
    if x.dtype != np.uint8:
        return np.asarray(x, np.float32)
    mean, sd = mean_and_sd(stored.statistics, stored.client, x.shape[-1], stored.form.record)
    scale, shift = _scale_and_shift(tuple(mean.tolist()), tuple(sd.tolist()), math.prod(x.shape[1:-1]))
    result = empty_aligned((len(x), math.prod(x.shape[1:])), np.float32)
    np.multiply(x.reshape(result.shape), scale, out=result, dtype=np.float32)
    result += shift
    return result.reshape(x.shape)


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], sd: tuple[float, ...], num_pixels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the factor and the summand of each value of an example, (num_pixels · C,); (1,) if C is 1.

    They are of a whole example, because NumPy is slow at rows as short as a pixel's channels.
    """
    num_pixels = 1 if len(mean) == 1 else num_pixels
    scale = (1 / (255 * np.array(sd))).astype(np.float32)
    shift = (-np.array(mean) / np.array(sd)).astype(np.float32)
    return np.tile(scale, num_pixels), np.tile(shift, num_pixels)


def mean_and_sd(
    statistics: Any, client: str, channels: int, record: str = "preprocess.json"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean and the sd (C,) in a client's `statistics`, for C channels or features.

    Raises:
        DataError: there are none, or nothing can be divided by the sd.
    """
    with reading(f"{record} must say client {client}'s mean and sd (run the step preprocess again)"):
        mean, sd = (np.asarray(statistics[name], np.float64) for name in ("mean", "sd"))
        allowed = np.isfinite(mean).all() and (np.isfinite(sd) & (sd > 0)).all()
        if mean.shape != (channels,) or sd.shape != (channels,) or not allowed:
            raise ValueError(f"{shown([mean.tolist(), sd.tolist()])} for {channels} channels")
        return mean, sd


def to_publish(reason: str, stored: Stored) -> str:
    """Returns the reason for clients.csv: without the client's id, which has its own column, and without its path."""
    reason = reason.removeprefix(f"client {stored.client}: ")
    return " ".join(reason.replace(f"{stored.shard.parent}/", "").split())


def digest_of(examples: Raw) -> str:
    """Returns the md5 of the bytes of x and then of y, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    for array in examples:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_arrays(client: str, examples: Raw, form: Form, num_examples: int | None = None) -> None:
    """Refuses arrays with a wrong shape, memory order or number of examples; see `read_raw_checked`.

    Raises:
        DataError: with the client's id.
    """
    x, _ = examples
    if num_examples is not None and len(x) != num_examples:
        raise DataError(f"client {client}: must hold the {num_examples} examples of {form.record}, got {len(x)}")
    if x.shape[1:] != form.input_shape or len(x) == 0:
        allowed = f"(N, {', '.join(map(str, form.input_shape))}), N > 0, as {form.record} says"
        raise DataError(f"client {client}: x must be {allowed}, got {x.shape}")
    if not x.flags.c_contiguous:
        raise DataError(f"client {client}: x must be in C order, got Fortran order")


def check_labels(client: str, examples: Raw, form: Form) -> None:
    """Refuses labels outside 0 … C − 1; see `read_raw_checked`.

    Raises:
        DataError: with the client's id.
    """
    _, y = examples
    outside = int(np.sum((y < 0) | (y >= form.num_classes)))
    if outside:
        allowed = f"0 to {form.num_classes - 1}, as {form.record} says"
        raise DataError(f"client {client}: labels must be {allowed}, got {outside} others")


def check_values(client: str, examples: Raw, form: Form) -> None:
    """Refuses labels outside 0 … C − 1 and features that are not finite; see `read_raw_checked`.

    Raises:
        DataError: with the client's id.
    """
    check_labels(client, examples, form)
    x, _ = examples
    if x.dtype != np.uint8 and not np.isfinite(x).all():
        raise DataError(f"client {client}: x must be finite, got {np.sum(~np.isfinite(x))} values that are not")


def _arrays(stored: Stored, unchanged: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    if stored.x is None or stored.y is None:
        raise DataError(f"client {stored.client}: {stored.missing}")
    try:
        descriptor = os.open(stored.shard, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for ever
    except OSError as exc:
        raise DataError(f"client {stored.client}: cannot read {stored.shard}: {exc.strerror}") from exc
    try:
        x = _array(descriptor, stored, "x", stored.x, unchanged)
        return x, _array(descriptor, stored, "y", stored.y, unchanged)
    finally:
        os.close(descriptor)


def _array(descriptor: int, stored: Stored, name: str, member: Member, unchanged: bool) -> NDArray[Any]:
    of_client = f"{stored.client}/{name}.npy"
    with reading(f"client {stored.client}: cannot read {of_client} in {stored.shard}"):
        return read_member(descriptor, of_client, member, unchanged)
