"""Which client gets which examples: the rules by `partition.kind`, and the bound on repeated draws."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.datasets import RawExamples
from tasks.errors import DataError
from tasks.partition.labels import classes, dirichlet, label_mix, shards
from tasks.partition.shares import Indices
from tasks.partition.sizes import iid, quantity
from tasks.settings import PartitionKind, PartitionSettings

DIVISION_STREAM = 21
"""Separates these draws from all others of the same seed."""

PARTITION_DRAWS = 1000
"""Most draws until each client has partition.min_examples, for rules whose sizes are random."""


@dataclass(frozen=True, eq=False)
class Division:
    """The clients' sorted ids and examples: all N examples, each exactly once. A client can have none."""

    ids: list[str]
    parts: list[Indices]


def natural(clients: NDArray[np.str_] | None) -> list[Indices]:
    """Returns the examples of each client that the data names, in the order of the sorted ids.

    Raises:
        DataError: the data names no clients.
    """
    if clients is None:
        raise DataError(
            "partition.kind natural needs data that name each example's client (data.kind clients or synthetic, "
            "data.client_column in a table, a column client in a CSV of images), got none: name the clients, or choose "
            "another kind"
        )
    owners = np.unique(clients, return_inverse=True)[1]
    by_owner = np.argsort(owners, kind="stable").astype(np.int64)
    return np.split(by_owner, np.cumsum(np.bincount(owners))[:-1])


Partitioner = Callable[[RawExamples, PartitionSettings, np.random.Generator], list[Indices]]

PARTITIONERS: dict[PartitionKind, Partitioner] = {
    "iid": lambda data, s, rng: iid(data.y, s.num_clients, rng),
    "dirichlet": lambda data, s, rng: dirichlet(data.y, s.num_clients, s.alpha, rng),
    "label_mix": lambda data, s, rng: label_mix(data.y, s.num_clients, s.alpha, rng),
    "shards": lambda data, s, rng: shards(data.y, s.num_clients, s.shards_per_client, rng),
    "classes": lambda data, s, rng: classes(data.y, s.num_clients, s.classes_per_client, rng),
    "quantity": lambda data, s, rng: quantity(data.y, s.num_clients, s.law, s.alpha, s.exponent, rng),
    "feature_noise": lambda data, s, rng: iid(data.y, s.num_clients, rng),
    "feature_shift": lambda data, s, rng: iid(data.y, s.num_clients, rng),
    "natural": lambda data, s, rng: natural(data.clients),
}
"""`partition.kind` to the rule that divides the examples; `features` has the changes of features."""


def divide(data: RawExamples, settings: PartitionSettings, seed: int) -> Division:
    """Returns the division of the training examples by `settings` and `seed`.

    If the sizes are random, the draw is repeated until each client has `partition.min_examples`, at most
    PARTITION_DRAWS times. This conditions the draw: with a small alpha, the accepted partitions are less skewed than
    the Dirichlet distribution of this alpha.

    Raises:
        DataError: no draw gave each client min_examples examples, or the kind does not fit the data.
    """
    rng = np.random.default_rng([seed, DIVISION_STREAM])
    fewest, draws = settings.min_examples, PARTITION_DRAWS if _sizes_are_random(settings) else 1
    if settings.kind != "natural" and settings.num_clients * fewest > len(data.y):
        raise DataError(
            f"partition.num_clients * partition.min_examples must be <= {len(data.y)}, the number of training "
            f"examples, got {settings.num_clients} * {fewest}"
        )
    best, poorest = -1, ""
    for _ in range(draws):
        parts = PARTITIONERS[settings.kind](data, settings, rng)
        ids, sizes = _ids(data, settings), [len(part) for part in parts]
        if min(sizes) >= fewest:
            return Division(ids, parts)
        if min(sizes) > best:
            best, poorest = min(sizes), ids[int(np.argmin(sizes))]
    leaves = f"the best of {draws} draws leaves" if draws > 1 else f"{settings.kind} leaves"
    raise DataError(
        f"partition.min_examples is {fewest}, but {leaves} client {poorest} with {best} of the {len(data.y)} "
        f"training examples: {', or '.join(_remedies(settings))}"
    )


def _sizes_are_random(settings: PartitionSettings) -> bool:
    """Whether a second draw can give the smallest client more examples."""
    return settings.kind in ("dirichlet", "shards", "classes") or (
        settings.kind == "quantity" and settings.law == "dirichlet"
    )


def _ids(data: RawExamples, settings: PartitionSettings) -> list[str]:
    if settings.kind == "natural":
        return [str(client) for client in np.unique(np.asarray(data.clients))]
    width = max(2, len(str(settings.num_clients - 1)))
    return [f"{k:0{width}}" for k in range(settings.num_clients)]


def _remedies(settings: PartitionSettings) -> list[str]:
    remedies = ["lower partition.min_examples (0 drops clients without examples)"]
    if settings.kind != "natural":
        remedies.append("lower partition.num_clients")
    if settings.kind == "dirichlet" or (settings.kind == "quantity" and settings.law == "dirichlet"):
        remedies.append("raise partition.alpha")
    if settings.kind == "quantity" and settings.law == "power":
        remedies.append("lower partition.exponent")
    return remedies
