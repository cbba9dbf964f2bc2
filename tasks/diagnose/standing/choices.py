"""Settings that may be in the way: steps too small to get anywhere, or too large to get lower, and long local work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.causes.base import Indication, Remedy
from tasks.diagnose.causes.server_learning_rate import plain_averaging
from tasks.diagnose.causes.shared import FEDPROX, SCAFFOLD, client_rate, server_rate
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.effect import ln
from tasks.diagnose.replay.surgery import labels_dealt_evenly
from tasks.diagnose.standing.suspicion import Option, Suspicion
from tasks.diagnose.thresholds import HALF_LEARNED, SKEWED_LABELS
from tasks.round_log.read import ClientLog, RoundLog
from tasks.settings import Settings

_TIMES = (1, 10, 100)
"""Times the least factor by which a low rate is multiplied, one after the other."""
_LARGEST = 1e6
"""Largest least factor, a power of ten: if nothing moved at all, the least factor is not known."""
_UNDONE = 0.5
"""Steps are too large to get lower if the rises of the second half undo this share of its falls: none if every step
goes downhill, all if the run gets nowhere. Origin: theory; the middle."""
_SWING = 0.1
"""And if the log loss changes by this from round to round: near its lowest, a loss goes up and down by less. Origin: by
hand."""


@dataclass(frozen=True)
class Course:
    """How the run went, in numbers of its logs.

    Attributes:
        first: loss of the first model, nats per example.
        last: hold-out loss at the end, nats per example.
        path: sum of the lengths of the server's steps, an upper bound of how far the model moved.
        undone: sum of the rises of the log hold-out loss over the sum of its falls, from round to round in the second
            half; infinite if it never fell.
        swing: mean size of these changes.
        raises: share of the clients' rows of the second half in which local training raised the client's own loss.
    """

    first: float
    last: float
    path: float
    undone: float
    swing: float
    raises: float


def course_of(rounds: RoundLog, log: ClientLog, first: float, last: float) -> Course:
    """Returns the course of a run from its logs, without the rounds of pruning."""
    trained = ~rounds.pruning
    losses = rounds.losses["val_loss"].values[trained & rounds.losses["val_loss"].given]
    half = losses[len(losses) // 2 :]
    steps = np.diff([ln(loss) for loss in half])
    falls = -float(steps[steps < 0].sum())
    undone = float(steps[steps > 0].sum()) / falls if falls > 0 else np.inf
    swing = float(np.abs(steps).mean()) if len(steps) else 0.0
    middle = (int(log.rounds.min()) + int(log.rounds.max())) / 2 if len(log.rounds) else 0.0
    before, after = (log.signals.get(name, np.full(len(log.rounds), np.nan)) for name in ("loss_before", "loss_after"))
    rows = (log.rounds > middle) & np.isfinite(before) & np.isfinite(after)
    raises = float(np.mean(after[rows] > before[rows])) if rows.any() else np.nan
    moved = rounds.server_steps
    path = float(np.nansum(moved.values[trained & moved.given])) if moved else np.nan
    return Course(first, last, path, undone, swing, raises)


def of_settings(
    course: Course, settings: Settings, label_skew: float, slope: Callable[[], float]
) -> Iterator[Suspicion]:
    """Yields the suspicions of settings.

    Args:
        course: of the run.
        settings: of the run.
        label_skew: mean distance of the clients' label mixes to that of all data, 0 to 2.
        slope: () -> length of the gradient of the loss at the first model, nats per unit of the parameters.
    """
    # A model that has left half of its loss behind has moved.
    if course.last > HALF_LEARNED * course.first and course.path * slope() < HALF_LEARNED * course.first:
        yield from _too_low(course, settings, slope())
        return
    yield from _too_high(course, settings)
    work = settings.federate.local_work
    if label_skew > SKEWED_LABELS and work.kind == "same" and work.epochs > 1:
        yield _long_work(settings, label_skew)


def _too_low(course: Course, settings: Settings, slope: float) -> Iterator[Suspicion]:
    optimizer, rate = settings.federate.server_optimizer, settings.federate.client.learning_rate
    evidence = Indication(
        "path_times_slope",
        course.path * slope,
        course.first,
        f"All steps of the server together are {measured(course.path)} long. At the first model the loss falls by "
        f"{measured(slope)} for each unit of length, so even straight downhill they lower it by about "
        f"{measured(course.path * slope)} of {measured(course.first)}.",
    )
    # With less than this, straight downhill, the steps cannot lower the loss to 0; training is never as straight.
    most = max(course.path * slope, course.first / _LARGEST)
    factors = [10 ** float(np.ceil(np.log10(course.first / most))) * times for times in _TIMES]
    if (optimizer.kind, optimizer.learning_rate) != ("sgd", 1.0):
        options = [_plain(settings)]
        if optimizer.kind != "sgd":
            options += [_server_rate(optimizer.learning_rate * factor) for factor in factors]
        yield Suspicion("server_learning_rate", (), "too_low", (evidence,), tuple(options), choice=True)
    options = [_client_rate(rate * factor) for factor in factors]
    yield Suspicion("client_learning_rate", (), "too_low", (evidence,), tuple(options), choice=True)


def _too_high(course: Course, settings: Settings) -> Iterator[Suspicion]:
    optimizer, rate = settings.federate.server_optimizer, settings.federate.client.learning_rate
    evidence = tuple(_signs_of_long_steps(course))
    if not evidence:
        return
    if (optimizer.kind, optimizer.learning_rate) != ("sgd", 1.0):
        lower = [] if optimizer.kind == "sgd" else [_server_rate(optimizer.learning_rate / by) for by in (10, 100)]
        yield Suspicion("server_learning_rate", (), "", evidence, (_plain(settings), *lower), choice=True)
    options = [_client_rate(rate / by) for by in (3, 10, 100)]
    yield Suspicion("client_learning_rate", (), "", evidence, tuple(options), choice=True)


def _signs_of_long_steps(course: Course) -> Iterator[Indication]:
    """Yields what says that the steps are too large; nothing if the run got somewhere."""
    swings = course.undone >= _UNDONE and course.swing >= _SWING
    if swings:
        yield Indication(
            "undone",
            course.undone,
            0.0,
            f"In the second half of the run, the hold-out loss changes by {100 * np.expm1(course.swing):.0f} % from "
            f"round to round, and {_undoing(course.undone)}. Steps that go downhill lower it.",
        )
    nowhere = np.isfinite(course.path) and course.last > HALF_LEARNED * course.first
    if nowhere:
        yield Indication(
            "last_over_first",
            course.last / course.first if course.first > 0 else np.inf,
            HALF_LEARNED,
            f"At the end the hold-out loss is {measured(course.last)}; the first training loss was "
            f"{measured(course.first)}, and the model moved far enough to leave half of that behind.",
        )
    if (swings or nowhere) and course.raises > 0.5:
        yield Indication(
            "raises",
            course.raises,
            0.0,
            f"In the second half of the run, local training raised the loss on the client's own data in "
            f"{100 * course.raises:.0f} % of the cases. Training is meant to lower it.",
        )


def _undoing(undone: float) -> str:
    if not np.isfinite(undone):
        return "it never falls"
    return f"its rises undo {measured(undone)} times as much as its falls gain"


def _long_work(settings: Settings, label_skew: float) -> Suspicion:
    epochs = settings.federate.local_work.epochs
    evidence = Indication(
        "label_skew",
        label_skew,
        0.0,
        f"The mean distance of the clients' label mixes to the mix of all data is {label_skew:.2f} (0 is the same mix, "
        f"2 is no label in common), and each client trains {epochs} epochs a round on its own mix.",
    )
    even = Change(
        "with the same label mix at every client", surgery={"labels dealt evenly": labels_dealt_evenly(settings.seed)}
    )
    once = Remedy("train one local epoch a round", {"federate.local_work.epochs": 1})
    others = [_option("with SCAFFOLD", SCAFFOLD), _option("with one local epoch a round", once)]
    others.append(_option("with FedProx", FEDPROX))
    return Suspicion("label_skew", (), "", (evidence,), tuple(others), choice=True, change=even)


def _plain(settings: Settings) -> Option:
    return _option("with plain averaging on the server", plain_averaging(settings))


def _server_rate(rate: float) -> Option:
    return _rate("server", server_rate(rate))


def _client_rate(rate: float) -> Option:
    return _rate("client", client_rate(rate))


def _rate(whose: str, remedy: Remedy) -> Option:
    (value,) = remedy.settings.values()
    return _option(f"at a {whose} learning rate of {value:g}", remedy)


def _option(says: str, remedy: Remedy) -> Option:
    return Option(Change(says, remedy.settings), remedy)
