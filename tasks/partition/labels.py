"""Partitions with label skew: clients that hold different mixes of classes."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tasks.errors import DataError
from tasks.partition.shares import Indices, cut, dirichlet_logits, dirichlet_shares, gather

MOST_SHARDS = 1_000_000
"""Arrays of their own: a second or two, and 100 MB."""


def dirichlet(y: NDArray[np.int32], num_clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Returns a partition in which each class is divided over the clients by its own draw of Dir(alpha).

    For each class c: p ~ Dir_K(alpha), and client k gets the share p_k of the examples of c (Yurochkin et al.,
    arXiv 1905.12022; `p_k ~ Dir` of NIID-Bench, arXiv 2102.02079). Sizes vary too. alpha -> inf: every client has 1/K
    of every class; alpha -> 0: every class has one holder, and clients may have nothing.

    The authors' code also closes a client to further classes once it holds N/K examples, which the papers do not say
    and which makes the mixes depend on the order of the classes; this does not.
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

    p is the distribution of the labels in the data (Hsu, Qi, Brown, arXiv 1909.06335). alpha -> inf: every client has
    the mix of the whole; alpha -> 0: one class each. alpha is the sum of the C concentrations here, and each of them in
    `dirichlet`: with C balanced classes, C times the alpha gives mixes as skewed as there.

    Every example is placed exactly once, while the paper leaves open what follows when a class runs out. Here all
    clients ask at once: each for as many examples as it lacks, of classes drawn from its q. A class that is asked for
    more often than it has examples serves a random part of the asking and is closed. Who was not served asks again,
    by q renormalised over the open classes. Each turn that leaves somebody unserved closes a class, so there are at
    most C turns. The price: mixes are less skewed than q where few clients draw the same few classes.
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
    """Returns `per_client` label-sorted shards for each client (McMahan et al. 2017, arXiv 1602.05629, section 3).

    The examples, sorted by label and in random order within a label, are cut into K · s shards whose sizes differ by
    at most 1; each client gets s of them at random. Most shards lie within one class. There are at most K · s + C - 1
    pairs of a client and a class that it holds; where no class is smaller than a shard, a shard holds at most 2 classes
    and a client at most 2 s. With more shards than examples some are empty.

    Raises:
        DataError: more than MOST_SHARDS.
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
    """Returns a partition in which each client holds examples of at most `per_client` classes (NIID-Bench's #C = k).

    Each client in turn takes the k classes that have the fewest holders, at random among equals; then each class is
    divided equally and at random among its holders (Li et al., arXiv 2102.02079, section 4.1). Numbers of holders
    differ by at most 1. NIID-Bench's code draws classes regardless of their holders, and the examples of a class that
    nobody drew are lost. A class with fewer examples than holders leaves some of them without it.

    Raises:
        DataError: more classes a client than there are, or too few for every class to have a holder.
    """
    labels = np.unique(y)
    if per_client > len(labels):
        raise DataError(
            f"partition.classes_per_client must be <= {len(labels)}, the number of classes, got {per_client}"
        )
    if num_clients * per_client < len(labels):
        raise DataError(
            f"partition.num_clients * partition.classes_per_client must be >= {len(labels)}, the number of classes, "
            f"so that each has a holder, got {num_clients} * {per_client}"
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
