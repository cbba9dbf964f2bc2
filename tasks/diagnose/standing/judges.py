"""Do a client's labels agree with the hold-out data? Judges that were trained on the hold-out data alone.

A model that was trained on wrong labels has learnt some of them. Where their client is large, it agrees with them and
contradicts everybody else. The hold-out data were never at a client, so a judge that knows nothing else is impartial.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Floats, Ints
from tasks.clients import Examples

_COMPONENTS = 50
"""Most principal components of the features that a judge looks at."""
_EXAMPLES = 2_000
"""Most hold-out examples that train a judge."""
_FOLDS = 5
"""Parts into which the hold-out data are divided: each is judged by a judge of the others."""
_FEWEST = 10
"""Fewest hold-out examples of a judge."""

_FAR = 1e12
"""Largest number that a judge sees: a model that diverged gives infinite logits."""

Look = Callable[[NDArray[np.float32]], Floats]
"""x (N, ...) -> what the judge sees of it, (N, F)."""


@dataclass(frozen=True)
class Judge:
    """A classifier of examples that was trained on hold-out data.

    Attributes:
        name: `features` if it sees the examples, `model` if it sees the global model's logits of them.
        labels: (J,) the labels that it knows, sorted.
        recalls: (J,) how many of the hold-out examples of each label it gets right when it was not trained on them, a
            fraction; the hits are counted with half a hit and half a miss on top, so no label has 0 or 1.
        counts: (J,) hold-out examples of each label that were judged.
        sure: (J,) mean probability that it gives the right label on hold-out examples of each label, when it was not
            trained on them: t_j of confident learning (Northcutt 2021, equation 2).
        accuracy: on hold-out examples that it was not trained on, a fraction.
    """

    name: str
    labels: Ints
    recalls: Floats
    counts: Ints
    sure: Floats
    accuracy: float
    look: Look
    classifier: Any

    @cached_property
    def places(self) -> dict[int, int]:
        """The place of each label in `labels`."""
        return {int(label): place for place, label in enumerate(self.labels)}

    def predicted(self, x: NDArray[np.float32]) -> Ints:
        """Returns the label that it takes each example for, (N,)."""
        return np.asarray(self.labels[self._probabilities(x).argmax(axis=1)], np.int64)

    def judgement(self, examples: Examples, num_classes: int) -> "Judgement":
        """Returns how a client's labels agree with it; a client computation.

        Args:
            examples: of the client, x (N, ...) and y (N,).
            num_classes: C.
        """
        x, y = examples
        probabilities = self._probabilities(x)
        known = np.isin(y, self.labels)
        places = np.array([self.places[int(label)] for label in y[known]], np.int64)
        right = probabilities[known].argmax(axis=1) == places
        above = np.where(probabilities >= self.sure, probabilities, -1.0)
        confident, best = above.max(axis=1) >= 0, above.argmax(axis=1)
        given = np.bincount(y, minlength=num_classes)
        joint = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(joint, (y[confident], self.labels[best[confident]]), 1)
        num = int(known.sum())
        if not num:
            return Judgement(0, np.nan, np.nan, np.nan, given, joint)
        share = np.bincount(places, minlength=len(self.labels)) / num
        usual = self.recalls * (1 - self.recalls)
        variance = float(share @ usual / num + share**2 @ (usual / self.counts))
        return Judgement(num, float(right.mean()), float(share @ self.recalls), variance, given, joint)

    def _probabilities(self, x: NDArray[np.float32]) -> Floats:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(self.classifier.predict_proba(_finite(self.look(x))), np.float64)


@dataclass(frozen=True)
class Judgement:
    """How a client's labels agree with a judge.

    Attributes:
        num_examples: with a label that the judge knows.
        accuracy: the share of them whose label is the judge's; NaN without any.
        expected: the share that would be if the client's data were like hold-out data of the same labels.
        variance: of `accuracy` around `expected`, by the number of examples of the client and of the hold-out data.
        given: (C,) the client's examples of each label.
        joint: (C, C) examples of each label (rows) that the judge confidently takes for each label (columns): the
            confident joint (Northcutt 2021, equation 1).
    """

    num_examples: int
    accuracy: float
    expected: float
    variance: float
    given: Ints
    joint: Ints

    @property
    def deficit(self) -> float:
        """How far the agreement is below what is expected, a fraction of the examples."""
        return self.expected - self.accuracy


def judge_of(name: str, look: Look, test: Examples) -> Judge | None:
    """Returns a judge that sees examples by `look`, trained on the hold-out data.

    It is a logistic regression on the principal components, which need no label. None if the hold-out data have fewer
    than two labels with two examples, or fewer than 10 examples: a judge could not be checked.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kept = np.random.default_rng(0).permutation(len(test[1]))[:_EXAMPLES]
    counts = np.bincount(test[1][kept])
    kept = kept[counts[test[1][kept]] > 1]
    y = test[1][kept]
    labels = np.unique(y)
    if len(y) < _FEWEST or len(labels) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge to the last digit
        seen = _finite(look(test[0][kept]))
        num = min(_COMPONENTS, seen.shape[1], len(y) // 2)
        sight = make_pipeline(StandardScaler(), PCA(num, random_state=0)).fit(seen)
        parts = sight.transform(seen)
        probabilities = np.zeros((len(y), len(labels)))
        for rows, left in KFold(min(_FOLDS, len(y))).split(parts):
            if len(np.unique(y[rows])) < 2:
                return None
            fold = LogisticRegression(max_iter=300).fit(parts[rows], y[rows])
            probabilities[np.ix_(left, np.searchsorted(labels, fold.classes_))] = fold.predict_proba(parts[left])
        classifier = make_pipeline(sight, LogisticRegression(max_iter=300)).fit(seen, y)
    places = np.searchsorted(labels, y)
    right = probabilities.argmax(axis=1) == places
    number = np.bincount(places)
    recalls = (np.bincount(places, weights=right) + 0.5) / (number + 1)
    sure = np.bincount(places, weights=probabilities[np.arange(len(y)), places]) / number
    return Judge(name, labels, recalls, number, sure, float(right.mean()), look, classifier)


def _finite(seen: Floats) -> Floats:
    """What a judge sees, with numbers that are so small that their squares can be added up."""
    return np.clip(np.nan_to_num(np.asarray(seen, np.float64)), -_FAR, _FAR)


def features(x: NDArray[np.float32]) -> Floats:
    """Returns the features (N, F) of examples (N, ...)."""
    return np.asarray(x.reshape(len(x), -1), np.float64)
