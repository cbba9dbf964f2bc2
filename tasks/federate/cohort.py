"""The clients of a run as the rounds see them: where their files are, how many examples, which weight."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.client_data import read_client_data
from tasks.errors import SettingsError, reading, shown
from tasks.federate.aggregators import client_weights, weighting_of
from tasks.settings import Settings

CLIENTS = Path("data/clients")

# First word of the seed of the public set's draw; schedule.py has 1 to 3, local/faults.py 5.
_PUBLIC = 4


@dataclass(frozen=True)
class Client:
    """One client of the run."""

    folder: str
    num_examples: int
    weight: float
    share: float
    """Its share of the weight of all clients."""
    brightness: NDArray[np.float32]
    """The largest random shift of its preprocessed pixels, per channel; empty: none."""
    labels: NDArray[np.int64]
    """(C,) examples of each class, without the public ones."""


@dataclass(frozen=True)
class Cohort:
    """All clients of the run, and the hold-out data that none of them trains on."""

    clients: Mapping[str, Client]
    broken: Mapping[str, str]
    """The clients whose files cannot be used, with the reason."""
    input_shape: tuple[int, ...]
    num_classes: int
    normalize: str
    """What `preprocess` did to the examples: its `normalize`."""
    digest: str
    """md5 of all that the rounds read."""
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]
    shared: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None
    """The public examples that every client adds to its own; those that it drew from a client, that one has twice."""


def cohort_of(settings: Settings, folder: Path) -> Cohort:
    """Returns the clients of `folder`/data/clients as `settings` would have them; see `load_cohort`."""
    federate = settings.federate
    return load_cohort(
        folder,
        weighting_of(federate.aggregator),
        settings.preprocess.augment.brightness,
        federate.shared_fraction,
        settings.seed,
        federate.exclude,
    )


def load_cohort(
    folder: Path,
    weighting: str,
    brightness: float,
    shared_fraction: float = 0.0,
    seed: int = 0,
    exclude: Collection[str] = (),
) -> Cohort:
    """Returns the clients of `folder`/data/clients, each file read once and checked.

    Args:
        folder: the workspace.
        weighting: see `client_weights`.
        brightness: the largest shift as a fraction of the original range, 0 for none; divided by the sd that each
            client's pixels were divided by.
        shared_fraction: size of the public set that every client adds, as a fraction of all training examples.
        seed: of the draw of the public set.
        exclude: clients that are left out.

    Raises:
        DataError: no client, no usable client, or unusable hold-out data.
        SettingsError: `shared_fraction` is too small for one example of each label, or `exclude` names an unknown
            client or all clients.
    """
    root = (folder / CLIENTS).resolve()
    held = read_client_data(root, exclude)
    described, num_classes = held.described, held.num_classes
    features = {client: x for client, (x, _) in held.clients.items()}
    labels = {client: y for client, (_, y) in held.clients.items()}
    shared = _public(features, labels, shared_fraction, seed) if shared_fraction else None
    if shared is not None:
        features = {client: np.concatenate([x, shared[0]]) for client, x in features.items()}
    weights = client_weights(weighting, features)
    total = sum(weights.values())
    clients = {
        client: Client(
            folder=str(root / client),
            num_examples=len(x),
            weight=weights[client],
            share=weights[client] / total,
            brightness=_brightness(described, client, brightness),
            labels=np.bincount(labels[client], minlength=num_classes),
        )
        for client, x in features.items()
    }
    normalize = str(described.get("normalize", "none"))
    return Cohort(clients, held.broken, held.input_shape, num_classes, normalize, held.digest, *held.test, shared)


def _public(
    features: Mapping[str, NDArray[np.float32]], labels: Mapping[str, NDArray[np.int32]], fraction: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns round(fraction · N) examples, as many of each label as there are (Zhao 2018, arXiv 1806.00582)."""
    x, y = np.concatenate(list(features.values())), np.concatenate(list(labels.values()))
    present = np.unique(y)
    size = round(fraction * len(y))
    if size < len(present):
        raise SettingsError(
            f"federate.shared_fraction must give at least one example of each of the {len(present)} labels "
            f"({len(present) / len(y):.3g} or more), got {fraction:g} of {len(y)} examples"
        )
    order = np.random.default_rng([_PUBLIC, seed]).permutation(len(y))
    # The first of every label, then the second of every label, and so on.
    rank = np.empty(len(y), np.int64)
    for label in present:
        mine = order[y[order] == label]
        rank[mine] = np.arange(len(mine))
    chosen = order[np.lexsort((y[order], rank[order]))][:size]
    return x[chosen], y[chosen]


def _brightness(described: Mapping[str, Any], client: str, brightness: float) -> NDArray[np.float32]:
    if not brightness:
        return np.zeros(0, np.float32)
    with reading(f"preprocess.json must say client {client}'s sd (run the step preprocess again)"):
        sd = np.asarray(described["statistics"][client]["sd"], np.float64)
        if sd.shape != (described["input_shape"][-1],) or not (np.isfinite(sd) & (sd > 0)).all():
            raise ValueError(f"{shown(sd.tolist())} for {described['input_shape'][-1]} channels")
        return np.asarray(brightness / sd, np.float32)
