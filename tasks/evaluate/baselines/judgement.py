"""The comparison of models on the hold-out data as one client sees them: N examples, C classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import t as student_t

from tasks.arrays import Bools, Floats
from tasks.errors import listed
from tasks.evaluate.metrics import ClassLabels, Logits, predict

Better = Literal["federation", "alone", "unclear"]

_CONFIDENCE = 0.95
"""Of the interval of Student's t around the difference of two losses."""


@dataclass(frozen=True)
class Answers:
    """The answers of one model to the hold-out examples.

    Attributes:
        losses: (N,) nats; infinite if a logit is not finite.
        hits: (N,) whether the label was predicted.
    """

    losses: Floats
    hits: Bools


@dataclass(frozen=True)
class Mark:
    """Loss (nats per example) and accuracy of a model; the loss is None if a logit is not finite."""

    loss: float | None
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """The models as one client sees them.

    Attributes:
        own: the model that was trained on its data alone.
        federated: the global model.
        difference: loss of `own` minus loss of `federated`; None if one of them is None.
        standard_error: of `difference`, over the hold-out examples; None if `difference` is.
        better: `unclear` if the confidence interval of `difference` holds 0.
    """

    own: Mark
    federated: Mark
    difference: float | None
    standard_error: float | None
    better: Better


def answers(y: ClassLabels, logits: Logits) -> Answers:
    """Returns the answers that logits (N, C) are, for the labels y (N,)."""
    finite = np.isfinite(logits).all(axis=1)
    usable = np.where(finite[:, None], logits, 0).astype(np.float64)
    losses = -log_softmax(usable, axis=1)[np.arange(len(y)), y]
    return Answers(np.where(finite, losses, np.inf), predict(logits) == y)


def weights_of(labels: NDArray[np.int64], y: ClassLabels) -> Floats | None:
    """Returns the weights (N,) of the hold-out examples for a client with `labels` (C,) examples of each class.

    They sum to 1, and each class has the sum of its share of the client's examples. Classes that the hold-out data lack
    do not count. None if fewer than two hold-out examples are of the client's classes.
    """
    there = np.bincount(y, minlength=len(labels))
    shares = np.where(there > 0, labels, 0).astype(np.float64)
    weights = (shares / np.maximum(there, 1))[y]
    return weights / weights.sum() if np.count_nonzero(weights) > 1 else None


def mark(model: Answers, weights: Floats | None = None) -> Mark:
    """Returns the weighted mean of a model's answers; None: all N examples count equally."""
    weights = np.full(len(model.hits), 1 / len(model.hits)) if weights is None else weights
    counts = weights > 0
    loss = float(weights[counts] @ model.losses[counts])
    return Mark(loss if np.isfinite(loss) else None, float(weights @ model.hits))


def compare(own: Answers, federated: Answers, weights: Floats) -> Comparison:
    """Returns the comparison of two models with the `weights` (N,) of `weights_of`.

    The standard error is of a weighted mean of paired differences d_i: √(n / (n − 1) · Σ w_i² (d_i − Σ w d)²), with n
    the number of examples that count.
    """
    marks = mark(own, weights), mark(federated, weights)
    if marks[0].loss is None or marks[1].loss is None:
        return Comparison(*marks, None, None, "unclear")
    counts = weights > 0
    number, used = int(counts.sum()), weights[counts]
    apart = own.losses[counts] - federated.losses[counts]
    difference = float(used @ apart)
    error = float(np.sqrt(number / (number - 1) * np.sum((used * (apart - difference)) ** 2)))
    bound = float(student_t.ppf((1 + _CONFIDENCE) / 2, number - 1)) * error
    better: Better = "unclear" if abs(difference) <= bound else "federation" if difference > 0 else "alone"
    return Comparison(*marks, difference, error, better)


def flat(comparisons: Mapping[str, Comparison], pooled: Mark | None) -> dict[str, float]:
    """Returns the numbers of metrics.json; a mean is over the clients, each counts once."""
    numbers: dict[str, float | None] = {}
    if pooled is not None:
        numbers |= {"pooled_loss": pooled.loss, "pooled_accuracy": pooled.accuracy}
    for name, marks in (
        ("local", [each.own for each in comparisons.values()]),
        ("federated", [each.federated for each in comparisons.values()]),
    ):
        losses = [each.loss for each in marks if each.loss is not None]
        if marks:
            numbers[f"{name}_loss_mean"] = float(np.mean(losses)) if len(losses) == len(marks) else None
            numbers[f"{name}_accuracy_mean"] = float(np.mean([each.accuracy for each in marks]))
    if comparisons:
        numbers["clients_better_alone"] = len(_who(comparisons, "alone"))
        numbers["clients_better_federated"] = len(_who(comparisons, "federation"))
    return {name: value for name, value in numbers.items() if value is not None}


def says(
    comparisons: Mapping[str, Comparison], pooled: Mark | None, federated: Mark, left_out: Sequence[str]
) -> list[str]:
    """Returns the answer in a few plain sentences."""
    sentences = []
    if comparisons:
        gains, number = len(_who(comparisons, "federation")), len(comparisons)
        how_many = f"all {number}" if 1 < gains == number else f"{gains or 'none'} of {number}"
        sentences.append(f"The federation pays for {how_many} client{'s' if number > 1 else ''}.")
        for better, beginning in (("alone", "Better alone"), ("unclear", "No clear difference")):
            if names := _who(comparisons, better):
                sentences.append(f"{beginning}: {listed(names)}.")
    if pooled is not None:
        sentences.append(
            f"A model trained on all data in one place has loss {_loss(pooled)} and accuracy {pooled.accuracy:.3f} on "
            f"the hold-out data, the global model {_loss(federated)} and {federated.accuracy:.3f}."
        )
    if left_out:
        sentences.append(f"Not measured: {listed(left_out)}.")
    return sentences


def _who(comparisons: Mapping[str, Comparison], better: str) -> list[str]:
    return [client for client, each in comparisons.items() if each.better == better]


def _loss(of: Mark) -> str:
    return "not finite" if of.loss is None else f"{of.loss:.3f}"
