"""Hold-out data that are unlike the clients' data: a model does well on clients that it was not trained on."""

from statistics import NormalDist

import numpy as np

from tasks.diagnose.causes import Candidate
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.causes.hold_out_shift import OTHER_HALF, unlike_evidence
from tasks.diagnose.evidence.unseen import Unseen, halves, unseen_losses
from tasks.diagnose.investigation import Proof
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.engine import Replayer
from tasks.local.probe import Probe

REFUTED = "the model does not do much better on clients' data that it was not trained on"
NOT_COMPARED = (
    "the halves of the clients have no label in common with each other and the hold-out data, or cannot be run"
)
_SEEDS = 2
"""Most seeds of each half. A second one is drawn only if the halves agree on the cause and differ in its size."""
MOST_REPLAYS = 2 * _SEEDS
"""Most replays that the test takes."""


def prove_hold_out_shift(replays: Replayer, probe: Probe, start: int, last: int) -> tuple[Proof | None, Unseen | None]:
    """Returns the proof that the hold-out data are unlike the clients' data, and the losses of the first half.

    None without a proof; None if the losses cannot be compared.

    Each half of the clients is left out in turn. The cause is proven if both halves show it (`Compared.unlike`), by
    more than chance gives at `diagnose.significance`, and the share of the gap that comes from the hold-out data passes
    the test of every cause.

    Args:
        replays: of the run.
        probe: of its model.
        start: round of a known model that no client's data have trained: 0. A later model has learned the left-out
            clients' data, so their loss would prove nothing.
        last: round after which the losses are compared.
    """
    deviations = NormalDist().inv_cdf(1 - replays.settings.diagnose.significance)
    folds: list[Unseen] = []
    for seed in range(_SEEDS):
        for half in halves(list(replays.cohort.clients)):
            fold = unseen_losses(replays, probe, start, last, half, seed)
            if fold is None or not fold.unlike(deviations):
                return None, folds[0] if folds else fold
            folds.append(fold)
        effect = Effect(tuple(1 - fold.share for fold in folds))
        if effect.proven:
            return _proof(folds, effect), folds[0]
    return None, folds[0]


def replaced_evidence(proof: Proof) -> tuple[Indication, ...]:
    """Returns what the hold-out losses of one model say, in the log and with today's hold-out data."""
    last = (proof.from_round or 0) + len(proof.without)
    now, logged = proof.without[-1], proof.with_change[-1]
    return (
        Indication(
            "hold_out_loss_today",
            now,
            logged,
            f"The replay trains the clients exactly as the run did. But after round {last}, the hold-out loss is "
            f"{measured(now)}, and the run logged {measured(logged)}. So the hold-out data have been replaced since.",
        ),
    )


def _proof(folds: list[Unseen], effect: Effect) -> Proof:
    hold_out, unseen = np.mean([fold.by_round for fold in folds], axis=0).T
    return Proof(
        Candidate("hold_out_shift", Change(OTHER_HALF)),
        effect,
        "val_loss",
        tuple(map(float, hold_out)),
        tuple(map(float, unseen)),
        kind="hold_out",
        from_round=folds[0].from_round,
        evidence=tuple(unlike_evidence(folds[:2])),
    )
