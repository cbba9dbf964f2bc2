"""`images`: a folder of images for each class, or a CSV that names images, their labels and their clients."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.checks import Raw, as_features, check_memory, named_classes
from tasks.datasets.examples import Source, plain
from tasks.datasets.listing import entries
from tasks.errors import DataError, reading, shown
from tasks.files import check_client_id
from tasks.settings import DataSettings

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# Only these decoders are tried, whatever the file is called: Pillow's EPS decoder would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
FULL_SCALE = {"1": 1, "L": 255, "LA": 255, "RGB": 255, "RGBA": 255, "I;16": 65535}
"""Pillow's modes that are read, and the value of a pixel that becomes 1."""
LIST = "labels.csv"


@dataclass(frozen=True)
class Picture:
    """An image file, and what is known of it.

    Attributes:
        path: the file.
        label: its class.
        named: where it stands, to begin an error with.
        place: the same as an adverb, in an error of another one.
        client: empty where nothing says whose it is.
    """

    path: Path
    label: str
    named: str
    place: str
    client: str = ""


def read(settings: DataSettings, path: Path, seed: int) -> Source:
    """Returns x (N, H, W, C) in [0, 1] of the images at `path`, and no test set.

    `path` is a folder with one folder of images for each class, a CSV with the columns `path`, `label` and, if wanted,
    `client` (paths relative to the CSV), or a folder that holds such a CSV as `labels.csv`. The classes are the sorted
    labels. Turning marks of cameras (EXIF) are not applied.

    Raises:
        DataError: a file is missing, there twice, no image, damaged, or of another size or mode than the first; a
            label is missing.
    """
    if path.is_dir() and (path / LIST).is_file():
        path = path / LIST
    pictures = _in_csv(path) if path.is_file() else _in_folders(path)
    _refuse_twice(pictures)
    x = _stack([picture.path for picture in pictures])
    y, classes = named_classes(picture.label for picture in pictures)
    owners = np.array([picture.client for picture in pictures]) if pictures[0].client else None
    return Source(y, plain(x), classes, owners)


def _in_folders(folder: Path) -> list[Picture]:
    pictures = []
    for of_class in entries(folder):
        if not of_class.is_dir():
            raise DataError(f"{of_class} has no label: {folder} must hold one folder for each class, and images there")
        files = entries(of_class)
        if not files:
            raise DataError(f"{of_class} must hold the images of class {of_class.name!r}, got none")
        for file in files:
            if file.is_dir() or file.suffix.lower() not in SUFFIXES:
                got = "a folder" if file.is_dir() else f"{file.suffix or 'no suffix'}"
                raise DataError(f"{file} must be an image ({', '.join(SUFFIXES)}), got {got}")
            pictures.append(Picture(file, of_class.name, str(file), f"as {file}"))
    if not pictures:
        raise DataError(f"{folder} must hold one folder of images for each class, got none")
    return pictures


def _in_csv(file: Path) -> list[Picture]:
    with reading(f"{file} must be a CSV in UTF-8"), file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, strict=True)
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    if not {"path", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise DataError(
            f"{file} must have the columns path, label and, if wanted, client once each, got {shown(columns)}"
        )
    if not rows:
        raise DataError(f"{file} must name at least one image, got no row")
    return [_in_row(file, row, number) for number, row in enumerate(rows, start=1)]


def _in_row(file: Path, row: dict[str, str], number: int) -> Picture:
    where = f"{file} row {number}"
    if None in row or None in row.values():
        raise DataError(f"{where} must have as many cells as the header, got {'more' if None in row else 'fewer'}")
    cells = {column: row[column].strip() for column in ("path", "label", "client") if column in row}
    for column, cell in cells.items():
        if not cell:
            raise DataError(f"{where} has no {column}: every image must have one")
    if Path(cells["path"]).is_absolute():
        raise DataError(f"{where}: path must be relative to the folder of the CSV, got {cells['path']!r}")
    if os.path.normpath(cells["path"]).split(os.sep)[0] == os.pardir:  # DVC does not watch what is elsewhere
        raise DataError(f"{where}: path must stay in the folder of the CSV, got {cells['path']!r}")
    if "client" in cells:
        try:
            check_client_id(cells["client"])
        except DataError as exc:
            raise DataError(f"{where}: {exc}") from exc
    return Picture(
        path=file.parent / cells["path"],
        label=cells["label"],
        named=f"{where}: {cells['path']!r}",
        place=f"in row {number}",
        client=cells.get("client", ""),
    )


def _refuse_twice(pictures: Sequence[Picture]) -> None:
    """Refuses a file that is named twice, also through `a/../a` or a link to its folder.

    A link in the file's own place is not followed: where DVC links to its cache, equal images are one file there.
    """
    folders: dict[Path, tuple[int, int]] = {}
    seen: dict[tuple[int, int, str], str] = {}
    for picture in pictures:
        _check_file(picture.path)
        folder = picture.path.parent
        if folder not in folders:
            found = folder.stat()
            folders[folder] = found.st_dev, found.st_ino
        first = seen.setdefault((*folders[folder], picture.path.name), picture.place)
        if first is not picture.place:
            raise DataError(f"{picture.named} must occur once, got it {first}")


def _stack(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Returns the images (N, H, W, C), each pixel divided by its mode's full scale."""
    first, mode = _decode(paths[0])
    check_memory(len(paths) * first.nbytes, f"{len(paths)} images like {paths[0]}")
    stacked = np.empty((len(paths), *first.shape), dtype=first.dtype)
    for index, path in enumerate(paths):
        pixels, its_mode = _decode(path)
        if its_mode != mode or pixels.shape != first.shape:
            raise DataError(
                f"{path} must be of the size and mode of {paths[0]}, {_say(first, mode)}, got {_say(pixels, its_mode)}"
            )
        stacked[index] = pixels
    x = as_features(stacked, str(paths[0].parent))
    return x / np.float32(FULL_SCALE[mode]) if mode == "I;16" else x


def _decode(path: Path) -> tuple[Raw, str]:
    from PIL import Image

    _check_file(path)
    with reading(f"{path} must be a whole image ({', '.join(FORMATS)})"), Image.open(path, formats=FORMATS) as image:
        frames, mode = getattr(image, "n_frames", 1), image.mode
        pixels = np.asarray(image)
    if mode not in FULL_SCALE or frames != 1:
        got = f"mode {mode}" if frames == 1 else f"{frames} frames"
        raise DataError(f"{path} must be one image of mode {', '.join(FULL_SCALE)}, got {got}")
    return pixels, mode


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} must be an image, got {'a folder' if path.is_dir() else 'nothing there'}")


def _say(pixels: Raw, mode: str) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]} {mode}"
