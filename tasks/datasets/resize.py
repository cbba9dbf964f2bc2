"""Bilinear resizing of images, with averaging if they shrink."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tasks.arrays import Features
from tasks.datasets.checks import check_memory

Size = tuple[int, ...]
"""`preprocess.resize`: height and width, or empty."""

_BLOCK_VALUES = 2**22
"""Most values that are resized at a time: 32 MB in float64, for data of any size."""
_COLUMNS = 512
"""Columns that are multiplied at a time.

For a photograph of 6000×4000, it is ten times as fast as all columns at once, and saves 576 MB.
"""


def resized(x: Features, size: Size) -> Features:
    """Returns images resized to `size`, in memory; x itself if `size` is empty.

    Raises:
        DataError: the resized images do not fit into memory.
    """
    if not size:
        return x
    height, width = size
    check_memory(4 * len(x) * height * width * x.shape[3], f"{len(x)} images of preprocess.resize {list(size)}")
    return resize_images(x, (height, width))


def resized_shape(shape: tuple[int, ...], size: Size) -> tuple[int, ...]:
    """Returns the shape of an example of this `shape` after `resized_blocks`."""
    return (*size, shape[2]) if size and len(shape) == 3 else shape


def resized_blocks(x: Features, size: Size) -> Iterator[Features]:
    """Yields images resized to `size`, some at a time. A table is unchanged, and so are images if `size` is empty.

    Raises:
        DataError: a resized image does not fit into memory.
    """
    if not size or x.ndim != 4:
        yield x
        return
    height, width = size
    check_memory(8 * height * width * x.shape[3], f"an image of preprocess.resize {list(size)}")
    for block in _blocks(x.shape, (len(x), height, width, x.shape[3])):
        yield resize_images(x[block], (height, width))


def resize_images(x: Features, size: tuple[int, int]) -> Features:
    """Returns the images x (N, H, W, C) in the height and width `size`, of x's type; x itself if it has this size.

    This is the separable triangle filter, `bilinear` of Pillow and of `tf.image.resize(antialias=True)`:

    1. Pixel centres are at half integers.
    2. If an axis shrinks, the triangle spans two output pixels, so each output averages all pixels that it covers. If
       an axis grows, the triangle spans two input pixels (linear interpolation).
    3. Weights outside the image are dropped, and the others are scaled to sum 1. So a constant image stays constant up
       to the border, and the range [0, 1] is kept.
    4. Sums are in float64, in a fixed order on one thread, so the result has the same bytes every time.
    5. Images of uint8 are rounded to the nearest whole number, once, at the end. The error is at most 1/2 of the range
       0 to 255, so at most 1/510 of the range [0, 1] that the values mean.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = _sparse_weights(x.shape[1], size[0]), _sparse_weights(x.shape[2], size[1])
    resized: NDArray[Any] = np.empty((len(x), *size, x.shape[3]), dtype=x.dtype)
    for block in _blocks(x.shape, resized.shape):
        values = _along_first(rows, x[block].transpose(1, 0, 2, 3))  # (H', N, W, C)
        values = _along_first(columns, values.transpose(2, 1, 0, 3))  # (W', N, H', C)
        resized[block] = (np.rint(values) if x.dtype == np.uint8 else values).transpose(1, 2, 0, 3)
    return resized


def triangle_weights(before: int, after: int) -> NDArray[np.float64]:
    """Returns (after, before) the weight of each input pixel of an axis in each output pixel; the rows sum to 1.

    Equal lengths give the identity.
    """
    step = before / after
    centres = (np.arange(after) + 0.5) * step - 0.5
    distances = np.abs(np.arange(before) - centres[:, np.newaxis])
    weights = np.maximum(0.0, 1.0 - distances / max(step, 1.0))
    total: NDArray[np.float64] = weights.sum(axis=1, keepdims=True)
    return weights / total


@lru_cache(maxsize=64)
def _sparse_weights(before: int, after: int) -> sparse.csr_array:
    return sparse.csr_array(triangle_weights(before, after))


def _along_first(weights: sparse.csr_array, values: NDArray[np.generic]) -> NDArray[np.float64]:
    flat = values.reshape(len(values), -1)
    product = np.empty((weights.shape[0], flat.shape[1]))
    for start in range(0, flat.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        product[:, columns] = weights @ np.ascontiguousarray(flat[:, columns], dtype=np.float64)
    return product.reshape(-1, *values.shape[1:])


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[slice]:
    largest = max(before[1], after[1]) * max(before[2], after[2]) * after[3]
    images = max(1, _BLOCK_VALUES // largest)
    for start in range(0, before[0], images):
        yield slice(start, start + images)
