"""Array types that many modules use, and arrays as TensorFlow likes them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LogitsOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A model as a function from x (N, ...), N > 0, to logits (N, C)."""
Features: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]
"""Features of examples, (N, ...). A value v of uint8 means v / 255; uint8 is used for images of 8 bits only."""


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """Returns features as the numbers that they mean: v / 255 for a value v of uint8, and float32 unchanged."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else np.asarray(x, dtype=np.float32)


def empty_aligned(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Returns an array of any values that begins at a multiple of 64 bytes.

    TensorFlow computes with such an array as it is; of another one it makes a copy.
    """
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + 63, np.uint8)
    begin = -memory.ctypes.data % 64
    aligned: NDArray[Any] = memory[begin : begin + num_bytes].view(dtype).reshape(shape)
    return aligned
