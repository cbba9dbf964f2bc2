"""From what was observed to the causes that a replay must decide between, and the change that takes each away."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import features_aligned, labels_changed_back, labels_dealt_evenly, sizes_made_equal
from tasks.diagnose.thresholds import APART, SKEWED_LABELS, SKEWED_SIZES, TOO_STEEP
from tasks.settings import Settings
from tasks.skew import earth_mover

CAUSES = (
    "non_finite",
    "faulty_clients",
    "architecture_variation",
    "unequal_local_work",
    "feature_shift",
    "server_learning_rate",
    "quantity_skew",
    "label_skew",
    "client_learning_rate",
    "overfitting",
)
"""The causes, the most specific first: that whose removal touches the fewest other things. A smaller client rate slows
every rise, whatever causes it, so it is believed only where nothing narrower explains as much (see `order`), and where
no step overshoots only where nothing narrower explains half."""


@dataclass(frozen=True)
class Candidate:
    """A cause, and the change that takes it away.

    Attributes:
        cause: its name.
        change: what a replay does without it.
        clients: through which it acts, if not through all.
        instead: another change, to be tried where the first removes less than half of the rise.
    """

    cause: str
    change: Change
    clients: tuple[str, ...] = ()
    instead: Change | None = None


def order(found: Findings) -> tuple[str, ...]:
    """Returns the causes, that to be believed first at the front.

    Where the local steps themselves diverge, the client rate comes before the skews: on data without skew such steps
    diverge less often, which explains nothing.
    """
    if not found.steepness > TOO_STEEP:
        return CAUSES
    rest = [cause for cause in CAUSES if cause != "client_learning_rate"]
    at = rest.index("quantity_skew")
    return (*rest[:at], "client_learning_rate", *rest[at:])


def candidates(found: Findings, settings: Settings, last_sound: int = 1) -> list[Candidate]:
    """Returns what the observations make possible, the most specific cause first.

    `last_sound` is the round of the model that the replays begin with.
    """
    federate, seed = settings.federate, settings.seed
    faulty, shifted, failed = found.faulty(), found.shifted(), found.failed()
    proposed = []
    if failed and len(failed) < len(found.clients) / 2:
        proposed.append(Candidate("non_finite", Change(f"without {_named(failed)}", without=failed), failed))
    if faulty and len(faulty) < len(found.clients) / 2:
        left_out = Change(f"without {_named(faulty)}", without=faulty)
        proposed.append(Candidate("faulty_clients", left_out, faulty, _labels_back(found, faulty)))
    if federate.width and min(federate.width.values()) < 1:
        narrow = tuple(sorted(c for c, width in federate.width.items() if width < 1))
        whole = Change("with the whole model at every client", whole_model(settings))
        proposed.append(Candidate("architecture_variation", whole, narrow))
    proposed += _unequal_work(found, settings)
    if shifted:
        aligned = Change(
            "with every client's features standardised by its own mean and sd",
            surgery={"features standardised by each client": features_aligned},
        )
        proposed.append(Candidate("feature_shift", aligned, shifted))
        if len(shifted) < len(found.clients) / 2:
            proposed.append(Candidate("feature_shift", Change(f"without {_named(shifted)}", without=shifted), shifted))
    if federate.server_optimizer.kind != "sgd" or federate.server_optimizer.learning_rate > 1:
        proposed.append(Candidate("server_learning_rate", plain_server(settings)))
    if found.size_skew > SKEWED_SIZES:
        equal = Change("with as many examples at every client", surgery={"sizes made equal": sizes_made_equal(seed)})
        proposed.append(Candidate("quantity_skew", equal))
    if found.label_skew > SKEWED_LABELS:
        # Their labels say nothing of the mix; a majority that is unlike what it was is what there is to deal.
        kept = faulty + shifted if len(faulty + shifted) < len(found.clients) / 2 else ()
        even = Change(
            "with the labels dealt evenly over the clients",
            surgery={"labels dealt evenly": labels_dealt_evenly(seed, kept)},
        )
        proposed.append(Candidate("label_skew", even, _most_skewed(found)))
    proposed += _client_rate(found, settings)
    if found.train_trend < -APART and found.val_trend > -APART / 2 and found.val_trend - found.train_trend > APART:
        stopped = Change(f"with training ended after round {last_sound}", {"federate.rounds": max(1, last_sound)})
        proposed.append(Candidate("overfitting", stopped))
    return proposed


def _labels_back(found: Findings, faulty: tuple[str, ...]) -> Change | None:
    """With the labels that they had; None unless these are known of each.

    Whoever is left out takes along what only it knows: of a large client, that alone raises the loss.
    """
    memories = {one.client: one.memory for one in found.clients if one.client in faulty}
    then = {client: memory.relabelling for client, memory in memories.items() if memory and memory.relabelling}
    if set(then) != set(faulty):
        return None
    says = f"the labels of {_named(faulty)} changed back"
    return Change(f"with {says}", surgery={says: labels_changed_back(then)})


def plain_server(settings: Settings) -> Change:
    """Returns the change to plain averaging on the server, of the same settings otherwise."""
    default = type(settings.federate.server_optimizer)(kind="sgd", learning_rate=1.0)
    return Change(
        "with plain averaging on the server",
        {f"federate.server_optimizer.{name}": value for name, value in default.model_dump(mode="json").items()},
    )


def _unequal_work(found: Findings, settings: Settings) -> list[Candidate]:
    unequal = tuple(one.client for one in found.clients if found.works_unequally(one))
    if not unequal or settings.federate.local_work.kind == "same":
        return []
    epochs = max(1, round(found.usual_epochs))
    return [
        Candidate(
            "unequal_local_work", Change(f"with {epochs} epochs at every client", same_work(settings, epochs)), unequal
        )
    ]


def same_work(settings: Settings, epochs: int) -> dict[str, Any]:
    """Returns the settings of `epochs` passes at every client, of the run's own kind of local work."""
    work = settings.federate.local_work
    if work.kind == "range":
        return {"federate.local_work.low": epochs, "federate.local_work.high": epochs}
    named = {"federate.local_work.by_client": dict.fromkeys(work.by_client, epochs)} if work.by_client else {}
    return {"federate.local_work.epochs": epochs, **named}


def whole_model(settings: Settings) -> dict[str, Any]:
    """Returns the settings of the whole model at every client."""
    return {"federate.width": dict.fromkeys(settings.federate.width, 1.0)}


def _client_rate(found: Findings, settings: Settings) -> list[Candidate]:
    lower = lower_rate(settings, found.steepness)
    change = Change(f"at a client learning rate of {lower:g}", {"federate.client.learning_rate": lower})
    return [Candidate("client_learning_rate", change)]


def lower_rate(settings: Settings, steepness: float) -> float:
    """Returns a fifth of the client rate, or as much less as makes curvature times rate 1."""
    return float(f"{settings.federate.client.learning_rate / max(5.0, np.nan_to_num(steepness)):.3g}")


def _most_skewed(found: Findings) -> tuple[str, ...]:
    total = np.sum([one.labels for one in found.clients], axis=0)
    mixes = {one.client: one.labels / max(1, one.labels.sum()) for one in found.clients}
    distance = {client: float(earth_mover(mix, total / total.sum())) for client, mix in mixes.items()}
    return tuple(sorted((c for c in distance if distance[c] > SKEWED_LABELS), key=lambda c: (-distance[c], c)))


def _named(clients: tuple[str, ...]) -> str:
    if len(clients) == 1:
        return f"client {clients[0]}"
    return f"clients {', '.join(clients[:-1])} and {clients[-1]}"
