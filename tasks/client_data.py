"""The clients' preprocessed examples in data/clients: which of them can be used, and what they are together."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, SettingsError, reading
from tasks.files import TEST, as_size, client_sizes, read_client, read_json

Examples = tuple[NDArray[np.float32], NDArray[np.int32]]
"""x (N, ...) and labels y (N,)."""


@dataclass(frozen=True)
class ClientData:
    """What a run trains and is measured on.

    Attributes:
        clients: each usable client's examples, N > 0.
        broken: the clients that preprocess.json names and whose files are missing, cannot be used or hold another
            number of examples, with the reason.
        test: the hold-out examples.
        described: preprocess.json.
        input_shape: of an example.
        num_classes: C.
    """

    clients: Mapping[str, Examples]
    broken: Mapping[str, str]
    test: Examples
    described: Mapping[str, Any]
    input_shape: tuple[int, ...]
    num_classes: int

    @cached_property
    def digest(self) -> str:
        """The md5 of every usable client's id and bytes, and then those of the hold-out data."""
        found = hashlib.md5(usedforsecurity=False)
        for client, (x, y) in self.clients.items():
            found.update(client.encode() + b"\0" + x.tobytes() + y.tobytes())
        found.update(self.test[0].tobytes() + self.test[1].tobytes())
        return found.hexdigest()


def read_client_data(root: Path, exclude: Collection[str] = ()) -> ClientData:
    """Returns the examples of the clients that preprocess.json names, without `exclude`; each file is read and checked.

    Raises:
        DataError: no usable client, unusable hold-out data, a folder of a client that preprocess.json does not name, or
            a preprocess.json that does not say what there must be.
        SettingsError: `exclude` names an unknown client or all clients.
    """
    path = root / "preprocess.json"
    described = read_json(path)
    shape, num_classes = shape_of(described, path)
    sizes = client_sizes(described, path, "preprocess")
    clients: dict[str, Examples] = {}
    broken: dict[str, str] = {}
    for client in _not_excluded(list(sizes), exclude):
        try:
            clients[client] = read_checked(root / client, shape, num_classes, sizes[client])
        except DataError as exc:
            broken[client] = _to_publish(exc, root / client)
    if not clients:
        raise DataError(f"no client can be used: {'; '.join(f'{c}: {reason}' for c, reason in broken.items())}")
    return ClientData(clients, broken, read_checked(root / TEST, shape, num_classes), described, shape, num_classes)


def shape_of(described: Any, path: Path) -> tuple[tuple[int, ...], int]:
    """Returns the shape of an example and the number of classes that `described`, of the preprocess.json `path`, says.

    Raises:
        DataError: it does not say them.
    """
    with reading(f"{path} must say input_shape and num_classes (run the step preprocess again)"):
        return tuple(map(as_size, described["input_shape"])), as_size(described["num_classes"])


def _not_excluded(clients: Sequence[str], exclude: Collection[str]) -> list[str]:
    unknown = sorted(set(exclude) - set(clients))
    if unknown:
        raise SettingsError(
            f"federate.exclude names {', '.join(unknown)}, which the data does not have: {', '.join(clients)}"
        )
    left = [client for client in clients if client not in set(exclude)]
    if not left:
        raise SettingsError(f"federate.exclude must leave a client, got all of them: {', '.join(clients)}")
    return left


def _to_publish(error: DataError, folder: Path) -> str:
    """Returns the reason for clients.csv, where the client stands beside it: the same wherever the workspace is."""
    reason = str(error).removeprefix(f"client {folder.name}: ")
    return " ".join(reason.replace(f"{folder}/", "").replace(str(folder), "its files").split())


def read_checked(folder: Path, shape: tuple[int, ...], num_classes: int, num_examples: int | None = None) -> Examples:
    """Returns the examples in a client's `folder`.

    Raises:
        DataError: its files are missing, damaged, empty, of another shape or another number than `num_examples` (None:
            any number), not finite, or hold labels beyond 0 … num_classes - 1.
    """
    x, y = read_client(folder)
    if num_examples is not None and len(x) != num_examples:
        raise DataError(f"client {folder.name}: must hold the {num_examples} examples of preprocess.json, got {len(x)}")
    if x.shape[1:] != shape or len(x) == 0:
        said = f"(N, {', '.join(map(str, shape))}), N > 0, as preprocess.json says"
        raise DataError(f"client {folder.name}: x must be {said}, got {x.shape}")
    if not x.flags.c_contiguous:
        raise DataError(f"client {folder.name}: x must be in C order, got Fortran order")
    outside = int(np.sum((y < 0) | (y >= num_classes)))
    if outside:
        said = f"0 to {num_classes - 1}, as preprocess.json says"
        raise DataError(f"client {folder.name}: labels must be {said}, got {outside} others")
    if not np.isfinite(x).all():
        raise DataError(f"client {folder.name}: x must be finite, got {np.sum(~np.isfinite(x))} values that are not")
    return x, y
