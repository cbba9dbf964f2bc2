"""Array types that many modules use."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Features: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]
"""Features of examples, (N, ...). A value v of uint8 means v / 255; uint8 is used for images of 8 bits only."""


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """Returns features as the numbers that they mean: v / 255 for a value v of uint8, and float32 unchanged."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else np.asarray(x, dtype=np.float32)
