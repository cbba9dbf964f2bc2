"""Arrays of an .npz file from an untrusted source."""

import zipfile
from pathlib import Path

from tasks.datasets.checks import Raw, check_memory
from tasks.errors import DataError, reading
from tasks.files import read_npy


def array_names(path: Path) -> list[str]:
    """Returns the names of the arrays in `path`.

    Raises:
        DataError: the file is missing or no .npz file, or it has two arrays of one name.
    """
    if not path.is_file():
        raise DataError(f"{path} must be an .npz file, got {'a folder' if path.is_dir() else 'nothing there'}")
    with reading(f"{path} must be an .npz file, as numpy.savez writes it, and whole"), zipfile.ZipFile(path) as opened:
        names = [name.removesuffix(".npy") for name in opened.namelist()]
    if len({name.lower() for name in names}) < len(names):
        raise DataError(f"{path} must hold each array once, got {', '.join(names)}")
    return names


def read_array(path: Path, name: str) -> Raw:
    """Returns the array `name` of the .npz file `path`, in any case of letters. Pickled objects are never loaded.

    Raises:
        DataError: the array is missing, pickled or damaged, or does not fit into memory when unpacked.
    """
    names = array_names(path)
    place = next((place for place, stored in enumerate(names) if stored.lower() == name.lower()), -1)
    if place < 0:
        raise DataError(f"{path} must hold {name}, got {', '.join(sorted(names)) or 'nothing'}")
    with (
        reading(f"{path}: {name} must be a whole array of numbers or text, never objects (save them as .astype(str))"),
        zipfile.ZipFile(path) as archive,
    ):
        member = archive.infolist()[place]
        check_memory(member.file_size, f"{path}: {name}")
        with archive.open(member) as opened:
            return read_npy(opened, member.file_size)
