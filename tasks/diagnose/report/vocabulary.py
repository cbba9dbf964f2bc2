"""The signals and losses of a diagnosis in plain words; the causes' words stand with the causes."""

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.causes.base import Words
from tasks.diagnose.diagnosis import Cause, NotFinished, RuledOut

SIGNALS = {
    "finite": "first round with an update that is not finite",
    "failures": "number of failed updates",
    "update_norm": "length of its update",
    "update_cosine": "agreement with the mean update (cosine)",
    "update_cosine_robust": "agreement with the other updates (cosine)",
    "slope": "direction on its own data (cosine; training: below 0)",
    "loss_of_first_batch": "loss of one batch: today, and in the log",
    "sent_over_trained": "length sent / length that training gives",
    "loss_before": "loss on its own data before local training",
    "loss_after": "loss on its own data after local training",
    "overshooting": "share of clients whose training raises their loss",
    "hold_out_loss_beside_unseen_clients": "hold-out loss, and loss on clients that were not trained on",
    "loss_of_unseen_clients": "loss on clients that were not trained on, and on hold-out data",
    "agreement_with_hold_out": "share of its labels that a classifier of the hold-out data gives, too",
    "feature_distance": "distance of its features to the hold-out data's (sd)",
    "learnable": "accuracy on its own data after training on the rest of them",
    "undone": "rises of the loss over its falls, in the second half of the run",
    "last_over_first": "loss at the end over the first one",
    "raises": "share of local trainings that raise the client's own loss",
    "path_times_slope": "how far all steps could lower the loss, straight downhill",
    "loss_change": "change of the loss on its own data in local training",
}
OF_ALL_ROUNDS = ("agreement_with_hold_out", "feature_distance", "learnable", "sent_over_trained")
"""Signals of a client that are not of single rounds."""
DISPUTED = "disagree with the hold-out data"
"""Part of the sentence that says so of half of the clients or more."""
LOSSES = {"val_loss": "loss on hold-out data", "train_loss": "loss on training data"}


def words_of(cause: Cause | RuledOut | NotFinished) -> Words:
    """Returns the words of a cause and its fault."""
    return CAUSES[cause.cause].words.of(cause.fault)
