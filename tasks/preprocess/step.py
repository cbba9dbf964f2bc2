"""The step `preprocess`: data/partition becomes data/clients."""

import logging
from dataclasses import dataclass
from pathlib import Path

from tasks import outputs
from tasks.clients import TEST, Examples, Form, client_sizes, read_checked, write_client
from tasks.errors import DataError, advising, reading
from tasks.files import as_size, read_json, replacing, write_json
from tasks.local.description import Description, describe, write_descriptions
from tasks.local.moments import moments
from tasks.preprocess.standardise import standardisations, standardise
from tasks.settings import PreprocessSettings, Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Partition:
    """The content of partition.json."""

    clients: dict[str, int]
    """number of examples by id, sorted by id"""
    classes: list[str]
    images: bool
    shape: tuple[int, ...]
    """shape of an example: (F,), or (H, W, C)"""


def preprocess(settings: Settings, folder: Path) -> None:
    """Writes `data/clients`, with preprocess.json and descriptions.json, from `data/partition`: all of it, or nothing.

    The data of one client are in memory at a time. They are read twice, because `normalize: global` needs the moments
    of all clients before it can standardise the first one. The random changes of `augment` happen during training.

    Raises:
        DataError: (1) a client's files are missing, damaged, empty, not finite or of another shape than in
            partition.json, (2) `augment` or `resize` is set, but the data are a table, or (3) the images do not have
            the size `resize`.
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
    elif chosen.resize and partition.shape[:2] != chosen.resize:
        raise DataError(
            f"preprocess.resize must be the size of the images in {source}, {list(partition.shape[:2])}, got "
            f"{list(chosen.resize)}: run the step partition again, which resizes them"
        )
    sites = [*partition.clients, TEST]
    with replacing(folder / "data" / "clients") as fresh:
        by_site = standardisations(
            chosen.normalize, {site: moments(_read_site(source / site, partition)[0]) for site in sites}
        )
        descriptions = {}
        for site in sites:
            x, y = _read_site(source / site, partition)
            x = x if chosen.normalize == "none" else standardise(x, by_site[site])
            write_client(fresh / site, x, y)
            description = None if site == TEST else _described(site, (x, y), partition)
            if description is not None:
                descriptions[site] = description
        write_descriptions(fresh, descriptions)
        write_json(
            fresh / "preprocess.json",
            {
                "input_shape": list(partition.shape),
                "num_classes": len(partition.classes),
                "clients": partition.clients,
                "classes": partition.classes,
                "images": partition.images,
                "normalize": chosen.normalize,
                "statistics": {site: {"mean": by.mean.tolist(), "sd": by.sd.tolist()} for site, by in by_site.items()},
            },
        )
    _log.info(
        "%d clients and the test set: examples of %s, normalize %s",
        len(partition.clients),
        partition.shape,
        chosen.normalize,
    )


def _read_partition(path: Path) -> _Partition:
    raw = read_json(path)
    clients = client_sizes(raw, path, "partition") if isinstance(raw, dict) and "clients" in raw else {}
    with reading(f"{path} must hold clients, classes, images and input_shape"):
        classes, images, shape = raw["classes"], raw["images"], raw["input_shape"]
        if not all(isinstance(name, str) for name in classes) or type(images) is not bool:
            raise TypeError("classes that are no texts, or images that is neither true nor false")
        if not clients:
            raise KeyError("clients")
        "".join(classes).encode()  # JSON can hold half a character, with which preprocess.json cannot be written
        return _Partition(clients, list(classes), images, tuple(map(as_size, shape)))


def _refuse_settings_of_images(chosen: PreprocessSettings) -> None:
    for name, value in (
        ("resize", list(chosen.resize)),
        ("augment.flip", chosen.augment.flip),
        ("augment.brightness", chosen.augment.brightness),
    ):
        if value:
            raise DataError(f"preprocess.{name} needs images, and the data is a table: leave it unset, got {value}")


def _read_site(source: Path, partition: _Partition) -> Examples:
    form = Form(partition.shape, len(partition.classes), "partition.json")
    with advising("run the step partition again"):
        return read_checked(source, form, partition.clients.get(source.name))


def _described(client: str, examples: Examples, partition: _Partition) -> Description | None:
    """Returns a client's description; None if the standardised values are not finite, which `federate` reports."""
    try:
        return describe(client, examples, Form(partition.shape, len(partition.classes)))
    except DataError:
        return None
