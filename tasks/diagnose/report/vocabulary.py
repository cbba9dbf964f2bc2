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
    "loss_of_unseen_clients": "loss on clients that were not trained on, and on hold-out data",
    "loss_change": "change of the loss on its own data in local training",
}
LOSSES = {"val_loss": "loss on hold-out data", "train_loss": "loss on training data"}


def words_of(cause: Cause | RuledOut | NotFinished) -> Words:
    """Returns the words of a cause and its fault."""
    return CAUSES[cause.cause].words.of(cause.fault)
