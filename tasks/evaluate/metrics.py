"""Scores of a classifier from its logits; N examples, C classes, K clients.

A score that is undefined (the recall of a class without examples, the AUC of one class, the loss of an infinite logit)
is None here, null in evaluation.json and absent from metrics.json: never NaN, never a made-up 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

Logits = NDArray[np.float32] | NDArray[np.float64]
ClassLabels = NDArray[np.int32] | NDArray[np.int64]

NO_CLASS = -1
"""The prediction for an example with a logit that is not finite: wrong, whatever its label."""

FEWEST = 10
"""Fewest examples from which a client or a class is ranked. The recall of 2 examples can only be 0, 1/2 or 1, and a
client was once called the worst for two examples of a class."""


@dataclass(frozen=True)
class ClassScores:
    """One class against all others, as fractions; None if undefined.

    precision is None if the class was never predicted, recall if it is absent.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    """test examples of this class"""


@dataclass(frozen=True)
class Scores:
    """The scores of a model on the hold-out set; all are fractions except the loss."""

    num_examples: int
    non_finite: int
    """examples with a logit that is not finite: counted as wrong"""
    loss: float | None
    """nats per example; None if any logit is not finite"""
    accuracy: float
    balanced_accuracy: float
    """mean recall of the classes that the test set holds, scikit-learn's `balanced_accuracy_score`"""
    macro_f1: float
    """mean F1 of the classes that occur as label or prediction, scikit-learn's default"""
    auc: float | None
    """area under the ROC curve of class 1; None unless there are two classes, both present, and all logits finite"""
    per_class: list[ClassScores]
    confusion: NDArray[np.int64]
    """(C, C) examples by label (row) and prediction (column); NO_CLASS has no column"""
    losses: NDArray[np.float64] | None
    """(N,) the loss of each example; None if any logit is not finite"""


@dataclass(frozen=True)
class ClientScores:
    """The scores of a model on one client's own training data."""

    num_examples: int
    loss: float | None
    accuracy: float
    support: tuple[int, ...] = ()
    """(C,) the client's examples of each class"""
    recall: tuple[float | None, ...] = ()
    """(C,) the fraction of them that is predicted right; None if there are none"""


def score(y: ClassLabels, logits: Logits) -> Scores:
    """Returns the scores of logits (N, C) against the labels y (N,), 0..C-1; N > 0."""
    num_classes = logits.shape[1]
    predictions = predict(logits)
    classes = np.arange(num_classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        y, predictions, labels=classes, zero_division=np.nan
    )
    non_finite = int((predictions == NO_CLASS).sum())
    losses = cross_entropies(y, logits)
    return Scores(
        num_examples=len(y),
        non_finite=non_finite,
        loss=None if losses is None else float(losses.mean()),
        accuracy=accuracy(y, predictions),
        balanced_accuracy=float(np.nanmean(recall)),
        macro_f1=float(np.nanmean(f1)),
        auc=None if num_classes != 2 else area_under_roc(y == 1, logits[:, 1].astype(np.float64) - logits[:, 0]),
        per_class=[
            ClassScores(_defined(precision[k]), _defined(recall[k]), _defined(f1[k]), int(support[k])) for k in classes
        ],
        confusion=confusion_matrix(y, predictions, labels=classes),
        losses=losses,
    )


def score_client(y: ClassLabels, logits: Logits) -> ClientScores:
    """Returns the scores of logits (N, C) against the labels y (N,) of one client; N > 0."""
    predictions, num_classes = predict(logits), logits.shape[1]
    support = np.bincount(y, minlength=num_classes)
    right = np.bincount(y[predictions == y], minlength=num_classes)
    recall = tuple(float(r / n) if n else None for r, n in zip(right.tolist(), support.tolist(), strict=True))
    loss = mean_cross_entropy(y, logits)
    return ClientScores(len(y), loss, accuracy(y, predictions), tuple(support.tolist()), recall)


