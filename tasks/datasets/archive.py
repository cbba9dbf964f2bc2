"""Arrays of an .npz file, which may come from anywhere."""

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tasks.datasets.checks import Raw
from tasks.errors import DataError

# What zipfile, its decompressors and NumPy's header parser raise on damaged or made-up bytes.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    AttributeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def array_names(path: Path) -> list[str]:
    """Returns the names of the arrays in `path`.

    Raises:
        DataError: there is no such file, or it is no .npz file.
    """
    if not path.is_file():
        raise DataError(f"{path} must be an .npz file, got {'a folder' if path.is_dir() else 'nothing there'}")
    try:
        with np.load(path, allow_pickle=False) as opened:
            if isinstance(opened, np.lib.npyio.NpzFile):
                return list(opened.files)
    except _BROKEN as exc:
        raise DataError(f"{path} must be an .npz file (zip) and whole, got {_one_line(exc)}") from exc
    raise DataError(f"{path} must be an .npz file (zip), got a single array")


def read_array(path: Path, name: str) -> Raw:
    """Returns the array `name` of the .npz file `path`. Pickled objects are never loaded.

    Raises:
        DataError: no such array, or it is pickled or damaged.
    """
    names = array_names(path)
    if name not in names:
        raise DataError(f"{path} must hold {name}, got {', '.join(sorted(names)) or 'nothing'}")
    try:
        with np.load(path, allow_pickle=False) as opened:
            array = opened[name]
    except _BROKEN as exc:
        raise DataError(
            f"{path}: {name} must be a whole array of numbers, never pickled objects, got {_one_line(exc)}"
        ) from exc
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name} must be an array in NumPy's format, got other bytes")
    return array


def _one_line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
