"""The signals and losses of a diagnosis in plain words; the causes' words stand with the causes."""

SIGNALS = {
    "finite": "rounds in which it failed",
    "update_norm": "length of its update",
    "update_cosine": "agreement with the mean update",
    "update_cosine_robust": "agreement with the other updates",
    "slope": "direction on its own data (-1: downhill)",
    "loss_of_first_batch": "loss of a batch: of today's data, and logged",
    "sent_over_trained": "what it sent over what training gives",
    "loss_before": "own loss before local work",
    "loss_after": "own loss after local work",
    "loss_change": "change of its own loss",
}
LOSSES = {"val_loss": "validation loss", "train_loss": "training loss"}
