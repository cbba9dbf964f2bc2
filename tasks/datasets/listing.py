"""The entries of a folder that are data."""

from pathlib import Path

from tasks.datasets.checks import check_text
from tasks.errors import DataError

_LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}
_ABOUT_THE_DATA = {
    f"{name}{suffix}" for name in ("readme", "license", "licence") for suffix in ("", ".md", ".txt", ".rst")
}


def entries(folder: Path) -> list[Path]:
    """Returns the entries of `folder`, sorted by name, without hidden files, system files, README and LICENSE.

    Raises:
        DataError: the folder is missing, or the name of an entry is not in UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder, got {'a file' if folder.exists() else 'nothing there'}")
    listed = sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
        and entry.name.lower() not in _LEFT_BY_SYSTEMS
        # A folder `license` is a class, not a text about the data.
        and not (entry.name.lower() in _ABOUT_THE_DATA and entry.is_file())
    )
    for entry in listed:
        check_text(entry.name, f"{folder}: every name")
    return listed
