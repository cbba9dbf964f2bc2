"""Feature skew: IID examples, to which each client adds its own noise, brightness, contrast and rotation."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.arrays import Features, as_float32
from tasks.datasets.spool import SourceArray
from tasks.errors import DataError
from tasks.local.moments import BLOCK_VALUES
from tasks.settings import PartitionSettings

FEATURE_STREAM = 22
"""Separates these draws from all others of the same seed."""

FeatureChange = Callable[[Features, int], tuple[Features, dict[str, float]]]
"""(features of client k, k = 0..K-1) -> the changed features, and the changes by name.

Changed features are float32: rounding them to 8 bits would remove small changes.
"""


def noise(x: NDArray[np.float32], variance: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns x plus Gaussian noise of mean 0 and this variance, in squared units of x; variance 0 changes nothing.

    Client i = 1..K gets the variance sigma · i / K, which is Gau(sigma · i / K) of NIID-Bench (Li et al., arXiv
    2102.02079, section 4.2). NIID-Bench's code uses this number as the standard deviation, and draws new noise each
    time an example is read. Here an example keeps its noise. Values are not clipped, because clipping makes the
    variance smaller: the values of images can leave [0, 1].
    """
    with np.errstate(over="ignore"):
        return np.asarray(x + np.sqrt(variance) * rng.standard_normal(x.shape), dtype=np.float32)


def shift(
    x: NDArray[np.float32],
    brightness: float,
    contrast: float,
    rotation: float,
    limits: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float32]:
    """Returns images (N, H, W, C) that are rotated first, and then changed in contrast and brightness.

    Args:
        x: the images.
        brightness: added to every pixel, as a fraction of the range between `limits`; 0 changes nothing.
        contrast: factor of each pixel's distance from the mean of its image and channel; 1 changes nothing.
        rotation: degrees about the centre, counter-clockwise; empty corners get the nearest pixel's value; 0 changes
            nothing.
        limits: darkest and lightest value of a pixel; values outside are clipped.
    """
    low, high = limits
    if rotation:
        x = ndimage.rotate(x, rotation, axes=(1, 2), reshape=False, order=1, mode="nearest")
    means = x.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    changed = x + (contrast - 1) * (x - means) + brightness * (high - low)
    return np.asarray(np.clip(changed, low, high), dtype=np.float32)


def change_for(settings: PartitionSettings, x: SourceArray, seed: int) -> FeatureChange:
    """Returns the change of each client's features by `partition.kind`; most kinds change nothing.

    The draws depend on the seed and the client's number only: feature_shift is the same for 10 and for 100 clients.

    Raises:
        DataError: the kind is for images, but `x`, all training examples, is a table.
    """
    match settings.kind:
        case "feature_noise":
            return partial(_noisy, settings, seed)
        case "feature_shift" if x.ndim != 4:
            raise DataError(
                "partition.kind feature_shift needs images (N, H, W, C), "
                f"got a table of {x.shape[1]} features an example: use feature_noise"
            )
        case "feature_shift":
            return partial(_shifted, settings, seed, _limits(x))
        case _:
            return _unchanged


def _limits(x: SourceArray) -> tuple[float, float]:
    """Returns the darkest and lightest value of a pixel: 0 and 1, or the data's own where they are beyond these."""
    low, high = 0.0, 1.0
    for rows in _blocks(x) if x.dtype != np.uint8 else ():
        block = x[rows]
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def _blocks(x: SourceArray) -> Iterator[slice]:
    """Yields the examples, as many at a time as BLOCK_VALUES allows: both changes make temporary arrays of float64."""
    size = max(1, BLOCK_VALUES // math.prod(x.shape[1:]))
    return (slice(start, start + size) for start in range(0, len(x), size))


def _changed(x: Features, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
    changed = np.empty(x.shape, dtype=np.float32)
    for rows in _blocks(x):
        changed[rows] = change(as_float32(x[rows]))
    return changed


def _unchanged(x: Features, k: int) -> tuple[Features, dict[str, float]]:
    return x, {}


def _noisy(settings: PartitionSettings, seed: int, x: Features, k: int) -> tuple[Features, dict[str, float]]:
    variance = settings.sigma * ((k + 1) / settings.num_clients)
    # The blocks' draws, one after the other, are the draws of all examples at once.
    rng = np.random.default_rng([seed, FEATURE_STREAM, k])
    fresh = _changed(x, lambda block: noise(block, variance, rng))
    if not np.isfinite(fresh).all():
        raise DataError(f"partition.sigma is too large for float32 features, got {settings.sigma}")
    return fresh, {"noise_variance": variance}


def _shifted(
    settings: PartitionSettings, seed: int, limits: tuple[float, float], x: Features, k: int
) -> tuple[Features, dict[str, float]]:
    rng = np.random.default_rng([seed, FEATURE_STREAM, k])
    drawn = {
        "brightness": rng.uniform(-settings.brightness, settings.brightness),
        "contrast": rng.uniform(1 - settings.contrast, 1 + settings.contrast),
        "rotation": rng.uniform(-settings.rotation, settings.rotation),
    }
    return _changed(x, lambda block: shift(block, **drawn, limits=limits)), drawn
