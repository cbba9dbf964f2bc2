"""The loss, the mean features and the gradient of one model on one client's examples."""

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
    """A client's examples under a model with P parameters and C classes.

    Attributes:
        labels: (C,) number of examples of each label.
        fit: loss and accuracy of the model on the examples.
        means: mean features by the label that the model predicts.
        gradient: (P,) gradient of the mean loss.
    """

    labels: NDArray[np.int64]
    fit: Fit
    means: LabelMeans
    gradient: Floats


def view(probe: Probe, params: Params, num_classes: int, examples: Examples) -> View:
    """Returns the view of `examples` under the model with `params`."""
    with np.errstate(all="ignore"):
        gradient = probe.gradient(params, examples)[1]
    return View(
        np.bincount(examples[1], minlength=num_classes),
        probe.fit(params, examples),
        label_means(probe, params, examples),
        gradient,
    )
