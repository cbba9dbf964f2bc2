"""The rows of rounds.csv and clients.csv, and their columns in the order in which they are written."""

from typing import TypedDict


class RoundRow(TypedDict):
    """A row of rounds.csv. Losses in nats per example, accuracy as a fraction. None (an empty cell): not measured."""

    round: int
    phase: str
    train_loss: float | None
    """Σ p_k loss_before_k: loss of the model at the start of the round, on its clients' first batches."""
    val_loss: float | None
    """Loss of the model after the round, on the hold-out data. `val_accuracy` is measured on the same data."""
    val_accuracy: float | None
    num_clients: int
    num_failed: int
    update_norm_mean: float | None
    """See federate/statistics.py for norms, cosines, `drift` and `gradient_diversity`."""
    update_norm_max: float | None
    update_cosine_mean: float | None
    update_cosine_min: float | None
    drift: float | None
    gradient_diversity: float | None
    server_update_norm: float | None
    sparsity: float | None
    """Fraction of zeros in the prunable weights."""
    local_loss: float | None
    """Σ p_k loss_mean_k: mean loss over the local training."""
    epsilon: float | None
    """ε of differential privacy that was spent since the run's first round (federate/privacy.py)."""
    failure: str | None
    """Why the run failed in this round, in a few words. None: it went on, or it was finished, killed or cancelled."""


class ClientRow(TypedDict):
    """A row of clients.csv. None (an empty cell): not measured."""

    round: int
    client: str
    num_examples: int | None
    num_steps: int | None
    weight: float | None
    """The client's share of the average, 0 if it was left out."""
    loss_before: float | None
    """See `federate.state.ClientResult` for the losses."""
    loss_after: float | None
    update_norm: float | None
    """See federate/statistics.py for `update_*` and `distance`."""
    update_cosine: float | None
    finite: bool
    loss_mean: float | None
    update_cosine_robust: float | None
    distance: float | None
    failure: str | None
    """Why the client was left out."""
    influence: float | None
    """The client's share in the combined update, if a rule decides it (geometric_median, krum, multi_krum)."""


ROUND_COLUMNS, CLIENT_COLUMNS = tuple(RoundRow.__annotations__), tuple(ClientRow.__annotations__)

LOSS_COLUMNS = ("val_loss", "train_loss")
"""The losses in rounds.csv, nats per example, the preferred one first."""

SIGNAL_COLUMNS = ("update_norm", "update_cosine", "update_cosine_robust", "loss_before", "loss_after")
"""The numbers in clients.csv that show which client drifts."""

WORK_COLUMNS = ("num_examples", "num_steps")
"""The numbers in clients.csv that show the amount of local training."""
