"""The clients of a run as the rounds see them: where their files are, how many examples, which weight."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.federate.aggregators import client_weights
from tasks.files import TEST, client_ids, read_client, read_json

CLIENTS = Path("data/clients")


@dataclass(frozen=True)
class Client:
    """One client of the run."""

    folder: str
    num_examples: int
    weight: float
    brightness: NDArray[np.float32]
    """The largest random shift of its preprocessed pixels, per channel; empty: none."""


@dataclass(frozen=True)
class Cohort:
    """All clients of the run, and the hold-out data that none of them trains on."""

    clients: Mapping[str, Client]
    broken: Mapping[str, str]
    """The clients whose files cannot be used, with the reason."""
    input_shape: tuple[int, ...]
    num_classes: int
    digest: str
    """md5 of all that the rounds read."""
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]


def load_cohort(folder: Path, weighting: str, brightness: float) -> Cohort:
    """Returns the clients of `folder`/data/clients, each file read once and checked.

    Args:
        folder: the workspace.
        weighting: see `client_weights`.
        brightness: the largest shift as a fraction of the original range, 0 for none; divided by the sd that each
            client's pixels were divided by.

    Raises:
        DataError: no client, no usable client, or unusable hold-out data.
    """
    root = (folder / CLIENTS).resolve()
    described = read_json(root / "preprocess.json")
    shape, num_classes = tuple(described["input_shape"]), int(described["num_classes"])
    digest = hashlib.md5(usedforsecurity=False)
    features: dict[str, NDArray[np.float32]] = {}
    broken: dict[str, str] = {}
    for client in client_ids(root):
        try:
            x, y = _read_checked(root / client, shape, num_classes)
        except DataError as exc:
            broken[client] = _to_publish(exc, root / client)
            continue
        digest.update(client.encode() + b"\0" + x.tobytes() + y.tobytes())
        features[client] = x
    if not features:
        raise DataError(f"no client can be used: {'; '.join(f'{c}: {reason}' for c, reason in broken.items())}")
    weights = client_weights(weighting, features)
    clients = {
        client: Client(str(root / client), len(x), weights[client], _brightness(described, client, brightness))
        for client, x in features.items()
    }
    test_x, test_y = _read_checked(root / TEST, shape, num_classes)
    digest.update(test_x.tobytes() + test_y.tobytes())
    return Cohort(clients, broken, shape, num_classes, digest.hexdigest(), test_x, test_y)


def _to_publish(error: DataError, folder: Path) -> str:
    """Returns the reason for clients.csv, where the client stands beside it: the same wherever the workspace is."""
    reason = str(error).removeprefix(f"client {folder.name}: ")
    return " ".join(reason.replace(f"{folder}/", "").replace(str(folder), "its files").split())


def _brightness(described: Mapping[str, Any], client: str, brightness: float) -> NDArray[np.float32]:
    if not brightness:
        return np.zeros(0, np.float32)
    return np.asarray(brightness / np.asarray(described["statistics"][client]["sd"]), np.float32)


def _read_checked(
    folder: Path, shape: tuple[int, ...], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    x, y = read_client(folder)
    if x.shape[1:] != shape or len(x) == 0:
        raise DataError(f"client {folder.name}: x must be (N, {', '.join(map(str, shape))}), N > 0, got {x.shape}")
    if not x.flags.c_contiguous:
        raise DataError(f"client {folder.name}: x must be in C order, got Fortran order")
    outside = int(np.sum((y < 0) | (y >= num_classes)))
    if outside:
        raise DataError(f"client {folder.name}: labels must be 0 to {num_classes - 1}, got {outside} others")
    if not np.isfinite(x).all():
        raise DataError(f"client {folder.name}: x must be finite, got {np.sum(~np.isfinite(x))} values that are not")
    return x, y
