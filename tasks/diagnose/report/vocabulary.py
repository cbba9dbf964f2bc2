"""The fixed vocabulary of causes and signals, in plain words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """How a cause is called, how it ends `the loss rose because …` with and without clients, and what it means."""

    name: str
    because: str
    alone: str
    means: str


CAUSES = {
    "label_skew": Words(
        "different labels",
        "the labels of {} are mixed differently from the others'",
        "the clients' labels are mixed differently",
        "Each client teaches the model mostly the classes it has, and the average forgets the rest.",
    ),
    "quantity_skew": Words(
        "different amounts of data",
        "the amount of data of {} differs much from the others'",
        "the clients' amounts of data differ much",
        "A few large clients decide where the model goes, or very small ones pull it about.",
    ),
    "feature_shift": Words(
        "different inputs",
        "the inputs of {} look different from the others'",
        "the clients' inputs look different",
        "The same thing is measured differently, as by another device: brighter, noisier, in another unit.",
    ),
    "unequal_local_work": Words(
        "unequal local work",
        "the local work of {} differs from the others'",
        "the clients do unequal amounts of local work",
        "Who takes more training steps in a round moves farther, and outweighs the others in the average.",
    ),
    "client_learning_rate": Words(
        "too high a learning rate of the clients",
        "the learning rate of {} is too high",
        "the clients' learning rate is too high",
        "Each step of the local training overshoots, so that training makes the model worse.",
    ),
    "server_learning_rate": Words(
        "too high a learning rate of the server",
        "the server's learning rate is too high",
        "the server's learning rate is too high",
        "The server takes too large a step along the clients' average, and overshoots.",
    ),
    "faulty_clients": Words(
        "faulty clients",
        "the updates or the data of {} are faulty",
        "some clients send faulty updates or data",
        "Wrong labels, corrupt inputs or changed updates. Unusual data alone is no fault.",
    ),
    "non_finite": Words(
        "numbers that are not finite",
        "numbers that are not finite (NaN or infinity) came from {}",
        "numbers that are not finite (NaN or infinity) came up",
        "A calculation overflowed or divided by zero; whatever is averaged with its result is lost too.",
    ),
    "architecture_variation": Words(
        "models of different sizes",
        "the models of {} have another size than the others'",
        "the clients train models of different sizes",
        "Parameters that only some clients train are averaged over fewer of them, and fit the rest less well.",
    ),
    "overfitting": Words(
        "overfitting",
        "the model learns the training data of {} by heart",
        "the model learns its training data by heart",
        "The loss on the training data goes on falling while that on other data rises.",
    ),
}
FAULTS = {
    "labels": "the labels of {} are wrong",
    "data": "the data of {} are faulty",
    "updates": "the updates of {} are faulty",
}
"""What ends `the loss rose because …` where it is known what is faulty."""
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
