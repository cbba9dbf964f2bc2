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
    held = np.zeros(len(source.y), dtype=np.bool_) if source.test else _held(source, fraction, seed)
    features = source.features(held)
    test = source.test or Labelled(features.x[held], source.y[held])
    filled = features.filled
    return Examples(
        x=features.x if source.test else features.x[~held],
        y=source.y[~held],
        classes=source.classes,
        clients=None if source.clients is None else source.clients[~held],
        test_x=test.x,
        test_y=test.y,
        feature_names=features.names,
        fitted=features.fitted,
        filled=None if filled is None else filled[~held],
        test_filled=None if filled is None else filled[held],
        skipped=source.skipped,
    )


def _held(source: Source, fraction: float, seed: int) -> NDArray[np.bool_]:
    held = stratified(source.y, fraction, np.random.default_rng([seed, STREAM]))
    if not held.any():
        raise DataError(
            f"a class must have two examples for one to be held out as a test, got {len(held)} examples "
            f"of {len(source.classes)} classes"
        )
    if source.clients is not None:
        gone = sorted(set(source.clients.tolist()) - set(source.clients[~held].tolist()))
        if gone:
            logger.warning("%d clients have no example left but held-out ones: %s", len(gone), ", ".join(gone))
    return held


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
