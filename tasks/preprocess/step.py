"""The step `preprocess`: data/partition becomes data/clients."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import outputs
from tasks.clients import TEST, TEST_SHARD, Form, Raw, Stored, client_sizes, find, read_raw_checked, writing
from tasks.errors import DataError, advising, reading
from tasks.files import as_size, read_json, replacing, write_json
from tasks.local.description import Description, describe, write_descriptions
from tasks.preprocess.standardise import Normalize, Standardisation, standardisations, standardise
from tasks.settings import PreprocessSettings, Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Partition:
    """The content of data/partition."""

    stored: dict[str, Stored]
    """the examples of each site: the clients, sorted by id, and then `test`"""
    sizes: dict[str, int]
    """number of examples by client"""
    classes: list[str]
    images: bool
    form: Form

    def read(self, site: str, dtype: type[np.generic] | None = None) -> Raw:
        """Returns a site's examples as they are stored, x of type `dtype` (None: of either type)."""
        with advising("run the step partition again"):
            x, y = read_raw_checked(self.stored[site])
            if dtype is not None and x.dtype != dtype:
                raise DataError(f"client {site}: x must be {np.dtype(dtype)} as in {TEST_SHARD}, got {x.dtype}")
            return x, y


_Prepared = tuple[Mapping[str, Standardisation], Mapping[str, Description]]
"""By site; a client without a description cannot be used."""


def preprocess(settings: Settings, folder: Path) -> None:
    """Writes `data/clients`, with preprocess.json and descriptions.json, from `data/partition`: all of it, or nothing.

    The data of one client are in memory at a time. Features of float32 are standardised here. 8-bit images stay as
    they are: the shards of `data/clients` are those of `data/partition`, byte by byte, so DVC stores them once, and
    whoever reads them standardises them with the statistics in preprocess.json. The random changes of `augment` happen
    during training.

    Raises:
        DataError: (1) a client's examples are missing, damaged, empty, not finite or of another shape than in
            partition.json, (2) `augment` or `resize` is set, but the data are a table, (3) the images do not have the
            size `resize`, or (4) some clients have 8-bit images and others do not.
    """
    with outputs.renewed(outputs.of("preprocess", folder)):
        _preprocess(settings, folder)


def _preprocess(settings: Settings, folder: Path) -> None:
    chosen = settings.preprocess
    source = folder / "data" / "partition"
    with advising("run the step partition again"):
        partition = _read_partition(source / "partition.json")
    if not partition.images:
        _refuse_settings_of_images(chosen)
    elif chosen.resize and partition.form.input_shape[:2] != chosen.resize:
        raise DataError(
            f"preprocess.resize must be the size of the images in {source}, {list(partition.form.input_shape[:2])}, "
            f"got {list(chosen.resize)}: run the step partition again, which resizes them"
        )
    of_bytes = partition.read(TEST)[0].dtype == np.uint8
    with replacing(folder / "data" / "clients") as fresh:
        by_site, descriptions = (_copy if of_bytes else _standardise)(chosen.normalize, partition, fresh)
        write_descriptions(fresh, descriptions)
        write_json(
            fresh / "preprocess.json",
            {
                "input_shape": list(partition.form.input_shape),
                "num_classes": len(partition.classes),
                "clients": partition.sizes,
                "classes": partition.classes,
                "images": partition.images,
                "normalize": chosen.normalize,
                "statistics": _recorded(chosen.normalize, by_site),
            },
        )
    _log.info(
        "%d clients and the test set: examples of %s, normalize %s",
        len(partition.sizes),
        partition.form.input_shape,
        chosen.normalize,
    )


def _copy(normalize: Normalize, partition: _Partition, target: Path) -> _Prepared:
    """Copies the shards of 8-bit images into `target`."""
    descriptions = {}

    def read(site: str) -> NDArray[Any]:
        x, y = partition.read(site, np.uint8)
        if site != TEST:
            descriptions[site] = describe(site, (x, y), partition.form)
        return x

    by_site = standardisations(normalize, ((site, read(site)) for site in partition.stored))
    target.mkdir()
    for shard in sorted({stored.shard for stored in partition.stored.values()}):
        with shard.open("rb") as old, (target / shard.name).open("wb") as new:
            shutil.copyfileobj(old, new)  # the error of shutil.copyfile for a full disk names the wrong files
    return by_site, descriptions


def _standardise(normalize: Normalize, partition: _Partition, target: Path) -> _Prepared:
    """Writes standardised features into `target`.

    Only `global` reads the data twice, because it needs the moments of all clients before it can standardise the first.
    """
    by_site: dict[str, Standardisation] = {}
    descriptions = {}
    if normalize == "global":
        by_site = standardisations(normalize, ((s, partition.read(s, np.float32)[0]) for s in partition.stored))
    with writing(target, list(partition.sizes)) as write:
        for site in partition.stored:
            x, y = partition.read(site, np.float32)
            if normalize != "global":
                by_site |= standardisations(normalize, [(site, x)])
            x = x if normalize == "none" else standardise(np.asarray(x, np.float32), by_site[site])
            write(site, x, y)
            description = None if site == TEST else _described(site, (x, y), partition.form)
            if description is not None:
                descriptions[site] = description
    return by_site, descriptions


def _recorded(normalize: Normalize, by_site: Mapping[str, Standardisation]) -> dict[str, Any]:
    """Returns `statistics` of preprocess.json; tasks.clients.statistics_of reads them."""

    def listed(by: Standardisation) -> dict[str, list[float]]:
        return {"mean": by.mean.tolist(), "sd": by.sd.tolist()}

    if normalize == "client":
        return {"by_client": {site: listed(by) for site, by in by_site.items()}}
    return {"of_all": listed(by_site[TEST])}


def _read_partition(path: Path) -> _Partition:
    raw = read_json(path)
    sizes = client_sizes(raw, path, "partition") if isinstance(raw, dict) and "clients" in raw else {}
    with reading(f"{path} must hold clients, classes, images and input_shape"):
        classes, images, shape = raw["classes"], raw["images"], tuple(map(as_size, raw["input_shape"]))
        if not all(isinstance(name, str) for name in classes) or type(images) is not bool:
            raise TypeError("classes that are no texts, or images that is neither true nor false")
        if not sizes:
            raise KeyError("clients")
        "".join(classes).encode()  # JSON can hold half a character, with which preprocess.json cannot be written
    form = Form(shape, len(classes), "partition.json")
    # No statistics: nothing is normalised before its moments are known.
    return _Partition(find(path.parent, sizes, form, lambda _: None, "partition"), sizes, list(classes), images, form)


def _refuse_settings_of_images(chosen: PreprocessSettings) -> None:
    for name, value in (
        ("resize", list(chosen.resize)),
        ("augment.flip", chosen.augment.flip),
        ("augment.brightness", chosen.augment.brightness),
    ):
        if value:
            raise DataError(f"preprocess.{name} needs images, and the data is a table: leave it unset, got {value}")


def _described(client: str, examples: Raw, form: Form) -> Description | None:
    """Returns a client's description; None if the standardised values are not finite, which `federate` reports."""
    try:
        return describe(client, examples, form)
    except DataError:
        return None
