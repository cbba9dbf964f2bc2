"""The part of the examples that no client trains on."""

import logging

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.examples import Examples, Labelled, Source
from tasks.errors import DataError

logger = logging.getLogger(__name__)

STREAM = 0x401D
"""Which of the seed's random streams draws the hold-out."""


def hold_out(source: Source, fraction: float, seed: int) -> Examples:
    """Returns the examples of `source` with its own test set, or else with a stratified `fraction` of it as test set.

    The split is over labels alone, also where examples have clients. A client whose every example is held out takes
    no part in the training any more; it is named in a warning.

    Raises:
        DataError: every class has one example, so that nothing can be held out.
    """
    train, test, clients = source.train, source.test, source.clients
    if test is None:
        held = stratified(train.y, fraction, np.random.default_rng([seed, STREAM]))
        if not held.any():
            raise DataError(
                f"a class must have two examples for one to be held out as a test, got {len(train.y)} examples "
                f"of {len(source.classes)} classes"
            )
        test = Labelled(train.x[held], train.y[held])
        train = Labelled(train.x[~held], train.y[~held])
        if clients is not None:
            gone = sorted(set(clients.tolist()) - set(clients[~held].tolist()))
            if gone:
                logger.warning("%d clients have no example left but held-out ones: %s", len(gone), ", ".join(gone))
            clients = clients[~held]
    return Examples(train.x, train.y, source.classes, clients, test.x, test.y)


def stratified(y: NDArray[np.int32], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Returns which of the examples with labels y (N,) are held out, (N,).

    Of a class with n examples, `fraction` · n are held out, rounded, but at least 1 and at most n - 1; the only
    example of a class stays, for a class must be trained on. So each class is within one example of its share.
    """
    held = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) >= 2:
            count = int(np.clip(round(fraction * len(members)), 1, len(members) - 1))
            held[rng.permutation(members)[:count]] = True
    return held
