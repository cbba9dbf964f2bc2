"""A client's features in numbers: their means by predicted label, and their correlation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats, Ints
from tasks.clients import Examples

if TYPE_CHECKING:  # its import takes TensorFlow's
    from tasks.local.probe import Probe
    from tasks.parameters import Params

_FEATURES = 200
"""Most features whose correlations are computed. If there are more, a fixed random choice of this many is used."""


@dataclass(frozen=True)
class LabelMeans:
    """Means of F features by predicted label.

    Attributes:
        counts: label to the number of examples for which the model predicts it, > 0.
        means: label to the mean (F,) of their features.
    """

    counts: Mapping[int, int]
    means: Mapping[int, Floats]


def label_means(probe: "Probe", params: "Params", examples: Examples) -> LabelMeans:
    """Returns the means of a client's features by the label that the model with `params` predicts.

    Predicted labels are used so that an unusual label mix or wrong labels do not matter.
    """
    return means_by_label(examples[0], probe.logits(params, examples[0]).argmax(1))


def means_by_label(features: NDArray[np.float32], predicted: Ints) -> LabelMeans:
    """Returns the means of features (N, ...) by label (N,). The mean of a label with one example is that example."""
    x = flat(features)
    labels = [int(label) for label in np.unique(predicted)]
    return LabelMeans(
        {label: int((predicted == label).sum()) for label in labels},
        {label: x[predicted == label].mean(axis=0) for label in labels},
    )


def correlation(x: NDArray[np.float32]) -> float:
    """Returns the mean |r| of two of a client's features, minus the mean |r| of independent features.

    It is 0 if fewer than two features vary, or if there are fewer than 8 examples. Another device changes brightness,
    contrast or position, but neighbouring features stay correlated; features of noise are independent.
    """
    rows = flat(x)
    rows = rows[:, rows.std(axis=0) > 1e-9]
    if rows.shape[1] < 2 or len(rows) < 8:
        return 0.0
    some = np.random.default_rng(0).permutation(rows.shape[1])[:_FEATURES]
    sizes = np.abs(np.corrcoef(rows[:, some], rowvar=False))
    mean = (sizes.sum() - len(sizes)) / (sizes.size - len(sizes))
    # Independent features: the mean of |r|, with r normal and its variance 1 / N.
    return float(mean - np.sqrt(2 / np.pi / len(rows)))


def flat(x: NDArray[np.float32]) -> Floats:
    """Returns the features (N, F) of x (N, ...)."""
    return x.reshape(len(x), -1).astype(np.float64)
