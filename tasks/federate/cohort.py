"""The clients of a run as the rounds need them: where their data are, number of examples, weight.

The server knows about a client's data only what the client's description says. The one exception is a public set
(public.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import CLIENTS, Examples, Stored, mean_and_sd, statistics_of
from tasks.errors import DataError
from tasks.federate.aggregators import client_weights, weighting_of
from tasks.federate.public import public_examples
from tasks.local.description import feature_variance
from tasks.runtime.carry import at_clients
from tasks.runtime.check_in import CheckedIn, check_in
from tasks.runtime.failed import Failed
from tasks.settings import Settings


@dataclass(frozen=True)
class Client:
    """One client of the run."""

    stored: Stored
    num_examples: int
    weight: float
    share: float
    """`weight` over the sum of all clients' weights."""
    brightness: NDArray[np.float32]
    """(channels,) the largest random brightness shift, in units of its preprocessed pixels; empty without a shift."""
    labels: NDArray[np.int64]
    """(C,) examples of each class, without the public ones."""


@dataclass(frozen=True)
class Cohort:
    """All clients of the run, and the hold-out data that none of them trains on."""

    clients: Mapping[str, Client]
    broken: Mapping[str, str]
    """The clients whose examples cannot be used, each with the reason."""
    input_shape: tuple[int, ...]
    num_classes: int
    normalize: str
    """The `preprocess.normalize` with which the examples were preprocessed."""
    digest: str
    """md5 of all data that the rounds read."""
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]
    public: Examples | None = None
    """The public examples, which every client adds to its own. A client trains twice on its own public examples."""


def cohort_of(settings: Settings, folder: Path) -> Cohort:
    """Returns the clients of `folder`/data/clients, with the present descriptions of their data.

    Raises:
        DataError: there is no client, no usable client, or no usable hold-out data.
        SettingsError: (1) `federate.shared_fraction` is too small for one example of each label, or (2)
            `federate.exclude` names an unknown client or all clients.
    """
    return cohort_from(settings, check_in((folder / CLIENTS).resolve(), settings.federate.exclude))


def cohort_from(settings: Settings, checked_in: CheckedIn) -> Cohort:
    """Returns the clients that checked in, with the weights and the public examples that `settings` give them.

    Raises:
        DataError: there is no usable client, or no usable hold-out data.
        SettingsError: `federate.shared_fraction` is too small for one example of each label.
    """
    federate = settings.federate
    return _cohort(
        checked_in,
        weighting_of(federate.aggregator),
        settings.preprocess.augment.brightness,
        federate.shared_fraction,
        settings.seed,
    )


def _cohort(checked_in: CheckedIn, weighting: str, brightness: float, shared_fraction: float, seed: int) -> Cohort:
    form, stored = checked_in.form, checked_in.stored
    public = public_examples(stored.values(), shared_fraction, seed) if shared_fraction else None
    num_public = 0 if public is None else len(public[1])
    sizes = {client: description.num_examples + num_public for client, description in checked_in.clients.items()}
    weights = client_weights(weighting, sizes, lambda: _variances(checked_in, public))
    total = sum(weights.values())
    content = checked_in.preprocessed.content
    clients = {
        client: Client(
            stored=stored[client],
            num_examples=sizes[client],
            weight=weights[client],
            share=weights[client] / total,
            brightness=_brightness(content, client, brightness),
            labels=np.array(description.labels, np.int64),
        )
        for client, description in checked_in.clients.items()
    }
    normalize = str(content.get("normalize", "none"))
    return Cohort(
        clients,
        checked_in.broken,
        form.input_shape,
        form.num_classes,
        normalize,
        checked_in.digest,
        *checked_in.test,
        public,
    )


def _variances(checked_in: CheckedIn, public: Examples | None) -> dict[str, float]:
    compute = partial(feature_variance, public=public)
    variances = {}
    for client, answer in at_clients(compute, checked_in.stored).items():
        if isinstance(answer, Failed):
            raise DataError(answer.reason)
        variances[client] = answer
    return variances


def _brightness(preprocessed: Mapping[str, Any], client: str, brightness: float) -> NDArray[np.float32]:
    if not brightness:
        return np.zeros(0, np.float32)
    _, sd = mean_and_sd(statistics_of(preprocessed, client), client, preprocessed["input_shape"][-1])
    return np.asarray(brightness / sd, np.float32)
