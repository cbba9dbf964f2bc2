"""What each client makes of the model before the rise: its update beside the others', and the model it sends."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats
from tasks.clients import Examples
from tasks.federate.statistics import gram
from tasks.local.probe import Fit, Probe
from tasks.parameters import Params


@dataclass(frozen=True)
class LocalModel:
    """The model y_k = x + Δ_k that client k makes of the model x before the rise in one round.

    Attributes:
        loss_before: of x on all the client's examples, nats.
        loss_after: of y_k on the same; what its local work gained.
        val_loss: of y_k on the hold-out data, nats.
        recalls: label to the recall of y_k on the hold-out data, fractions: what it has forgotten.
        pairwise_cosine: mean over the other clients j of cos(Δ_k, Δ_j), -1 to 1; NaN where it is alone.
        leave_one_out_cosine: cos(Δ_k, Σ_{j≠k} p_j Δ_j): with all the others together, whose mean it cannot own.
        growth: ‖y_k‖ / ‖x‖, 1 where the parameters keep their size.
        intended_weight: p_k, its share of the average.
        effective_weight: p_k τ_k / Σ p_j τ_j with τ its local steps: what plain averaging gives it (FedNova, Wang 2020,
            theorem 1, of plain SGD).
    """

    loss_before: float
    loss_after: float
    val_loss: float
    recalls: Mapping[int, float]
    pairwise_cosine: float
    leave_one_out_cosine: float
    growth: float
    intended_weight: float
    effective_weight: float

    @property
    def lowers_loss(self) -> bool:
        """Whether the client's local work lowers the loss on its own data, or leaves it."""
        return bool(self.loss_after <= self.loss_before)


def local_models(
    probe: Probe,
    params: Params,
    updates: Mapping[str, Params],
    weights: Mapping[str, float],
    steps: Mapping[str, int],
    before: Mapping[str, Fit],
    after: Mapping[str, float],
    test: Examples,
) -> dict[str, LocalModel]:
    """Returns the local model of each client of `updates`.

    Args:
        probe: of the model's architecture.
        params: (P,) x.
        updates: client to Δ_k (P,), finite.
        weights: client to what it weighs in the average; scaled to shares p_k of these clients.
        steps: client to its local steps τ_k.
        before: client to how x does on its examples.
        after: client to the loss of y_k on its examples, nats.
        test: the hold-out data.
    """
    names = list(updates)
    if not names:
        return {}
    share = np.array([weights[client] for client in names], np.float64)
    share = share / share.sum()
    work = share * np.array([steps[client] for client in names], np.float64)
    pairwise, others = _cosines(gram([np.asarray(updates[client], np.float32) for client in names]), share)
    size = float(np.linalg.norm(params.astype(np.float64)))
    models = {}
    for k, client in enumerate(names):
        with np.errstate(all="ignore"):
            local = sent_model(params, updates[client])
            held_out = probe.fit(local, test)
        models[client] = LocalModel(
            loss_before=before[client].loss,
            loss_after=after[client],
            val_loss=held_out.loss,
            recalls={label: recall for label, (_, _, recall) in held_out.by_label.items()},
            pairwise_cosine=float(pairwise[k]),
            leave_one_out_cosine=float(others[k]),
            growth=float(np.linalg.norm(local.astype(np.float64))) / size if size > 0 else np.nan,
            intended_weight=float(share[k]),
            effective_weight=float(work[k] / work.sum()) if work.sum() > 0 else np.nan,
        )
    return models


def sent_model(params: Params, update: Params) -> Params:
    """Returns (P,) the model x + Δ_k."""
    with np.errstate(all="ignore"):
        return np.asarray(params + update, np.float32)


def _cosines(inner: Floats, share: Floats) -> tuple[Floats, Floats]:
    """(K,) mean cosine to each other update, and cosine to the weighted sum of all others; NaN where either is zero."""
    length = np.sqrt(np.maximum(np.diag(inner), 0.0))
    alone = np.full(len(inner), np.nan)
    if len(inner) < 2:
        return alone, alone
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = inner / (length[:, None] * length)
        np.fill_diagonal(cosines, 0.0)
        pairwise = cosines.sum(axis=1) / (len(inner) - 1)
        # ⟨Δ_k, S - p_k Δ_k⟩ and ‖S - p_k Δ_k‖² of the sum S of all p_j Δ_j.
        to_sum = inner @ share
        to_others = to_sum - share * np.diag(inner)
        square = share @ to_sum - 2 * share * to_sum + share**2 * np.diag(inner)
        others = to_others / (length * np.sqrt(np.maximum(square, 0.0)))
    return pairwise, np.where(np.isfinite(others), others, np.nan)
