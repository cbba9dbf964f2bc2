"""Hold-out data that are unlike the clients' data, so that the hold-out loss says nothing of the model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import every_client, measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.thresholds import APART

if TYPE_CHECKING:  # its import takes TensorFlow's
    from tasks.diagnose.evidence.unseen import Unseen

OTHER_HALF = "with half of the clients left out of training, scored on the clients that were left out"


def _candidates(at: Situation) -> list[Candidate]:
    findings = at.findings
    # What is wrong with the hold-out data raises no training loss.
    if not findings.train_rise <= 0:
        return []
    # The first weights contradict nothing.
    parts = findings.val_trend - findings.train_trend > APART and findings.train_trend < -APART
    if not (findings.hold_out_in_conflict or (parts and at.last_sound == 0)):
        return []
    return [Candidate("hold_out_shift", Change(OTHER_HALF), replayed=False)]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    if at.findings.unseen is not None:
        yield from unlike_evidence([at.findings.unseen])


def unlike_evidence(folds: "Sequence[Unseen]") -> Iterator[Indication]:
    """Yields what each model says that was trained without some clients."""
    for fold in folds:
        yield Indication(
            "hold_out_loss_beside_unseen_clients",
            fold.hold_out,
            fold.loss,
            f"A model was trained from round {fold.from_round} to {fold.last} without {every_client(fold.clients)}. "
            f"Its loss is {measured(fold.trained)} on its training data, and {measured(fold.loss)} on the data of "
            "these clients, which it has never seen. On hold-out data with the same labels, it is "
            f"{measured(fold.hold_out)}.",
        )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients, at
    return [
        Remedy(
            "compare the hold-out data with the clients' data: their labels, the range of their features, and how both "
            "were prepared; the model itself may be as good as ever"
        )
    ]


HOLD_OUT_SHIFT = CauseKind(
    words=Words(
        "hold-out data unlike the clients' data",
        "the hold-out data are unlike the data of {}",
        "the hold-out data are unlike the clients' data",
        "The loss on the hold-out data is high, but the loss on clients' data that the model has never seen is low.",
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
)
