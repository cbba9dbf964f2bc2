"""The plan of a round: which clients take part, how many epochs, the order of their examples and the learning rate.

Every draw depends only on the seed, the round and (if it is a client's own) the client, never on earlier draws. So a
resumed run or a failed client changes no other client's draws.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SettingsError, listed
from tasks.settings import (
    EarlyStoppingSettings,
    FederateSettings,
    LocalWorkSettings,
    SamplingSettings,
    ScheduleSettings,
)

Counts = NDArray[np.int64]

# First words of the seeds, so that no two kinds of draw share a stream; public.py has 4, local/faults.py 5.
_SAMPLING, _CLIENT, _AUGMENT = 1, 2, 3


def client_rng(seed: int, round_num: int, client: str) -> np.random.Generator:
    """Returns the generator of one client's draws in one round."""
    # The same generator as from a list, in less than half the time.
    return np.random.default_rng(np.array([_CLIENT, seed, round_num, *client.encode()], np.uint32))


def draw_seed(seed: int, round_num: int, client: str) -> NDArray[np.int32]:
    """Returns the two words from which the graph draws a client's augmentation and dropout in one round."""
    words = np.random.SeedSequence([_AUGMENT, seed, round_num, *client.encode()]).generate_state(2)
    return words.astype(np.uint32).view(np.int32)


def sample(
    settings: SamplingSettings,
    num_examples: Mapping[str, int],
    seed: int,
    round_num: int,
    labels: Mapping[str, Counts] | None = None,
) -> list[str]:
    """Returns the ids of the round's clients, sorted, because the last bits of a sum depend on its order.

    With at most `clients_per_round` clients, all take part. `by_examples` draws without replacement: among the clients
    not drawn yet, the probability of the next one is in proportion to its examples. `power_of_choice` draws its
    `candidates` in the same way, and `highest` then chooses. Use both with `weighting: uniform`. With
    `weighting: examples`, the size of a client counts twice: in the draw and in the average.

    Args:
        settings: the rule.
        num_examples: the number of examples of each client that can be drawn.
        seed: the run's seed.
        round_num: the round.
        labels: each client's examples by class (C,), which `stratified` needs.
    """
    clients = sorted(num_examples)
    num = settings.candidates if settings.kind == "power_of_choice" else settings.clients_per_round
    if settings.kind == "all" or num >= len(clients):
        return clients
    rng = np.random.default_rng([_SAMPLING, seed, round_num])
    match settings.kind:
        case "by_examples" | "power_of_choice":
            sizes = np.array([num_examples[client] for client in clients], dtype=np.float64)
            return sorted(rng.choice(clients, num, replace=False, p=sizes / sizes.sum()).tolist())
        case "stratified":
            return _covering(clients, np.array([(labels or {})[client] for client in clients], np.float64), num, rng)
    return sorted(rng.choice(clients, num, replace=False).tolist())


def _covering(clients: list[str], labels: NDArray[np.float64], num: int, rng: np.random.Generator) -> list[str]:
    """Draws clients one by one, each for the label with the smallest cover so far.

    The cover of a label is the number of its examples at the drawn clients, over the number at all clients. The next
    client is drawn in proportion to its examples of this label. A label that no undrawn client has is skipped. Equal
    covers are decided by a random draw. A label with cover 0 comes first, so with `num` >= C every label that a client
    has is covered.
    """
    total, drawn = labels.sum(axis=0), np.zeros(len(clients), bool)
    while drawn.sum() < num:
        left = np.where(drawn[:, None], 0.0, labels)
        some = left.sum(axis=0) > 0
        if not some.any():  # only clients without own examples are left
            left, some = np.where(drawn[:, None], 0.0, np.ones_like(labels)), np.ones(labels.shape[1], bool)
        cover = np.where(some, labels[drawn].sum(axis=0) / np.maximum(total, 1.0), np.inf)
        label = rng.choice(np.flatnonzero(cover == cover.min()))
        drawn[rng.choice(len(clients), p=left[:, label] / left[:, label].sum())] = True
    return [client for client, chosen in zip(clients, drawn, strict=True) if chosen]


def highest(losses: Mapping[str, float], num: int) -> list[str]:
    """Returns the `num` clients with the highest loss, sorted by id: power-of-choice (Cho 2022, arXiv 2010.01243).

    A loss that is not finite counts as the highest. So its client takes part, fails and is named, and is not skipped
    without a message. Of equal losses, the first id is taken.
    """
    worth = {client: loss if np.isfinite(loss) else np.inf for client, loss in losses.items()}
    return sorted(sorted(worth, key=lambda client: (-worth[client], client))[:num])


def clients_per_round(settings: SamplingSettings, num_clients: int) -> int:
    """Returns how many of `num_clients` clients take part in a round."""
    return num_clients if settings.kind == "all" else min(settings.clients_per_round, num_clients)


def epochs(settings: LocalWorkSettings, client: str, rng: np.random.Generator) -> int:
    """Returns how many passes over its data a client makes in this round."""
    match settings.kind:
        case "same":
            return settings.epochs
        case "per_client":
            return settings.by_client.get(client, settings.epochs)
        case "range":
            return int(rng.integers(settings.low, settings.high, endpoint=True))


def visits(num_examples: int, num_epochs: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Returns the order of visits (E·N,): E permutations of the N examples, one after the other."""
    orders = [rng.permutation(num_examples).astype(np.int32) for _ in range(num_epochs)]
    return np.concatenate(orders)


def learning_rate_factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """Returns the factor of the learning rate in round `step` = 1 … `steps`; every kind begins with 1."""
    match settings.kind:
        case "constant":
            return 1.0
        case "exponential":
            return settings.decay ** (step - 1)
        case "step":
            return settings.decay ** ((step - 1) // settings.every)
        case "cosine":
            # `final` is reached only after the last round: at the default `final` of 0, a round would do nothing.
            done = (step - 1) / steps
            return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2


def stops_early(settings: EarlyStoppingSettings, losses: Sequence[float | None]) -> bool:
    """Returns whether training ends: the training loss was not lower for `patience` rounds. 0 rounds: it never ends.

    A loss is lower if it is below the best loss so far by more than `min_delta`; it is then the best. `losses` is the
    train_loss of every round so far. A loss that is None or not finite is not lower.
    """
    if not settings.patience:
        return False
    best, since = np.inf, 0
    for loss in losses:
        lower = loss is not None and np.isfinite(loss) and loss < best - settings.min_delta
        best, since = (loss, 0) if lower and loss is not None else (best, since + 1)
    return since >= settings.patience


def check_clients(settings: FederateSettings, clients: Iterable[str]) -> None:
    """Checks that settings for single clients name clients of the run.

    Raises:
        SettingsError: `local_work.by_client`, `width` or `faults.clients` names an unknown id.
    """
    ids = sorted(clients)
    named_by: dict[str, Iterable[str]] = {
        "local_work.by_client": settings.local_work.by_client,
        "width": settings.width,
        "faults.clients": settings.faults.clients,
    }
    for name, named in named_by.items():
        unknown = sorted(set(named) - set(ids))
        if unknown:
            raise SettingsError(f"federate.{name} names {listed(unknown)}, which the data does not have: {listed(ids)}")
