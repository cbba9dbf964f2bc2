"""Changes, remedies and evidence that several causes have in common."""

from collections.abc import Iterator

import numpy as np

from tasks.diagnose.causes.base import Indication, Remedy, Situation
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.evidence.memory import relabelling_in_words
from tasks.diagnose.phrases import every_client
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.thresholds import LOWER
from tasks.settings import Settings, switch_kind

FEDNOVA = Remedy("use normalised averaging (FedNova)", switch_kind("federate.client", "fednova"))
SCAFFOLD = Remedy("use control variates (SCAFFOLD)", switch_kind("federate.client", "scaffold"))
FEDPROX = Remedy("add a proximal term (FedProx, mu 0.1)", switch_kind("federate.client", "fedprox", mu=0.1))
ALIGNED = {"features standardised by each client": features_aligned}
STANDARDISED = Remedy("let each client standardise its own features", {"preprocess.normalize": "client"}, ALIGNED)
CLIPPED = Remedy("clip gradients at norm 1", {"federate.client.clip_norm": 1.0})


def standardised() -> Change:
    """Returns the change to a run in which each client standardises its own features."""
    return Change("with each client's features standardised by its own mean and standard deviation", surgery=ALIGNED)


def without(clients: tuple[str, ...]) -> Change:
    """Returns the change to a run in which these clients take no part."""
    return Change(f"without {every_client(clients)}", without=clients)


def leave_out(clients: tuple[str, ...], settings: Settings) -> Remedy:
    """Returns the remedy that excludes these clients, and those that the run excludes already."""
    excluded = sorted({*settings.federate.exclude, *clients})
    return Remedy(f"leave out {every_client(clients)}", {"federate.exclude": excluded})


def lower_rate(at: Situation) -> float:
    """Returns a fifth of the client rate, or as much less as makes the steepness 1."""
    rate = at.settings.federate.client.learning_rate
    return _digits(rate / max(5.0, np.nan_to_num(at.findings.steepness)))


def slower(at: Situation) -> list[Remedy]:
    """Returns the lower client rates to try, the highest first: the steps of LOWER down to `lower_rate`, and that.

    A rate below the last step is tried only if the steepness demands it.
    """
    rate, lowest = at.settings.federate.client.learning_rate, lower_rate(at)
    steps = [step for step in (_digits(rate / by) for by in LOWER) if step > lowest]
    return [client_rate(each) for each in (*steps, lowest)]


def client_rate(rate: float) -> Remedy:
    """Returns the remedy of a client rate, in three digits."""
    value = _digits(rate)
    return Remedy(f"set the client learning rate to {value:g}", {"federate.client.learning_rate": value})


def server_rate(rate: float) -> Remedy:
    """Returns the remedy of a server rate, in three digits."""
    value = _digits(rate)
    return Remedy(f"set the server learning rate to {value:g}", {"federate.server_optimizer.learning_rate": value})


def _digits(rate: float) -> float:
    return float(f"{rate:.3g}")


def remembered(client: ClientFinding) -> Iterator[Indication]:
    """Yields what the log says of the data that the client had, if they have changed since."""
    memory = client.memory
    if memory is None or not memory.changed:
        return
    says = (
        f"In round {memory.round}, client {client.client} logged a loss of {memory.logged:.7g} on its first batch. "
        f"Today the same model has a loss of {memory.now:.7g} on the same batch, so the client's data have changed."
    )
    if memory.relabelling:
        says += f" If the labels are changed back ({relabelling_in_words(memory.relabelling)}), the loss equals the "
        says += "logged loss. If the client corrects these labels, it can stay in the run."
    yield Indication("loss_of_first_batch", memory.now, memory.logged, says)
