"""The clients' data with one difference between them taken away: what no federation can do, and a replay can."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.replay.change import Sites, Surgery

_DEAL, _RESIZE = 1, 2


def labels_dealt_evenly(seed: int, kept: tuple[str, ...] = ()) -> Surgery:
    """Returns a surgery that deals the examples anew: every client keeps its size and gets the label mix of all.

    Clients in `kept` keep their own, and theirs are not dealt. Limiting case: clients whose mixes are equal get other
    examples, and nothing else changes.
    """

    def deal(sites: Sites) -> Sites:
        rng = np.random.default_rng([_DEAL, seed])
        clients = [client for client in sites if client not in kept]
        x = np.concatenate([sites[client][0] for client in clients])
        y = np.concatenate([sites[client][1] for client in clients])
        shuffled = rng.permutation(len(y))
        # By label, and then to the client whose turn it is: each has its share of every label, up to one example.
        ordered = shuffled[np.argsort(y[shuffled], kind="stable")]
        owners = _turns(np.array([len(sites[client][1]) for client in clients]))
        dealt = dict(sites)
        for number, client in enumerate(clients):
            mine = rng.permutation(ordered[owners == number])
            dealt[client] = x[mine], y[mine]
        return dealt

    return deal


def _turns(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) whose turn it is, so that after any number of turns each client has had its share of them, up to one."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    return owner[np.argsort(within, kind="stable")]


def sizes_made_equal(seed: int) -> Surgery:
    """Returns a surgery that draws as many examples of each client as clients have on average, with its label mix.

    Large clients lose examples, small ones have theirs more than once.
    """

    def resize(sites: Sites) -> Sites:
        size = round(float(np.mean([len(y) for _, y in sites.values()])))
        resized = {}
        for number, (client, (x, y)) in enumerate(sites.items()):
            rng = np.random.default_rng([_RESIZE, seed, number])
            order = rng.permutation(len(y))
            by_label = order[np.argsort(y[order], kind="stable")]
            picked = by_label[(np.arange(size) * len(y)) // size]
            resized[client] = x[picked], y[picked]
        return resized

    return resize


def labels_changed_back(then: Mapping[str, Sequence[int]]) -> Surgery:
    """Returns a surgery that gives clients the labels that they had: of each, (C,) the one of every label of today."""

    def change_back(sites: Sites) -> Sites:
        changed = {
            client: (sites[client][0], np.asarray(labels, np.int32)[sites[client][1]])
            for client, labels in then.items()
        }
        return {**sites, **changed}

    return change_back


def features_like_the_others(clients: Collection[str]) -> Surgery:
    """Returns a surgery that gives the features of `clients` the mean and sd a channel of all other clients' features.

    Limiting case: a client whose features have that mean and sd already keeps them.
    """

    def align(sites: Sites) -> Sites:
        others = [x.reshape(-1, x.shape[-1]) for client, (x, _) in sites.items() if client not in clients]
        mean, sd = _mean_and_sd(np.concatenate(others))
        aligned = dict(sites)
        for client in clients:
            x, y = sites[client]
            own_mean, own_sd = _mean_and_sd(x.reshape(-1, x.shape[-1]))
            aligned[client] = ((x - own_mean) / own_sd * sd + mean).astype(np.float32), y
        return aligned

    return align


def _mean_and_sd(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and sd (C,) of values (N, C); an sd of 0 is 1."""
    sd = rows.std(axis=0, dtype=np.float64)
    return rows.mean(axis=0, dtype=np.float64), np.where(sd > 0, sd, 1.0)


def features_aligned(sites: Sites) -> Sites:
    """Standardises every site's examples by its own mean and sd a channel, as `preprocess.normalize: client` does.

    A replay does this to the hold-out data, too. If one client's features are 255 times the others', global statistics
    leave hold-out data that hardly vary, on which a model of standardised features would be at chance.
    """
    aligned = {}
    for client, (x, y) in sites.items():
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        sd = rows.std(axis=0)
        flat = (rows - rows.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
        aligned[client] = flat.reshape(x.shape).astype(np.float32), y
    return aligned
