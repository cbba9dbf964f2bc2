"""Who takes part in a round, for how long, in which order and at which learning rate.

Every draw follows from (seed, round, client) alone, never from what was drawn before: a resumed run, or a client that
failed, changes nobody else's draws.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SettingsError
from tasks.settings import LocalWorkSettings, SamplingSettings, ScheduleSettings

# First words of the seeds, so that no two kinds of draw share a stream.
_SAMPLING, _CLIENT, _AUGMENT = 1, 2, 3


def client_rng(seed: int, round_num: int, client: str) -> np.random.Generator:
    """Returns the generator of one client's draws in one round."""
    return np.random.default_rng([_CLIENT, seed, round_num, *client.encode()])


def augment_seed(seed: int, round_num: int, client: str) -> NDArray[np.int32]:
    """Returns the two words from which the graph draws a client's augmentation in one round."""
    words = np.random.SeedSequence([_AUGMENT, seed, round_num, *client.encode()]).generate_state(2)
    return words.astype(np.uint32).view(np.int32)


def sample(settings: SamplingSettings, num_examples: Mapping[str, int], seed: int, round_num: int) -> list[str]:
    """Returns the ids of the round's clients, sorted: another order gives a sum with other last bits.

    `by_examples` draws without replacement, each next client in proportion to its examples among those left. With
    fewer clients than `clients_per_round`, all take part.
    """
    clients = sorted(num_examples)
    if settings.kind == "all" or settings.clients_per_round >= len(clients):
        return clients
    rng = np.random.default_rng([_SAMPLING, seed, round_num])
    p = None
    if settings.kind == "by_examples":
        sizes = np.array([num_examples[client] for client in clients], dtype=np.float64)
        p = sizes / sizes.sum()
    return sorted(rng.choice(clients, settings.clients_per_round, replace=False, p=p).tolist())


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
    """Returns the factor of the learning rate in round `step` = 1 … `steps`; 1 in the first round of every kind."""
    match settings.kind:
        case "constant":
            return 1.0
        case "exponential":
            return settings.decay ** (step - 1)
        case "step":
            return settings.decay ** ((step - 1) // settings.every)
        case "cosine":
            done = (step - 1) / max(steps - 1, 1)
            return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2


def check_clients(settings: LocalWorkSettings, clients: Mapping[str, int]) -> None:
    """Refuses local work for clients that there are not.

    Raises:
        SettingsError: `by_client` names an unknown id.
    """
    unknown = sorted(set(settings.by_client) - set(clients))
    if unknown:
        raise SettingsError(
            f"federate.local_work.by_client names {', '.join(unknown)}, which the data does not have: "
            f"{', '.join(sorted(clients))}"
        )
