"""The step `partition`: divides the raw data over the clients and measures the skew."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import outputs
from tasks.clients import TEST, write_client
from tasks.datasets import RawExamples, load_raw
from tasks.files import replacing, write_json
from tasks.partition.division import divide
from tasks.partition.features import change_for
from tasks.partition.label_picture import draw_label_counts
from tasks.partition.skew import skew_by_client, summary
from tasks.settings import Settings, naming

SKEW_STREAM = 23
"""Separates the draws of the skew measures' examples from all others of the same seed."""

_NAMED = 10
"""Most clients that a line of the log names."""

_log = logging.getLogger(__name__)


def partition(settings: Settings, folder: Path) -> None:
    """Writes data/partition and reports/labels.png into the workspace `folder`: both completely, or neither.

    A client's examples keep the order of the raw data. The hold-out data are not divided and not changed. Clients
    without examples are left out, and `dropped` in partition.json names them.

    Raises:
        DataError: the data cannot be used, or cannot be divided as `settings.partition` says; nothing was written.
    """
    with outputs.renewed(outputs.of("partition", folder)):
        _partition(settings, folder)


def _partition(settings: Settings, folder: Path) -> None:
    seed = settings.seed if settings.partition.seed < 0 else settings.partition.seed
    data = load_raw(settings.data, seed, folder, settings.preprocess.resize)
    clients: dict[str, _Client] = {}
    with naming("partition.kind"):
        change = change_for(settings.partition, data.x, seed)
        division = divide(data, settings.partition, seed)
        for k, (name, part) in enumerate(zip(division.ids, division.parts, strict=True)):
            if len(part):
                x, changes = change(data.x[part], k)
                filled = None if data.filled is None else data.filled[part]
                clients[name] = _Client(x, data.y[part], changes | _filled(filled))

    counts = np.array([_counts(client.y, data.classes) for client in clients.values()])
    record = _record(settings.partition.kind, seed, data, clients, counts)
    record["dropped"] = [name for name in division.ids if name not in clients]
    if data.held_out:
        record["held_out"] = dict(data.held_out)
    if data.skipped:
        record["unreadable"] = data.skipped.described()
    with replacing(folder / "data" / "partition") as fresh:
        for name, client in clients.items():
            write_client(fresh / name, client.x, client.y)
        write_client(fresh / TEST, data.test_x, data.test_y)
        write_json(fresh / "partition.json", record)
        with replacing(folder / "reports" / "labels.png") as picture:
            draw_label_counts(picture, counts, list(clients), data.classes)
    _report(record)


@dataclass(frozen=True, eq=False)
class _Client:
    x: NDArray[np.float32]
    y: NDArray[np.int32]
    described: dict[str, Any]


def _filled(cells: NDArray[np.int64] | None) -> dict[str, int]:
    return {} if cells is None else {"filled": int(cells.sum())}


def _counts(y: NDArray[np.int32], classes: Sequence[str]) -> NDArray[np.int64]:
    return np.bincount(y, minlength=len(classes))


def _record(
    kind: str, seed: int, data: RawExamples, clients: dict[str, _Client], counts: NDArray[np.int64]
) -> dict[str, Any]:
    images = data.x.ndim == 4
    rng = np.random.default_rng([seed, SKEW_STREAM])
    by_client = skew_by_client([client.x for client in clients.values()], counts, images, rng)
    return {
        "kind": kind,
        "seed": seed,
        "input_shape": list(data.x.shape[1:]),
        "images": images,
        "classes": list(data.classes),
        "num_examples": len(data.y),
        "clients": {
            name: {"num_examples": len(client.y), "counts": row.tolist(), **client.described, **measures}
            for (name, client), row, measures in zip(clients.items(), counts, by_client, strict=True)
        },
        "test": {
            "num_examples": len(data.test_y),
            "counts": _counts(data.test_y, data.classes).tolist(),
            **_filled(data.test_filled),
        },
        "skew": summary(by_client, counts.sum(axis=1)),
    } | ({"features": {"names": list(data.feature_names), **data.fitted}} if data.feature_names else {})


def _report(record: dict[str, Any]) -> None:
    filled = {name: client["filled"] for name, client in record["clients"].items() if client.get("filled")}
    if filled:
        named = ", ".join(f"{name} {cells}" for name, cells in list(filled.items())[:_NAMED])
        _log.info(
            "%d missing cells filled at %d clients (%s%s), and %d of the hold-out data",
            sum(filled.values()),
            len(filled),
            named,
            ", ..." if len(filled) > _NAMED else "",
            record["test"]["filled"],
        )
    dropped, sizes = record["dropped"], [client["num_examples"] for client in record["clients"].values()]
    if dropped:
        named = ", ".join(dropped[:_NAMED]) + (", ..." if len(dropped) > _NAMED else "")
        _log.warning("%d clients got no example and are left out: %s", len(dropped), named)
    _log.info(
        "%d examples over %d clients, %d to %d each, and %d held out; earth mover's distance of the labels %.2f on "
        "average, %.2f at most",
        record["num_examples"],
        len(sizes),
        min(sizes),
        max(sizes),
        record["test"]["num_examples"],
        record["skew"]["earth_mover_mean"],
        record["skew"]["earth_mover_max"],
    )