def predict(logits: Logits) -> NDArray[np.int64]:
    """Returns (N,) the class with the largest logit, the first of equals; NO_CLASS if a logit is not finite."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), NO_CLASS)


def mean_cross_entropy(y: ClassLabels, logits: Logits) -> float | None:
    """Returns the mean of `cross_entropies`; None if a logit is not finite."""
    losses = cross_entropies(y, logits)
    return None if losses is None else float(losses.mean())


def cross_entropies(y: ClassLabels, logits: Logits) -> NDArray[np.float64] | None:
    """Returns (N,) -log softmax(logits)[y] in nats; ln C for equal logits; None if a logit is not finite.

    It is computed from the logits in float64, so that nothing is clipped. scikit-learn's `log_loss` takes
    probabilities, which lose a confident mistake of more than 36 nats.
    """
    if not np.isfinite(logits).all():
        return None
    losses: NDArray[np.float64] = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(y)), y]
    return losses


def accuracy(y: ClassLabels, predictions: ClassLabels) -> float:
    """Returns the fraction of predictions that equal the label."""
    return float((y == predictions).mean())


def area_under_roc(positive: NDArray[np.bool_], margin: NDArray[np.float64]) -> float | None:
    """Returns the probability that a positive example has a larger margin than a negative one; a tie counts one half.

    None if there are no examples of one kind, or a margin is not finite.
    """
    if positive.all() or not positive.any() or not np.isfinite(margin).all():
        return None
    return float(roc_auc_score(positive, margin))


def over_clients(clients: Mapping[str, ClientScores]) -> dict[str, float]:
    """Returns accuracy and loss over the K clients; each client counts once, whatever its size.

    `client_accuracy_worst`, `_p10`, `_mean`: the smallest, the 10th percentile (linear between neighbours) and the
    mean. A high loss is bad, so `client_loss_worst` is the largest and `client_loss_p90` the 90th percentile. Clients
    with fewer than FEWEST examples count only in the means, because one example more or less changes their rank.
    Clients without a finite loss are missing only from the loss. Without clients there is no entry.
    """
    ranked = [client for client in clients.values() if client.num_examples >= FEWEST]
    summary: dict[str, float] = {}
    if clients:
        accuracies = [client.accuracy for client in ranked]
        if accuracies:
            summary["client_accuracy_worst"] = min(accuracies)
            summary["client_accuracy_p10"] = float(np.percentile(accuracies, 10))
        summary["client_accuracy_mean"] = float(np.mean([client.accuracy for client in clients.values()]))
    losses = [client.loss for client in clients.values() if client.loss is not None]
    if losses:
        high = [client.loss for client in ranked if client.loss is not None]
        if high:
            summary["client_loss_worst"] = max(high)
            summary["client_loss_p90"] = float(np.percentile(high, 90))
        summary["client_loss_mean"] = float(np.mean(losses))
    return summary


def worst(classes: Sequence[str], test: Scores, clients: Mapping[str, ClientScores]) -> dict[str, dict[str, Any]]:
    """Returns the worst client, class of the hold-out data, and class of a client, each with its number of examples.

    The keys are `client`, `class` and `client_class`. Clients and classes with fewer than FEWEST examples are not
    ranked; of equals, the first is returned. A key without anything to rank is missing.
    """
    entries: dict[str, list[dict[str, Any]]] = {
        "client": [
            {"client": client, "accuracy": of.accuracy, "num_examples": of.num_examples}
            for client, of in clients.items()
        ],
        "class": [
            {"class": name, "recall": of.recall, "num_examples": of.support}
            for name, of in zip(classes, test.per_class, strict=True)
        ],
        "client_class": [
            {"client": client, "class": name, "recall": recall, "num_examples": support}
            for client, of in clients.items()
            for name, recall, support in zip(classes, of.recall, of.support, strict=True)
        ],
    }
    ranked = {key: [each for each in those if each["num_examples"] >= FEWEST] for key, those in entries.items()}
    return {
        key: min(those, key=lambda each: float(each["accuracy"] if "accuracy" in each else each["recall"]))
        for key, those in ranked.items()
        if those
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
