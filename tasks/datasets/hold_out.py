"""The choice of the hold-out data: the examples that no client trains on."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.examples import Labelled, RawExamples, Source
from tasks.datasets.groups import whole_groups
from tasks.datasets.spool import select
from tasks.errors import DataError, listed
from tasks.settings import DataSettings, naming

_log = logging.getLogger(__name__)

HOLD_OUT_STREAM = 0x401D
"""The seed's random stream that draws the hold-out data."""

_NAMED = 20
"""Most clients that a line names."""
_BLOCK = 1000
"""Examples that are read at a time."""


def hold_out(source: Source, settings: DataSettings, seed: int) -> RawExamples:
    """Returns the training and hold-out examples of `source`.

    The hold-out data are the first of these that applies:

    1. All examples of the clients in `hold_out_clients`, which must be empty if the source has its own test set.
    2. The source's own test set.
    3. If the source has groups: whole groups, with nearly `test_fraction` of the examples.
    4. `test_fraction` of the examples of each label. The clients are not considered.

    In cases 3 and 4, a warning names the clients whose examples are all held out: they do not train.

    Raises:
        DataError: nothing can be held out, a class would have no training example, or a group would be in both parts.
    """
    held = _held(source, settings, seed)
    described = _described(source, settings, held)
    features = source.features(held)
    test = source.test or Labelled(select(features.x, held), source.y[held])
    filled = features.filled
    return RawExamples(
        x=features.x if source.test else select(features.x, ~held),
        y=source.y[~held],
        classes=source.classes,
        clients=None if source.clients is None else source.clients[~held],
        test_x=test.x,
        test_y=test.y,
        feature_names=features.names,
        fitted=features.fitted,
        filled=None if filled is None else filled[~held],
        test_filled=None if filled is None else filled[held],
        test_digest=_digest(features.held_digest, test, source.classes),
        skipped=source.skipped,
        held_out=described,
    )


def _digest(held: str, test: Labelled, classes: Sequence[str]) -> str:
    """Returns the md5 of the hold-out examples and the names of their classes; `held` is `SourceFeatures.held_digest`.

    The names, because a new class of the training examples can change the numbers of the others.
    """
    digest = hashlib.md5(held.encode(), usedforsecurity=False)
    for begin in range(0, 0 if held else len(test.y), _BLOCK):
        block = test.x[np.arange(begin, min(begin + _BLOCK, len(test.y)))]
        digest.update(f"{block.dtype}{block.shape}".encode() + np.ascontiguousarray(block).tobytes())
    digest.update("\0".join(classes[label] for label in test.y.tolist()).encode())
    return digest.hexdigest()


def _held(source: Source, settings: DataSettings, seed: int) -> NDArray[np.bool_]:
    if settings.hold_out_clients:
        with naming("data.hold_out_clients"):
            return _of_clients(source, settings.hold_out_clients)
    if source.test:
        return np.zeros(len(source.y), dtype=np.bool_)
    rng = np.random.default_rng([seed, HOLD_OUT_STREAM])
    if source.groups is not None:
        with naming("data.group_column"):
            held = whole_groups(source.y, source.groups, settings.test_fraction, rng)
    else:
        held = stratified(source.y, settings.test_fraction, rng)
    if not held.any():
        raise DataError(
            f"a class must have two examples, so that one can be held out, got {len(held)} examples "
            f"of {len(source.classes)} classes"
        )
    if source.clients is not None:
        gone = sorted(set(source.clients.tolist()) - set(source.clients[~held].tolist()))
        if gone:
            _log.warning("%d clients have hold-out examples only and do not train: %s", len(gone), listed(gone, _NAMED))
    return held


def _of_clients(source: Source, named: Sequence[str]) -> NDArray[np.bool_]:
    """Returns (N,) which examples belong to the clients `named`.

    Raises:
        DataError: the data have no clients, or have their own test set; a client is unknown; no client would be left to
            train, or a class would have no training example.
    """
    if source.test:
        raise DataError(
            "data.hold_out_clients must be empty if the data has its own test set (test.npz): remove the test set or "
            f"leave the setting empty, got {listed(named, _NAMED)}"
        )
    if source.clients is None:
        raise DataError(
            "data.hold_out_clients needs data that name each example's client (data.kind clients or synthetic, "
            "data.client_column in a table, a column client in a CSV of images): leave it empty, got "
            f"{listed(named, _NAMED)}"
        )
    there = np.unique(source.clients).tolist()
    unknown = sorted(set(named) - set(there))
    if unknown:
        raise DataError(
            f"data.hold_out_clients must name clients of the data, {listed(there, _NAMED)}, "
            f"got {listed(unknown, _NAMED)}"
        )
    held = np.isin(source.clients, named)
    if held.all():
        raise DataError(f"data.hold_out_clients must leave a client to train on, got all {len(there)} of them")
    lost = [source.classes[label] for label in np.setdiff1d(source.y, source.y[~held])]
    if lost:
        raise DataError(
            f"data.hold_out_clients must leave a training example of every class, got none of class {lost[0]!r} "
            f"({len(lost)} such classes), which only {listed(named, _NAMED)} have: hold out other clients"
        )
    return np.asarray(held)


def _described(source: Source, settings: DataSettings, held: NDArray[np.bool_]) -> dict[str, Any]:
    """Returns `held_out` of partition.json, and logs it: the hold-out clients and the numbers of groups.

    Raises:
        DataError: a group is in both parts. This happens only if clients share a group.
    """
    described: dict[str, Any] = {}
    if settings.hold_out_clients:
        clients = described["clients"] = sorted(set(settings.hold_out_clients))
        _log.info("the hold-out set is the %d examples of the clients %s", held.sum(), listed(clients, _NAMED))
    if source.groups is not None:
        train, test = set(source.groups[~held].tolist()), set(source.groups[held].tolist())
        both = sorted(train & test)
        if both:
            raise DataError(
                f"no group of data.group_column {settings.group_column!r} can be in both training and hold-out data, "
                f"but {both[0]!r} ({len(both)} such groups) has clients in and out of data.hold_out_clients: hold out "
                "all clients of a group, or leave one of the two settings empty"
            )
        described["groups"] = {"column": settings.group_column, "train": len(train), "test": len(test)}
        _log.info(
            "groups of %r: %d for training and %d held out, with %.1f %% of the examples",
            settings.group_column,
            len(train),
            len(test),
            100 * held.mean(),
        )
    return described


def stratified(y: NDArray[np.int32], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Returns (N,) which of the examples with labels y (N,) are held out.

    Of a class with n examples, `fraction` · n are held out, rounded, at least 1 and at most n - 1. The only example of
    a class is not held out, because each class needs a training example. So each class is within one example of its
    fraction.
    """
    held = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) >= 2:
            count = int(np.clip(round(fraction * len(members)), 1, len(members) - 1))
            held[rng.permutation(members)[:count]] = True
    return held
