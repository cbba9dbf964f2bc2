"""What one client's examples are at one model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.local.features import LabelMeans, label_means
from tasks.local.probe import Fit, Probe
from tasks.parameters import Params


@dataclass(frozen=True)
class View:
    """A client's examples at a model of P parameters and C classes.

    Attributes:
        labels: (C,) examples of each label.
        fit: how the model does on them.
        means: their features, mean by label that the model takes them for.
        gradient: (P,) of the mean loss.
    """

    labels: NDArray[np.int64]
    fit: Fit
    means: LabelMeans
    gradient: Floats


def view(probe: Probe, params: Params, num_classes: int, examples: Examples) -> View:
    """Returns what the examples are at the model with `params`."""
    with np.errstate(all="ignore"):
        gradient = probe.gradient(params, examples)[1]
    return View(
        np.bincount(examples[1], minlength=num_classes),
        probe.fit(params, examples),
        label_means(probe, params, examples),
        gradient,
    )
