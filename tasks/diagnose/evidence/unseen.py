"""Does the model overfit, or are the hold-out data unlike the clients' data? Some clients train no part of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.thresholds import UNSEEN
from tasks.errors import SettingsError
from tasks.local.probe import Fit, Probe


@dataclass(frozen=True)
class Unseen:
    """The losses of a model that was trained without some clients, nats per example.

    Each is a mean over labels, with the same weight of a label in all three. A label weighs as many examples as the
    left-out clients or the other clients have of it, whichever are fewer: a label that one side lacks compares nothing.

    Attributes:
        clients: the clients that took no part.
        from_round: round of the model that training began with.
        last: its last round.
        trained: loss on the data of the clients that took part.
        loss: loss on the data of the clients that took no part.
        hold_out: loss on the hold-out data.
    """

    clients: tuple[str, ...]
    from_round: int
    last: int
    trained: float
    loss: float
    hold_out: float

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


def unseen_losses(replays: Replayer, probe: Probe, last: int, most_rounds: int) -> Unseen | None:
    """Returns the losses of a model that every second client did not train, after round `last`.

    Training begins with the earliest known model from which it takes at most `most_rounds` rounds. A later model has
    seen the left-out clients' data. Their loss is then lower, so overfitting is rather missed than claimed.

    None if (1) no known model is near enough, (2) the settings do not allow it, (3) there is only one client, or (4)
    the left-out clients and the other clients have no label in common.
    """
    early = [saved for saved in replays.saved if saved <= replays.from_round and last - saved <= most_rounds]
    clients = list(replays.cohort.clients)
    left_out = tuple(clients[1::2])
    if not early or not left_out:
        return None
    try:
        replay = replays.begin_after(early[0], Change("without every second client", without=left_out))
    except SettingsError:
        return None
    replays.advance(replay, last)
    params = np.asarray(replay.state.params)
    fits = replays.at_clients(lambda _, examples: probe.fit(params, examples))
    losses = compared(
        {client: fits[client] for client in clients if client not in left_out},
        {client: fits[client] for client in left_out},
        probe.fit(params, (replays.cohort.test_x, replays.cohort.test_y)),
    )
    return None if losses is None else Unseen(left_out, early[0], last, *losses)


def compared(seen: Mapping[str, Fit], unseen: Mapping[str, Fit], test: Fit) -> tuple[float, float, float] | None:
    """Returns the losses (trained, unseen, hold-out) with the labels' weights of `Unseen`; None if no label compares.

    Args:
        seen: client to how the model does on its data, of the clients that trained the model.
        unseen: the same of the clients that did not.
        test: how the model does on the hold-out data.
    """
    trained, other = _by_label(seen), _by_label(unseen)
    held_out = {label: loss for label, (_, loss, _) in test.by_label.items()}
    labels = [label for label in held_out if label in trained and label in other]
    if not labels:
        return None
    weights = [min(trained[label][0], other[label][0]) for label in labels]
    means = [
        np.average([loss_of[label] for label in labels], weights=weights)
        for loss_of in (*({label: loss for label, (_, loss) in side.items()} for side in (trained, other)), held_out)
    ]
    return float(means[0]), float(means[1]), float(means[2])


def _by_label(fits: Mapping[str, Fit]) -> dict[int, tuple[int, float]]:
    """Label to (examples, mean loss) over all clients."""
    totals: dict[int, tuple[int, float]] = {}
    for fit in fits.values():
        for label, (count, loss, _) in fit.by_label.items():
            known, total = totals.get(label, (0, 0.0))
            totals[label] = known + count, total + count * loss
    return {label: (count, total / count) for label, (count, total) in totals.items()}
