"""Partitions with label skew: the clients have different mixes of classes."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tasks.errors import DataError
from tasks.partition.shares import Indices, cut, dirichlet_logits, dirichlet_shares, gather

MOST_SHARDS = 1_000_000
"""Most shards of a division. Each is an array: a million take a second or two, and 100 MB."""


def dirichlet(y: NDArray[np.int32], num_clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Returns a partition in which each class is divided over the clients by its own draw of Dir(alpha).

    For each class c: p ~ Dir_K(alpha), and client k gets the share p_k of the examples of c (Yurochkin et al.,
    arXiv 1905.12022; `p_k ~ Dir` of NIID-Bench, arXiv 2102.02079). The clients' sizes vary, too. alpha -> inf: each
    client has 1/K of each class. alpha -> 0: each class has one client, and some clients have no examples.

    In the authors' code, a client with N/K examples gets no further classes. The papers do not mention this rule, and
    it makes the mixes depend on the order of the classes, so it is left out here.
    """
    parts: list[list[Indices]] = [[] for _ in range(num_clients)]
    for label in np.unique(y):
        of_class = rng.permutation(np.flatnonzero(y == label))
        shares = dirichlet_shares(alpha, num_clients, rng)
        for own, part in zip(parts, cut(of_class, shares, rng.random()), strict=True):
            own.append(part)
    return gather(parts)


def label_mix(y: NDArray[np.int32], num_clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Returns a partition in which each client draws its own mix of classes q ~ Dir(alpha · p), sizes equal within 1.

    p is the distribution of the labels in the data (Hsu, Qi, Brown, arXiv 1909.06335). alpha -> inf: each client has
    the mix of the whole. alpha -> 0: each client has one class. Here alpha is the sum of the C concentrations; in
    `dirichlet` it is each of them. So with C balanced classes, C times the alpha of `dirichlet` gives equal skew.

    Each example is used exactly once. The paper does not say what happens if a class has no examples left. Here the
    clients draw in turns:

    1. Each client requests the examples that it lacks, of classes drawn from its q.
    2. A class with more requests than examples grants a random part of the requests, and is closed.
    3. Clients with refused requests draw again, from q renormalised over the open classes.

    Each turn with refused requests closes a class, so there are at most C turns. The mixes are less skewed than q if
    several clients draw the same few classes.
    """
    classes, codes, available = np.unique(y, return_inverse=True, return_counts=True)
    prior = available / len(y)
    logits = dirichlet_logits(alpha * prior, (num_clients, len(classes)), rng)
    lacking = np.full(num_clients, len(y) // num_clients)
    lacking[rng.permutation(num_clients)[: len(y) % num_clients]] += 1
    wanted = fill_counts(logits, lacking, available, rng)

    parts: list[list[Indices]] = [[] for _ in range(num_clients)]
    for code in range(len(classes)):
        of_class = rng.permutation(np.flatnonzero(codes == code))
        for own, part in zip(parts, np.split(of_class, np.cumsum(wanted[:, code])[:-1]), strict=True):
            own.append(part)
    return gather(parts)


def fill_counts(
    logits: NDArray[np.float64], lacking: NDArray[np.int64], available: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Returns counts (K, C) with row sums `lacking` and column sums `available`, whose totals are equal."""
    counts = np.zeros(logits.shape, dtype=np.int64)
    for _ in available:
        left = available - counts.sum(axis=0)
        short = lacking - counts.sum(axis=1)
        is_open = left > 0
        mixes = np.zeros(logits.shape)
        mixes[:, is_open] = softmax(logits[:, is_open], axis=1)
        requests = rng.multinomial(short, mixes)
        for code in np.flatnonzero(requests.sum(axis=0) > left):
            requests[:, code] = rng.multivariate_hypergeometric(requests[:, code], left[code])
        counts += requests
        if counts.sum() == available.sum():
            break
    return counts


def shards(y: NDArray[np.int32], num_clients: int, per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Returns a partition with s = `per_client` shards per client (McMahan 2017, arXiv 1602.05629, section 3).

    The examples are sorted by label, in random order within a label, and cut into K · s shards whose sizes differ by
    at most 1. Each client gets s random shards. Most shards are of one class. There are at most K · s + C - 1 pairs of
    a client and one of its classes. If no class is smaller than a shard, a shard has at most 2 classes and a client at
    most 2 s. If there are more shards than examples, some shards are empty.

    Raises:
        DataError: more than MOST_SHARDS shards.
    """
    if num_clients * per_client > MOST_SHARDS:
        raise DataError(
            f"partition.num_clients * partition.shards_per_client must be <= {MOST_SHARDS}, "
            f"got {num_clients} * {per_client}"
        )
    shuffled = rng.permutation(len(y))
    by_label = shuffled[np.argsort(y[shuffled], kind="stable")]
    pieces = np.array_split(by_label, num_clients * per_client)
    deal = rng.permutation(len(pieces)).reshape(num_clients, per_client)
    return gather([[pieces[piece] for piece in own] for own in deal])


def classes(y: NDArray[np.int32], num_clients: int, per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Returns a partition in which each client has at most k = `per_client` classes (NIID-Bench's #C = k).

    The clients choose in turn: each gets the k classes that the fewest clients have so far, ties broken at random. Then
    each class is divided equally and at random over its clients (Li et al., arXiv 2102.02079, section 4.1). The numbers
    of clients per class differ by at most 1. In NIID-Bench's code the clients draw classes independently, and the
    examples of a class that no client drew are lost. If a class has fewer examples than clients, some of its clients
    get none of it.

    Raises:
        DataError: a client would need more classes than there are, or some class would have no client.
    """
    labels = np.unique(y)
    if per_client > len(labels):
        raise DataError(
            f"partition.classes_per_client must be <= {len(labels)}, the number of classes, got {per_client}"
        )
    if num_clients * per_client < len(labels):
        raise DataError(
            f"partition.num_clients * partition.classes_per_client must be >= {len(labels)}, the number of classes, "
            f"so that each class has a client, got {num_clients} * {per_client}"
        )
    held = np.zeros((num_clients, len(labels)), dtype=bool)
    num_holders = np.zeros(len(labels), dtype=np.int64)
    for own in held:
        fewest_holders_first = np.lexsort((rng.random(len(labels)), num_holders))
        own[fewest_holders_first[:per_client]] = True
        num_holders += own
    parts: list[list[Indices]] = [[] for _ in range(num_clients)]
    for label, holds in zip(labels, held.T, strict=True):
        holders = rng.permutation(np.flatnonzero(holds))
        pieces = np.array_split(rng.permutation(np.flatnonzero(y == label)), len(holders))
        for client, piece in zip(holders, pieces, strict=True):
            parts[client].append(piece)
    return gather(parts)
