"""The places of files in the repository and in the folders of its runs."""

from pathlib import Path

from tasks.errors import InputError

RUNS = ".runs"
"""The folder of the repository with a folder for each flow run."""
CODE = ("tasks", "flows")
"""The project's own code."""
STAGE_FILES = ("dvc.yaml", "dvc.lock", ".dvcignore", "requirements.lock")
"""The files that DVC reads, in addition to the folder .dvc, and the lock of the environment."""
STOP = "stop"
"""The file in a comparison's folder that stops its cells. Cells on other machines cannot get a signal."""
CELL_LOCKS = ".locks"
"""The folder in a comparison's folder with a lock for (1) each cell that runs and (2) each step that cells share."""


def find_repository(start: Path) -> Path:
    """Returns the folder at or above `start` that holds dvc.yaml and .dvc.

    Raises:
        InputError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise InputError(f"{start.resolve()} is not inside a DVC repository with a dvc.yaml: run this in the repository")
