"""Does the model overfit, or are the hold-out data unlike the clients' data? Some clients train no part of a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.thresholds import CONFLICT_LOSS, UNSEEN
from tasks.errors import SettingsError
from tasks.local.probe import Probe, Spread
from tasks.parameters import Params

Spreads = Mapping[int, Spread]
"""Losses by label."""


@dataclass(frozen=True)
class Compared:
    """The mean losses of a model on three groups of examples, nats per example.

    Each is a mean over labels, with the same weight of a label in all three. A label weighs as many examples as the
    left-out clients or the other clients have of it, whichever are fewer: a label that one side lacks compares nothing.

    Attributes:
        trained: loss on the data of the clients that took part.
        loss: loss on the data of the clients that took no part.
        hold_out: loss on the hold-out data.
        error: standard error of `hold_out` less `loss`: the examples of each label are a sample.
    """

    trained: float
    loss: float
    hold_out: float
    error: float

    @property
    def share(self) -> float:
        """How far the unseen clients' loss is on the way from the training loss to the hold-out loss.

        1 if unseen clients' data are like the hold-out data, 0 if they are like the training data. NaN if the hold-out
        loss is not above the training loss.
        """
        gap = self.hold_out - self.trained
        return (self.loss - self.trained) / gap if gap > 0 else np.nan

    @property
    def overfits(self) -> bool:
        """Whether data that were not trained on have a high loss, also if they are the clients' data."""
        return bool(self.share >= UNSEEN)

    def unlike(self, deviations: float) -> bool:
        """Returns whether the hold-out data are unlike the clients' data.

        1. The clients' unseen data are nearer to the training data than to the hold-out data.
        2. The hold-out loss is above their loss by more than so many standard errors.
        3. It contradicts the model as a client's data would: it is more than CONFLICT_LOSS times their loss.
        """
        beyond_chance = self.hold_out - self.loss > deviations * self.error
        return bool(self.share < UNSEEN and beyond_chance and self.hold_out > CONFLICT_LOSS * self.loss)


@dataclass(frozen=True)
class Unseen(Compared):
    """The losses of a model that was trained without some clients.

    Attributes:
        clients: the clients that took no part.
        from_round: round of the model that training began with.
        last: its last round.
        by_round: (hold-out loss, unseen clients' loss) after each round.
    """

    clients: tuple[str, ...]
    from_round: int
    last: int
    by_round: tuple[tuple[float, float], ...] = ()


def halves(clients: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns every second client, and the others; the first half is empty if there is only one client."""
    return tuple(clients[1::2]), tuple(clients[::2])


def earliest_start(replays: Replayer, last: int, most_rounds: int) -> int | None:
    """Returns the earliest known model from which training up to round `last` takes at most `most_rounds` rounds.

    A later model has seen the left-out clients' data. Their loss is then lower, so overfitting is rather missed than
    claimed.
    """
    return next((r for r in replays.saved if r <= replays.from_round and last - r <= most_rounds), None)


def unseen_losses(
    replays: Replayer, probe: Probe, start: int, last: int, left_out: tuple[str, ...], seed: int = 0
) -> Unseen | None:
    """Returns the losses of a model that the clients in `left_out` do not train, in the rounds after `start`.

    None if (1) the settings do not allow it, (2) there is no other client, or (3) the left-out clients and the other
    clients have no label in common with the hold-out data.
    """
    others = [client for client in replays.cohort.clients if client not in left_out]
    if not left_out or not others:
        return None
    try:
        replay = replays.begin_after(start, Change("without half of the clients", without=left_out), seed)
    except SettingsError:
        return None
    test = replays.cohort.test_x, replays.cohort.test_y
    after: list[tuple[Spreads, Spreads]] = []
    for round_num in range(start + 1, last + 1):
        replays.advance(replay, round_num)
        params = np.asarray(replay.state.params)
        after.append((probe.spread(params, test), _spreads(replays, probe, params, left_out)))
    seen = _spreads(replays, probe, np.asarray(replay.state.params), others)
    by_round = [compared(seen, unseen, hold_out) for hold_out, unseen in after]
    if not by_round or by_round[-1] is None:
        return None
    losses = tuple((each.hold_out, each.loss) for each in by_round if each is not None)
    return Unseen(**vars(by_round[-1]), clients=left_out, from_round=start, last=last, by_round=losses)


def compared(seen: Spreads, unseen: Spreads, test: Spreads) -> Compared | None:
    """Returns the losses with the labels' weights of `Compared`; None if no label compares.

    Args:
        seen: losses on the data of the clients that trained the model.
        unseen: on the data of the clients that did not.
        test: on the hold-out data.
    """
    labels = [label for label in test if label in seen and label in unseen]
    if not labels:
        return None
    weights = np.array([min(seen[label].number, unseen[label].number) for label in labels], np.float64)
    weights /= weights.sum()
    trained, loss, hold_out = (float(weights @ [side[label].mean for label in labels]) for side in (seen, unseen, test))
    variances = [side[label].variance / side[label].number for side in (unseen, test) for label in labels]
    return Compared(trained, loss, hold_out, float(np.sqrt(np.tile(weights, 2) ** 2 @ variances)))


def together(spreads: Iterable[Spreads]) -> dict[int, Spread]:
    """Returns the spread of the losses of all clients, by label."""
    totals: dict[int, Spread] = {}
    for by_label in spreads:
        for label, more in by_label.items():
            known = totals.get(label, Spread(0, 0.0, 0.0))
            number = known.number + more.number
            mean = (known.number * known.mean + more.number * more.mean) / number
            squares = sum(one.number * (one.variance + (one.mean - mean) ** 2) for one in (known, more))
            totals[label] = Spread(number, mean, squares / number)
    return totals


def _spreads(replays: Replayer, probe: Probe, params: Params, clients: Iterable[str]) -> dict[int, Spread]:
    return together(replays.at_clients(lambda _, examples: probe.spread(params, examples), clients).values())
