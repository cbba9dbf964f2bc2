"""What of a folder counts as data."""

from pathlib import Path

from tasks.datasets.checks import check_text
from tasks.errors import DataError

_LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}
_ABOUT_THE_DATA = {
    f"{name}{suffix}" for name in ("readme", "license", "licence") for suffix in ("", ".md", ".txt", ".rst")
}


def entries(folder: Path) -> list[Path]:
    """Returns what `folder` holds, sorted by name, without hidden files, those that systems leave, README and LICENSE.

    Raises:
        DataError: there is no such folder, or a name in it is not in UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder, got {'a file' if folder.exists() else 'nothing there'}")
    listed = sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
        and entry.name.lower() not in _LEFT_BY_SYSTEMS
        # A class may be called `license`, a client too: only what is a text is about the data.
        and not (entry.name.lower() in _ABOUT_THE_DATA and entry.is_file())
    )
    for entry in listed:
        check_text(entry.name, f"{folder}: every name")
    return listed
