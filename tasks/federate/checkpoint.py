"""Checkpoints of a run, and the log that goes with them: a killed run goes on as if it had never been killed.

In `models/checkpoints/<phase>/`: `run.json` (what the run is of: other settings, data or another model start afresh),
`round_<n>.npz` (the state of the server after round n, written whole or not at all) and `log.jsonl` (a line a round).
Nothing here is an output of the DVC stage: DVC deletes those before it runs a stage again.
"""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.errors import DataError
from tasks.files import replacing, write_json


def checkpoints_of(folder: Path, phase: str) -> Path:
    """Returns where a phase's checkpoints are in the workspace `folder`."""
    return folder / "models" / "checkpoints" / phase


def finish(folder: Path, phase: str) -> None:
    """Marks the phase as finished, once all that the step writes is written: run again, it starts afresh."""
    path = checkpoints_of(folder, phase) / "run.json"
    write_json(path, {**(_read_run(path) or {}), "finished": True})


def saved_states(folder: Path, phase: str, identity: dict[str, Any]) -> dict[int, Path]:
    """Returns the checkpoints of a phase by their round, to be read only; none if they are of another run.

    Of the run is what agrees in all that `identity` names, which may be less than the run's own.
    """
    found = checkpoints_of(folder, phase)
    saved = (_read_run(found / "run.json") or {}).get("identity", {})
    return _saved(found) if {name: saved.get(name) for name in identity} == identity else {}


def load_state(path: Path, template: Any) -> Any:
    """Returns the state in the checkpoint `path`, in the structure of `template`.

    Raises:
        DataError: the file is damaged, or of a run with other clients or another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = [arrays[name] for name in arrays.files]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path} cannot be read as a checkpoint: {exc}") from exc
    wanted = len(tf.nest.flatten(template))
    if len(found) != wanted:
        # TensorFlow's own words for it have every array in them.
        raise DataError(f"{path} must hold {wanted} arrays, got {len(found)}: it is of other clients or another model")
    return tf.nest.pack_sequence_as(template, found)


class Checkpoints:
    """The checkpoints of one phase of one run."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Opens `folder`; checkpoints of a run with another `identity`, or of a finished one, are deleted."""
        self._folder = folder
        run = {"identity": identity, "finished": False}
        if _read_run(folder / "run.json") != run:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "run.json", run)
        self._log = (folder / "log.jsonl").open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def rounds(self) -> list[int]:
        """Returns the rounds that have a checkpoint, ascending."""
        return sorted(_saved(self._folder))

    def save(self, round_num: int, state: Any) -> None:
        """Writes the state after `round_num`, once the log up to there is on disk."""
        self._log.flush()
        os.fsync(self._log.fileno())
        # First in memory: an archive that a full disk breaks off leaves a traceback as it is collected.
        archive = io.BytesIO()
        np.savez(archive, *tf.nest.flatten(state))
        with replacing(self._path(round_num)) as fresh:
            fresh.write_bytes(archive.getbuffer())

    def load(self, round_num: int, template: Any) -> Any:
        """Returns the state after `round_num`, in the structure of `template`."""
        return load_state(self._path(round_num), template)

    def append(self, line: dict[str, Any]) -> None:
        """Appends a round to the log."""
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()

    def log(self, until: int) -> list[dict[str, Any]]:
        """Returns the lines of the rounds up to `until`, and forgets those after it."""
        path = self._folder / "log.jsonl"
        lines = [line for line in map(_read_line, path.read_text(encoding="utf-8").splitlines()) if line is not None]
        kept = [line for line in lines if line["round"] <= until]
        self._log.close()
        with replacing(path) as fresh:
            fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._log = path.open("a", encoding="utf-8")
        return kept

    def _path(self, round_num: int) -> Path:
        return self._folder / f"round_{round_num:05}.npz"


def _saved(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("round_")): path for path in folder.glob("round_*.npz")}


def _read_run(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # The last line of a killed run can be cut short.
        return None
