"""The step `partition`: divides the raw data over the clients and measures the skew."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tasks import outputs
from tasks.arrays import Features, as_float32
from tasks.clients import TEST, Form, digest_of, find, read_raw, writing
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
    with naming("partition.kind"):
        change = change_for(settings.partition, data.x, seed)
        division = divide(data, settings.partition, seed)
    numbers = {division.ids[k]: k for k, part in enumerate(division.parts) if len(part)}
    counts = np.array([_counts(data.y[division.parts[k]], data.classes) for k in numbers.values()])
    described: dict[str, dict[str, Any]] = {}
    with replacing(folder / "data" / "partition") as fresh:
        with writing(fresh, list(numbers)) as write:
            for name, k in numbers.items():
                part = division.parts[k]
                with naming("partition.kind"):
                    x, changes = change(data.x[part], k)
                y = data.y[part]
                write(name, x, y)
                described[name] = {
                    "num_examples": len(y),
                    "counts": _counts(y, data.classes).tolist(),
                    "digest": digest_of((x, y)),
                    **changes,
                    **_filled(None if data.filled is None else data.filled[part]),
                }
            # Changed pixels are float32. The hold-out data have the same type, so that one model reads both.
            test_x = data.test_x[:] if x.dtype == np.uint8 else as_float32(data.test_x[:])
            write(TEST, test_x, data.test_y)
        by_client = skew_by_client(
            _Written(fresh, data, {name: len(division.parts[k]) for name, k in numbers.items()}),
            counts,
            data.x.ndim == 4,
            np.random.default_rng([seed, SKEW_STREAM]),
        )
        for name, measures in zip(numbers, by_client, strict=True):
            described[name] |= measures
        record = _record(settings.partition.kind, seed, data, described) | {
            "dropped": [name for name in division.ids if name not in described],
            "skew": summary(by_client, counts.sum(axis=1)),
        }
        write_json(fresh / "partition.json", record)
        with replacing(folder / "reports" / "labels.png") as picture:
            draw_label_counts(picture, counts, list(numbers), data.classes)
    _report(record)


class _Written(Sequence[Features]):
    """The features of the clients as they were written, in the order of their ids; each is read when it is needed.

    A shard is read from its beginning to its end. In the raw data, a client's examples are anywhere, and
    `partition.kind` would have to change them again.
    """

    def __init__(self, root: Path, data: RawExamples, sizes: Mapping[str, int]) -> None:
        """`root` has the shards, and `sizes` the number of examples of each client, sorted by id."""
        form = Form(data.x.shape[1:], len(data.classes), "partition.json")
        found = find(root, sizes, form, lambda _: None, "partition")
        self._stored = [found[client] for client in sizes]

    def __len__(self) -> int:
        return len(self._stored)

    @overload
    def __getitem__(self, place: int) -> Features: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Features]: ...

    def __getitem__(self, place: int | slice) -> Features | Sequence[Features]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        return read_raw(self._stored[place])[0]


def _filled(cells: NDArray[np.int64] | None) -> dict[str, int]:
    return {} if cells is None else {"filled": int(cells.sum())}


def _counts(y: NDArray[np.int32], classes: Sequence[str]) -> NDArray[np.int64]:
    return np.bincount(y, minlength=len(classes))


def _record(kind: str, seed: int, data: RawExamples, clients: dict[str, dict[str, Any]]) -> dict[str, Any]:
    record = {
        "kind": kind,
        "seed": seed,
        "input_shape": list(data.x.shape[1:]),
        "images": data.x.ndim == 4,
        "classes": list(data.classes),
        "num_examples": len(data.y),
        "clients": clients,
        "test": {
            "num_examples": len(data.test_y),
            "counts": _counts(data.test_y, data.classes).tolist(),
            "digest": data.test_digest,
            **_filled(data.test_filled),
        },
    }
    if data.feature_names:
        record["features"] = {"names": list(data.feature_names), **data.fitted}
    if data.held_out:
        record["held_out"] = dict(data.held_out)
    if data.skipped:
        record["unreadable"] = data.skipped.described()
    return record


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
