"""Changes the data of clients, or the hold-out data, in a workspace: before `preprocess` or after it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from plants import Operation

from tasks.clients import CLIENTS, TEST, Form, Stored, client_sizes, find, read_preprocessed, read_raw, writing
from tasks.files import read_json, replacing, write_json
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.settings import Settings

_PARTITION = "data/partition"
_Sizes = dict[str, int]
"""Number of examples by client."""


def write_data(
    case: Case, settings: Settings, healthy: Settings, source: Path, clients: list[str], folder: Path, raw: Path
) -> None:
    """Writes data/clients into `folder`, with what the case changes from its onset on.

    Args:
        case: says what is changed.
        settings: from the onset on.
        healthy: the settings before it.
        source: workspace of the healthy run, with data/partition and data/clients.
        clients: the planted ones.
        folder: a workspace; its data/clients is replaced.
        raw: gets data/partition, if the case changes it. In a workspace, it would show whose data were changed later.
    """
    shutil.rmtree(folder / CLIENTS, ignore_errors=True)
    if settings.partition != healthy.partition:
        partition(settings, folder)
        preprocess(settings, folder)
    else:
        taken = _PARTITION if case.what.raw else CLIENTS
        shutil.copytree(source / taken, folder / taken)
    if case.what.raw:
        root = folder / _PARTITION
        record = read_json(root / "partition.json")
        sizes = client_sizes(record, root / "partition.json", "partition")
        form = Form(tuple(record["input_shape"]), len(record["classes"]), "partition.json")
        found = find(root, sizes, form, lambda _: None, "partition")
        _change(root, found, _operations(case, sizes, clients), case.seed, lambda _: {"partition.json": record})
        preprocess(settings, folder)
        shutil.rmtree(raw, ignore_errors=True)
        shutil.copytree(root, raw / _PARTITION)
    else:
        change(folder, lambda sizes: _operations(case, sizes, clients), case.seed)
    shutil.rmtree(folder / _PARTITION, ignore_errors=True)


def change(folder: Path, operations: Callable[[_Sizes], Mapping[str, Operation]], seed: int) -> None:
    """Changes data/clients of the workspace `folder` by the operations, which the clients' sizes decide."""
    root = folder / CLIENTS
    read = read_preprocessed(root)
    found = {**read.stored, TEST: read.test}
    chosen = operations(dict(read.sizes))
    if chosen:
        _change(root, found, chosen, seed, lambda sizes: {"preprocess.json": {**read.content, "clients": sizes}})


def unchanged(before: Path, after: Path, clients: list[str]) -> list[str]:
    """Returns the clients whose data are equal in two workspaces: reversing the labels keeps the middle label."""
    then, now = (read_preprocessed(folder / CLIENTS).stored for folder in (before, after))
    return [
        client
        for client in clients
        if all(np.array_equal(*pair) for pair in zip(read_raw(then[client]), read_raw(now[client]), strict=True))
    ]


def sizes_of(folder: Path) -> _Sizes:
    """Returns the clients' numbers of examples."""
    return dict(read_preprocessed(folder / CLIENTS).sizes)


def commonest_labels(folder: Path) -> dict[str, int]:
    """Returns the most frequent label of each client."""
    stored = read_preprocessed(folder / CLIENTS).stored
    return {client: int(np.bincount(read_raw(one)[1]).argmax()) for client, one in stored.items()}


def _operations(case: Case, sizes: _Sizes, clients: list[str]) -> dict[str, Operation]:
    plant = case.what
    operations = {}
    if plant.operation is not None:
        changed = [client for client in sizes if (client in clients) != plant.to_others]
        operations = dict.fromkeys(changed, plant.operation)
    if plant.of_hold_out is not None:
        operations[TEST] = plant.of_hold_out
    return operations


def _change(
    root: Path,
    found: Mapping[str, Stored],
    operations: Mapping[str, Operation],
    seed: int,
    records: Callable[[_Sizes], dict[str, Any]],
) -> None:
    """Writes the folder `root` anew, with the sites (clients, and `test`) changed; `records` are its JSON files."""
    sizes: _Sizes = {}
    with replacing(root) as fresh:
        with writing(fresh, [site for site in found if site != TEST]) as write:
            for site, stored in found.items():
                x, y = read_raw(stored)
                if site in operations:
                    rng = np.random.default_rng([78, seed, *(b"" if site == TEST else site.encode())])
                    x, y = operations[site](np.asarray(x, np.float32), y, stored.form.num_classes, rng)
                write(site, x, y)
                sizes[site] = len(y)
        del sizes[TEST]
        for name, content in records(sizes).items():
            write_json(fresh / name, content)
