"""What speaks against single clients in a run whose loss did not rise: their labels, their features, their updates.

Each client's data are compared with hold-out data of the same classes, as a client computation that returns numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.clients import CLIENTS, Examples, Stored
from tasks.diagnose.evidence.expectations import HoldOutFeatures, feature_distance, features_by_label, structure
from tasks.diagnose.standing.judges import Judge, Judgement, features, judge_of
from tasks.diagnose.standing.learnable import learnable_by_itself
from tasks.diagnose.standing.outlying import FEWEST, heights
from tasks.diagnose.thresholds import LEARNABLE, SHARP, SHIFTED, STRUCTURED, WORSE_ACCURACY
from tasks.local.features import correlation, means_by_label
from tasks.local.on_examples import on_examples
from tasks.runtime.carry import at_clients
from tasks.runtime.check_in import CheckedIn, check_in
from tasks.runtime.failed import Failed
from tasks.settings import Settings

T = TypeVar("T")

_TESTS = 3
"""Numbers of a client that are tested: its labels by two judges, and its features."""
_DRAWS = 20
"""Random samples of the hold-out data, with repeats, from which it is known how far features of a sample are."""
_LARGEST_SAMPLE = 512
"""Most examples of such a part: a larger sample is nearer still."""


@dataclass(frozen=True)
class Examined:
    """One client's data beside the hold-out data.

    Attributes:
        client: id.
        num_examples: of it.
        judgements: judge to how the client's labels agree with it.
        heights: judge to how far the disagreement is above the median client's, over the limit: above 1 is apart.
        distance: of its features to those of hold-out data of the same predicted labels (`feature_distance`).
        far: how far `distance` is above the median client's, over the limit: above 1 is apart.
        learnable: accuracy on a part of the client's data after training on the others, and the share of the most
            frequent label; None if not measured.
        structure: see `expectations.structure`; NaN if not measured.
    """

    client: str
    num_examples: int
    judgements: Mapping[str, Judgement]
    heights: Mapping[str, float] = field(default_factory=dict)
    distance: float = np.nan
    far: float = 0.0
    learnable: tuple[float, float] | None = None
    structure: float = np.nan

    @property
    def judged_by(self) -> str | None:
        """The judge that the client's labels contradict most; None if they contradict none."""
        against = [name for name, height in self.heights.items() if height > 1]
        able = [name for name in against if self.judgements[name].deficit > WORSE_ACCURACY]
        return max(able, key=lambda name: self.heights[name], default=None)

    @property
    def judgement(self) -> Judgement | None:
        """By the judge that its labels contradict most."""
        return self.judgements[self.judged_by] if self.judged_by else None

    @property
    def is_far(self) -> bool:
        """Whether its features stand apart from those of all other clients, and are far from the hold-out data."""
        return self.far > 1 and self.distance > SHIFTED

    @property
    def is_suspect(self) -> bool:
        """Whether its labels contradict a judge, or its features stand apart."""
        return bool(self.judged_by) or self.is_far

    @property
    def is_shifted(self) -> bool:
        """Whether its features stand apart, and its data make sense: another device, and no fault."""
        return self.is_far and self.makes_sense

    @property
    def makes_sense(self) -> bool:
        """Whether the data are no noise: the features hang together, or labels follow from them."""
        if self.structure > STRUCTURED or self.learnable is None:
            return True
        accuracy, most_frequent = self.learnable
        return accuracy > most_frequent + LEARNABLE * (1 - most_frequent)


@dataclass(frozen=True)
class Examination:
    """What the clients' data show.

    Attributes:
        clients: those that could be examined, by id.
        judges: that judged them.
        failed: client to why it could not be examined.
    """

    clients: Mapping[str, Examined]
    judges: tuple[Judge, ...]
    failed: Mapping[str, str]

    @property
    def compares(self) -> bool:
        """Whether there are enough clients for one to stand apart."""
        return len(self.clients) >= FEWEST

    @property
    def suspects(self) -> tuple[str, ...]:
        """The clients whose labels contradict a judge, or whose features stand apart."""
        return tuple(name for name, each in self.clients.items() if each.is_suspect)

    @property
    def disputed(self) -> tuple[str, ...]:
        """The clients that contradict the hold-out data, if half of all do: then it is not known who is right."""
        against = [name for name in self.clients if name in {*self.disagreeing, *self.suspects}]
        return tuple(against) if 2 * len(against) >= len(self.clients) and against else ()

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """The clients of which more labels contradict the hold-out data than by chance, whatever the others do."""
        found = []
        for name, each in self.clients.items():
            judged = each.judgements.get("features")
            if judged and judged.deficit > max(WORSE_ACCURACY, 4 * np.sqrt(judged.variance)):
                found.append(name)
        return tuple(found)


class Sites(Protocol):
    """The clients' data where they are, and the hold-out data."""

    @property
    def test(self) -> Examples:
        """The hold-out data."""

    @property
    def num_classes(self) -> int:
        """C."""

    def at_clients(
        self, compute: Callable[[Examples], T], clients: tuple[str, ...] | None = None
    ) -> Mapping[str, T | Failed]:
        """Returns what a client computation gives at each of `clients` (None: all)."""


