"""The columns of rounds.csv and clients.csv, in the order in which they are written."""

ROUND_COLUMNS = (
    "round",
    "phase",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "num_clients",
    "num_failed",
    "update_norm_mean",
    "update_norm_max",
    "update_cosine_mean",
    "update_cosine_min",
    "drift",
    "gradient_diversity",
    "server_update_norm",
    "sparsity",
    "local_loss",
    "epsilon",
)
"""`train_loss`: Σ p_k loss_before_k, the loss of the model that the round started from on its clients' first batches;
`local_loss`: Σ p_k loss_mean_k, the mean over the local training; `val_*`: the model after the round on the hold-out
data; norms, `drift` and `gradient_diversity`: see federate/statistics.py; `sparsity`: fraction of zeros in the prunable
weights; `epsilon`: of differential privacy, spent since the run's first round (federate/privacy.py), empty without it.
Losses in nats per example, accuracy a fraction; an empty cell was not measured."""

CLIENT_COLUMNS = (
    "round",
    "client",
    "num_examples",
    "num_steps",
    "weight",
    "loss_before",
    "loss_after",
    "update_norm",
    "update_cosine",
    "finite",
    "loss_mean",
    "update_cosine_robust",
    "distance",
    "failure",
    "influence",
)
"""`weight`: the client's share of the average, 0 if it was left out; losses: see local/update.py; the
others: see federate/statistics.py; `failure`: why it was left out; `influence`: the share of the client in the combined
update, where a rule decided that (geometric_median, krum, multi_krum)."""

LOSS_COLUMNS = ("val_loss", "train_loss")
"""The losses in rounds.csv, nats per example, in the order in which they are preferred."""

SIGNAL_COLUMNS = ("update_norm", "update_cosine", "update_cosine_robust", "loss_before", "loss_after")
"""The numbers in clients.csv that tell a client that drifts from the others."""

WORK_COLUMNS = ("num_examples", "num_steps")
"""The numbers in clients.csv that say how much local training an update took."""
