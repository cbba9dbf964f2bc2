"""What the hold-out data let one expect of a client's data at the model before the rise, and how far off they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats, Ints
from tasks.clients import Examples
from tasks.diagnose.thresholds import CONFLICT_LOSS
from tasks.local.features import LabelMeans, flat

if TYPE_CHECKING:  # its import takes TensorFlow's
    from tasks.local.probe import Fit, Probe
    from tasks.parameters import Params


def expected(fit: "Fit", reference: "Fit") -> tuple[float, float]:
    """Returns (loss, accuracy) that a client with the label mix of `fit` would have if its data were like the others'.

    For each label, the loss and accuracy of `reference`, the hold-out data, count in proportion to the client's
    examples of that label. A label that the reference lacks counts with the reference's mean. So a client with unusual
    labels is not taken for one with wrong labels.
    """
    total = sum(count for count, _, _ in fit.by_label.values())
    loss = accuracy = 0.0
    for label, (count, _, _) in fit.by_label.items():
        _, usual_loss, usual_recall = reference.by_label.get(label, (0, reference.loss, reference.accuracy))
        loss += count / total * usual_loss
        accuracy += count / total * usual_recall
    return loss, accuracy


def hold_out_in_conflict(fits: "Mapping[str, Fit]", reference: "Fit") -> bool:
    """Returns whether the hold-out loss is more than CONFLICT_LOSS times the clients' loss on the same labels.

    Args:
        fits: by client, how the model does on its data.
        reference: how it does on the hold-out data.
    """
    sizes = np.array([sum(count for count, _, _ in fit.by_label.values()) for fit in fits.values()], np.float64)
    losses = sizes @ [fit.loss for fit in fits.values()]
    return bool(sizes @ [expected(fit, reference)[0] for fit in fits.values()] > CONFLICT_LOSS * losses)


@dataclass(frozen=True)
class HoldOutFeatures:
    """The features of the N hold-out examples.

    Attributes:
        rows: (N, F).
        predicted: (N,) the label that the model takes each example for.
        sd: (F,) within a label, plus a tenth of its mean over the features.
    """

    rows: Floats
    predicted: NDArray[np.int64]
    sd: Floats


def hold_out_features(probe: "Probe", params: "Params", reference: Examples) -> HoldOutFeatures:
    """Returns the features of the hold-out data `reference`, as the model with `params` sees them."""
    return features_by_label(reference[0], probe.logits(params, reference[0]).argmax(1))


def features_by_label(features: NDArray[np.float32], predicted: Ints) -> HoldOutFeatures:
    """Returns the features (N, ...) of hold-out examples that are taken for the labels `predicted` (N,)."""
    base = flat(features)
    spread = np.zeros(base.shape[1])
    for label in np.unique(predicted):
        rows = base[predicted == label]
        spread += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
    sd = np.sqrt(spread / len(base))
    return HoldOutFeatures(base, predicted, sd + 0.1 * max(float(sd.mean()), 1e-12))


def feature_distance(client: LabelMeans, hold_out: HoldOutFeatures) -> float:
    """Returns how far a client's means are from those of the hold-out data, in their sd; 0 is as near as a sample.

    Examples are compared with the hold-out examples that the model takes for the same label, so that neither an unusual
    label mix nor wrong labels count: sqrt(sum over labels of n_c/n (mean over features of ((m_cf - r_cf) / s_f)^2 -
    1/n_c - 1/N_c)), with s_f the hold-out data's `sd`. Labels that these lack are compared with all of them.
    """
    square, size = 0.0, sum(client.counts.values())
    for label, count in client.counts.items():
        like = hold_out.rows[hold_out.predicted == label]
        like = like if len(like) else hold_out.rows
        apart = float((((client.means[label] - like.mean(axis=0)) / hold_out.sd) ** 2).mean())
        square += count / size * (apart - 1 / count - 1 / len(like))
    return float(np.sqrt(max(square, 0.0)))


def structure(client: float, reference: float) -> float:
    """Returns the client's correlation of features over that of the hold-out data; NaN if the latter is 0.05 or less.

    Args:
        client: `correlation` of the client's features.
        reference: of the hold-out data's.
    """
    return client / reference if reference > 0.05 else np.nan
