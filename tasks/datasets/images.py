"""`images`: a folder of images for each class, or a CSV with images, their labels and their clients."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from tasks.arrays import as_float32
from tasks.clients import check_client_id
from tasks.datasets.checks import named_classes
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.listing import entries
from tasks.datasets.pixels import CHANNELS, FULL_SCALE, Header, header, pixels, target
from tasks.datasets.resize import Size, resized_blocks
from tasks.datasets.spool import Spool, Spooled
from tasks.datasets.table_file import read_text_rows
from tasks.datasets.unreadable import Unreadable
from tasks.errors import DataError, listed, reading, shown
from tasks.settings import DataSettings

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
WORDS = {"grey": "grey (one channel)", "colour": "RGB", "numbers": "numbers (unscaled)"}
"""Names for the log of the modes that images are converted to."""
_NAMED = 5
"""Most sizes or modes that a line names."""
LIST = "labels.csv"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file with its label.

    Attributes:
        path: the file.
        label: its class.
        named: file or row of the CSV, as the beginning of an error.
        place: the same as a phrase (`in row 3`), for the error of another row that names the same file.
        client: its client's id; empty if unknown.
        group: its cell of `data.group_column`; empty without the setting.
        problem: error in its row of the CSV; empty if there is none.
    """

    path: Path
    label: str
    named: str
    place: str
    client: str = ""
    group: str = ""
    problem: str = ""


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns x (N, H, W, C) of the images at `path`, and no test set.

    `path` is one of these:

    1. A folder with one folder of images for each class.
    2. A CSV with the columns `path` (relative to the CSV), `label` and, optionally, `client`.
    3. A folder with such a CSV, `labels.csv`.

    The classes are the sorted labels. Rotation marks of cameras (EXIF) are not applied. If `size` is given, each image
    is resized while it is read. The images' modes decide the channels:

    1. If all images have the same mode of FULL_SCALE, they keep its channels.
    2. 32-bit numbers keep their values.
    3. All other images become grey if each is of the sort grey (see pixels.py), otherwise RGB. Transparent areas become
       white.

    x is uint8 if all images have 1 or 8 bits, and otherwise float32, in [0, 1] except for 32-bit numbers.

    Raises:
        DataError: a file is missing, named twice, damaged or no image; a label is missing; the images differ in size
            and no `size` is given; or only some images are 32-bit numbers.
    """
    if path.is_file():
        pictures = _in_csv(path, settings.group_column)
        _log.warning(
            "data.path %s is one file: DVC sees no change of the images that it names; "
            "call it %s and set data.path to its folder",
            shown(settings.path),
            LIST,
        )
    elif (path / LIST).is_file():
        pictures = _in_csv(path / LIST, settings.group_column)
    elif settings.group_column:
        raise DataError(
            f"data.group_column needs a CSV of images with that column ({LIST}), got folders at {path} and "
            f"{settings.group_column!r}: leave it empty"
        )
    else:
        pictures = _in_folders(path)
    unreadable = Unreadable(settings)
    _refuse_twice(unreadable.each("", pictures, _check))
    x = _spooled([picture.path for picture in pictures], size, unreadable, Spool(scratch))
    owners = np.array([picture.client for picture in pictures])
    has_clients = bool((owners != "").any())
    kept = ~unreadable.wrong("", len(pictures))
    readable = [picture for picture, is_kept in zip(pictures, kept.tolist(), strict=True) if is_kept]
    y, classes = named_classes(picture.label for picture in readable)
    return Source(
        y=y,
        features=unfitted(x),
        classes=classes,
        clients=owners[kept] if has_clients else None,
        groups=np.array([picture.group for picture in readable]) if settings.group_column else None,
        skipped=unreadable.skipped(owners if has_clients else None),
    )


def _in_folders(folder: Path) -> list[Picture]:
    pictures = []
    for of_class in entries(folder):
        if not of_class.is_dir():
            raise DataError(f"{of_class} has no label: {folder} must hold one folder for each class, and images there")
        files = entries(of_class)
        if not files:
            raise DataError(
                f"{of_class} must hold the images of class {of_class.name!r}, got none: remove the folder, or fill it"
            )
        for file in files:
            if file.is_dir() or file.suffix.lower() not in SUFFIXES:
                got = (
                    "a folder: data.path must be the folder that holds one folder for each class"
                    if file.is_dir()
                    else f"{file.suffix or 'no suffix'}: save it as one of these, or move it away"
                )
                raise DataError(f"{file} must be an image ({', '.join(SUFFIXES)}), got {got}")
            pictures.append(Picture(file, of_class.name, str(file), f"as {file}"))
    if not pictures:
        raise DataError(f"{folder} must hold one folder of images for each class, got none")
    return pictures


def _in_csv(file: Path, group: str) -> list[Picture]:
    with reading(f"{file} must be a CSV in UTF-8"):
        columns, rows = read_text_rows(file, ("path", "label"))
    if not {"path", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise DataError(
            f"{file} must have the columns path, label and, optionally, client, each once, got {shown(columns)}"
        )
    if group and group not in columns:
        raise DataError(f"{file} must have the data.group_column {group!r}, got {shown(columns)}")
    if group == "label":
        raise DataError(f"data.group_column must differ from the column of the labels, got {group!r}")
    if not rows:
        raise DataError(f"{file} must name at least one image, got no row")
    # The folder of a flow run has a link to the CSV, without the images: they are next to the CSV itself.
    beside = any((file.parent / (row["path"] or "").strip().replace("\\", "/")).is_file() for row in rows)
    folder = file.parent if beside else file.resolve().parent
    return [_in_row(file, folder, row, number, group) for number, row in enumerate(rows, start=1)]


def _in_row(file: Path, folder: Path, row: dict[str, str], number: int, group: str) -> Picture:
    where = f"{file} row {number}"
    cells = {column: (row[column] or "").strip() for column in ("path", "label", "client", group) if column in row}
    if not (folder / cells["path"]).exists():
        cells["path"] = cells["path"].replace("\\", "/")  # as Windows writes it
    empty = [column for column, cell in cells.items() if not cell]
    problem = f"{where} has no {empty[0]}: every image must have one" if empty else ""
    if None in row or None in row.values():
        problem = f"{where} must have as many cells as the header, got {'more' if None in row else 'fewer'}"
    if Path(cells["path"]).is_absolute() or PureWindowsPath(cells["path"]).is_absolute():
        raise DataError(f"{where}: path must be relative to the folder of the CSV, got {cells['path']!r}")
    if os.path.normpath(cells["path"]).split(os.sep)[0] == os.pardir:  # DVC does not watch files elsewhere
        raise DataError(f"{where}: path must stay in the folder of the CSV, got {cells['path']!r}")
    if cells.get("client"):
        try:
            check_client_id(cells["client"])
        except DataError as exc:
            raise DataError(f"{where}: {exc}") from exc
    return Picture(
        path=folder / cells["path"],
        label=cells["label"],
        named=f"{where}: {cells['path']!r}",
        place=f"in row {number}",
        client=cells.get("client", ""),
        group=cells.get(group, ""),
        problem=problem,
    )


def _check(picture: Picture) -> Picture:
    """Returns `picture` if its row is complete and its file exists."""
    if picture.problem:
        raise DataError(picture.problem)
    if not picture.path.is_file():
        got = "a folder" if picture.path.is_dir() else "nothing there"
        raise DataError(f"{picture.path} must be an image, got {got} ({picture.named})")
    return picture


def _refuse_twice(pictures: Sequence[Picture]) -> None:
    """Refuses a file that is named twice, also by `a/../a` or by a link to its folder.

    A link at the file's own place is not followed: if DVC links files to its cache, equal images share one file there.
    """
    folders: dict[Path, tuple[int, int]] = {}
    seen: dict[tuple[int, int, str], str] = {}
    for picture in pictures:
        folder = picture.path.parent
        if folder not in folders:
            status = folder.stat()
            folders[folder] = status.st_dev, status.st_ino
        first = seen.setdefault((*folders[folder], picture.path.name), picture.place)
        if first is not picture.place:
            raise DataError(f"{picture.named} must occur once, got it {first}")


def _spooled(paths: Sequence[Path], size: Size, unreadable: Unreadable, spool: Spool) -> Spooled:
    """Returns the readable images (N, H, W, C), in the size, mode and type that follow from all headers."""
    read = unreadable.each("", paths, lambda path: (path, header(path)))
    named, headers = [path for path, _ in read], [of_path for _, of_path in read]
    wanted = target(headers, named)
    shape = (*(size or _one_size(headers, named)), CHANNELS.get(wanted, 1))
    dtype = np.dtype(np.uint8 if all(each.is_bytes for each in headers) else np.float32)
    where = f"{len(headers)} images of {'preprocess.resize ' if size else ''}{list(shape[:2])}"
    spool.expect(len(headers), shape, dtype, where)
    _report(headers, wanted, shape[:2])

    def add(path: Path) -> None:
        image = pixels(path, wanted)[np.newaxis]
        for resized in resized_blocks(image if dtype == np.uint8 else as_float32(image), shape[:2]):
            spool.append(resized)

    unreadable.each("", paths, add)
    return spool.written()


def _one_size(headers: Sequence[Header], paths: Sequence[Path]) -> tuple[int, int]:
    sizes = Counter(each.size for each in headers)
    most = sizes.most_common(1)[0][0]
    if len(sizes) > 1:
        odd = next(path for path, each in zip(paths, headers, strict=True) if each.size != most)
        raise DataError(
            f"{odd} must have the height and width of the others, got images of {_counted(sizes)}: set "
            f"preprocess.resize, such as {list(most)}, and each is resized as it is read"
        )
    return most


def _report(headers: Sequence[Header], wanted: str, size: tuple[int, ...]) -> None:
    """Logs modes and sizes in one line, unless all images keep theirs."""
    modes, sizes = Counter(each.mode for each in headers), Counter(each.size for each in headers)
    if wanted in FULL_SCALE and set(sizes) == {size}:
        return
    white = wanted in ("grey", "colour") and any(each.transparent for each in headers)
    _log.info(
        "%d images of mode %s and size %s: read as %s of %s%s",
        len(headers),
        _counted(modes),
        _counted(sizes),
        WORDS.get(wanted, wanted),
        list(size),
        "; transparent areas become white" if white else "",
    )


def _counted(counts: Counter[Any]) -> str:
    """Returns text such as "RGB (257), RGBA (43)", the most frequent first."""
    every = [f"{list(key) if isinstance(key, tuple) else key} ({n})" for key, n in counts.most_common()]
    return listed(every, _NAMED)