class StoredSites:
    """The clients' data where they are; a simulated fault of the data is in them, as it is in the run's last round."""

    def __init__(self, settings: Settings, workspace: Path, last: int) -> None:
        """Lets the clients check in. `last` is the last round of the run, which may have ended early.

        Raises:
            UndriftError: the data are missing, or not those that the settings can train on.
        """
        self._settings, self._last = settings, last
        self.checked_in: CheckedIn = check_in((workspace / CLIENTS).resolve(), settings.federate.exclude)

    @property
    def test(self) -> Examples:
        """The hold-out data."""
        return self.checked_in.test

    @property
    def num_classes(self) -> int:
        """C."""
        return self.checked_in.form.num_classes

    def at_clients(
        self, compute: Callable[[Examples], T], clients: tuple[str, ...] | None = None
    ) -> dict[str, T | Failed]:
        """Returns what a client computation gives at each of `clients` (None: all)."""
        stored = self.checked_in.stored
        chosen = stored if clients is None else {client: stored[client] for client in clients}
        return at_clients(partial(self._on_its_examples, compute), chosen)

    def _on_its_examples(self, compute: Callable[[Examples], T], stored: Stored) -> T:
        simulated = self._settings.federate.faults
        if stored.client not in simulated.clients:
            return on_examples(compute, stored)
        from tasks.local import faults  # its import takes TensorFlow's

        def with_fault(examples: Examples) -> T:
            return compute(
                faults.with_fault(
                    simulated,
                    self._settings.seed,
                    self._last,
                    stored.client,
                    examples,
                    self.num_classes,
                )
            )

        return on_examples(with_fault, stored)


def examine(sites: Sites, significance: float, accuracy: float | None, look: Callable[[], Judge | None]) -> Examination:
    """Returns what the clients' data show.

    A judge of the features alone needs no model. Where it gets fewer than SHARP of the hold-out examples right, and the
    model gets more, a judge that sees the model's logits is asked, too.

    Args:
        sites: the clients' data.
        significance: the probability of any suspect among equal clients.
        accuracy: of the global model on the hold-out data, a fraction; None if it is not known.
        look: () -> the judge that sees the model's logits; None if there is no model.
    """
    # NumPy's BLAS divides these small products among all cores, which takes ten times as long on busy ones.
    with threadpool_limits(1, "blas"):
        return _examined(sites, significance, accuracy, look)


def _examined(
    sites: Sites, significance: float, accuracy: float | None, look: Callable[[], Judge | None]
) -> Examination:
    judges = [judge for judge in [judge_of("features", features, sites.test)] if judge]
    blunt = not judges or judges[0].accuracy < SHARP
    if blunt and (accuracy is None or not judges or accuracy > judges[0].accuracy):
        judges += [judge for judge in [look()] if judge]
    if not judges:
        return Examination({}, (), {})
    sharpest = max(judges, key=lambda judge: judge.accuracy)
    hold_out = features_by_label(sites.test[0], sharpest.predicted(sites.test[0]))

    def compute(examples: Examples) -> tuple[dict[str, Judgement], float, int]:
        judged = {judge.name: judge.judgement(examples, sites.num_classes) for judge in judges}
        means = means_by_label(examples[0], sharpest.predicted(examples[0]))
        return judged, feature_distance(means, hold_out), len(examples[1])

    answers = sites.at_clients(compute)
    failed = {client: answer.reason for client, answer in answers.items() if isinstance(answer, Failed)}
    found = {
        client: Examined(client, answer[2], answer[0], distance=answer[1])
        for client, answer in answers.items()
        if not isinstance(answer, Failed)
    }
    found = _compared(found, judges, _samples(sites.test, sharpest, hold_out), significance / _TESTS)
    examination = Examination(found, tuple(judges), failed)
    return replace(examination, clients={**found, **_sense(sites, found, examination.suspects)})


def _compared(
    found: Mapping[str, Examined], judges: list[Judge], samples: Callable[[int], float], significance: float
) -> dict[str, Examined]:
    """The clients with their heights over the limit."""
    each = list(found.values())
    over: list[dict[str, float]] = [{} for _ in each]
    for judge in judges:
        judged = [one.judgements[judge.name] for one in each]
        apart = heights([one.deficit for one in judged], [one.variance for one in judged], significance)
        for place, height in enumerate(apart):
            over[place][judge.name] = float(np.nan_to_num(height))
    near = [samples(one.num_examples) ** 2 for one in each]
    far = heights([one.distance for one in each], near, significance)
    return {
        one.client: replace(one, heights=over[place], far=float(np.nan_to_num(far[place])))
        for place, one in enumerate(each)
    }


def _samples(test: Examples, judge: Judge, hold_out: HoldOutFeatures) -> Callable[[int], float]:
    """(N) -> the largest distance of _DRAWS random samples of N hold-out examples from all of them."""
    known: dict[int, float] = {}
    predicted = judge.predicted(test[0])

    def largest(num: int) -> float:
        # A power of two: otherwise there are as many draws as there are sizes of clients.
        size = 1 << min(num, _LARGEST_SAMPLE).bit_length() - 1
        if size not in known:
            rng = np.random.default_rng(size)
            parts = rng.integers(0, len(predicted), (_DRAWS, size))
            drawn = [feature_distance(means_by_label(test[0][part], predicted[part]), hold_out) for part in parts]
            known[size] = max(*drawn, SHIFTED / 10)
        return known[size]

    return largest


def _sense(sites: Sites, found: Mapping[str, Examined], clients: tuple[str, ...]) -> dict[str, Examined]:
    """The clients of `clients`, with whether their data make sense."""
    if not clients:
        return {}
    of_hold_out = correlation(sites.test[0])

    def compute(examples: Examples) -> tuple[tuple[float, float] | None, float]:
        return learnable_by_itself(examples), structure(correlation(examples[0]), of_hold_out)

    answers = sites.at_clients(compute, clients)
    return {
        client: replace(found[client], learnable=answer[0], structure=answer[1])
        for client, answer in answers.items()
        if not isinstance(answer, Failed)
    }


def model_judge(logits: Callable[[NDArray[np.float32]], NDArray[np.float32]], test: Examples) -> Judge | None:
    """Returns the judge that sees the global model's logits of examples."""
    return judge_of("model", lambda x: np.asarray(logits(x), np.float64), test)
