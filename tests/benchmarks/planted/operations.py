"""Changes of a client's data: (x, y, number of classes, rng) -> the changed x and y."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Examples

Operation = Callable[[NDArray[np.float32], NDArray[np.int32], int, np.random.Generator], Examples]


def flip(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, _: np.random.Generator) -> Examples:
    """Label y becomes C - 1 - y. With an odd number of classes, the one in the middle stays."""
    return x, (classes - 1 - y).astype(np.int32)


def shift_labels(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, _: np.random.Generator) -> Examples:
    """Label y becomes y + 1, and the last one 0."""
    return x, ((y + 1) % classes).astype(np.int32)


def renumber(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, rng: np.random.Generator) -> Examples:
    """The labels are numbered differently: by one random cycle of all classes, which leaves no label as it is."""
    cycle = rng.permutation(classes)
    becomes = np.empty(classes, np.int32)
    becomes[cycle] = np.roll(cycle, 1)
    return x, becomes[y]


def random_labels(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, rng: np.random.Generator) -> Examples:
    """Each label is drawn from all classes."""
    return x, rng.integers(0, classes, len(y)).astype(np.int32)


def one_label(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, rng: np.random.Generator) -> Examples:
    """All labels become one class, drawn from all but the client's commonest, whose examples would keep theirs."""
    commonest = np.bincount(y, minlength=classes).argmax()
    return x, np.full_like(y, rng.choice(np.delete(np.arange(classes), commonest)))


def noise(x: NDArray[np.float32], y: NDArray[np.int32], _: int, rng: np.random.Generator) -> Examples:
    """Noise with three times the sd of the features: with the same sd, it is memorised before the loss shows it."""
    return (x.mean() + 3 * x.std() * rng.standard_normal(x.shape)).astype(np.float32), y


def invert(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    """Standardised features become their negative."""
    return -x, y


def negative(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    """Raw features are mirrored in the middle of their range, so that black is white; each feature or channel alone."""
    axes = tuple(range(x.ndim - 1))
    return x.max(axes) + x.min(axes) - x, y


def rescale(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    """Raw features are 255 times as large: pixels from 0 to 255 beside pixels from 0 to 1, or another unit."""
    return x * np.float32(255), y


def explode(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    """Features so large that training overflows."""
    return x * np.float32(1e25), y


def few(x: NDArray[np.float32], y: NDArray[np.int32], _: int, rng: np.random.Generator) -> Examples:
    """Three of the examples."""
    kept = np.sort(rng.permutation(len(y))[:3])
    return x[kept], y[kept]


def few_and_doubtful(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, rng: np.random.Generator) -> Examples:
    """20 examples, of which 30 % get a random label, so that they can only be memorised."""
    kept = np.sort(rng.permutation(len(y))[:20])
    labels, doubtful = y[kept].copy(), rng.random(len(kept)) < 0.3
    labels[doubtful] = rng.integers(0, classes, int(doubtful.sum()))
    return x[kept], labels
