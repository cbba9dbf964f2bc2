"""A model that learns its training data by heart."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import every_client, measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.thresholds import APART


def _ended(at: Situation) -> dict[str, Any]:
    """Returns the settings of a run that ends before the rise."""
    return {"federate.rounds": max(1, at.last_sound)}


def _candidates(at: Situation) -> list[Candidate]:
    train, held_out = at.findings.train_trend, at.findings.val_trend
    if not (train < -APART and held_out > -APART / 2 and held_out - train > APART):
        return []
    # Training that ends before a rise cannot rise, whatever its cause: a training loss that rose is another cause.
    if not at.findings.train_rise <= 0:
        return []
    return [Candidate("overfitting", Change(f"with training ended after round {at.last_sound}", _ended(at)))]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    train, held_out = at.findings.train_trend, at.findings.val_trend
    yield Indication(
        "train_trend",
        train,
        0.0,
        f"From the first to the second half of these rounds, the loss on the hold-out data changed by "
        f"{100 * math.expm1(held_out):+.0f} % and the loss on the training data by {100 * math.expm1(train):+.0f} %: "
        "the model overfits the training data.",
    )
    unseen = at.findings.unseen
    if unseen is not None:
        yield Indication(
            "loss_of_unseen_clients",
            unseen.loss,
            unseen.hold_out,
            f"A model was trained from round {unseen.from_round} to {unseen.last} without "
            f"{every_client(unseen.clients)}. Its loss is {measured(unseen.trained)} on its training data, "
            f"{measured(unseen.loss)} on the data of these clients, and {measured(unseen.hold_out)} on the hold-out "
            "data. So data that it was not trained on have a high loss, wherever they come from.",
        )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    return [
        Remedy(f"end training after round {at.last_sound}", _ended(at)),
        Remedy("set the weight decay to 0.02", {"federate.client.weight_decay": 0.02}),
        Remedy("set the weight decay to 0.1", {"federate.client.weight_decay": 0.1}),
        slower(at)[0],
    ]


OVERFITTING = CauseKind(
    words=Words(
        "overfitting",
        "the model overfits the training data of {}",
        "the model overfits its training data",
        "The loss on the training data keeps falling, but the loss on the hold-out data rises.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    harms_the_model=True,
)
