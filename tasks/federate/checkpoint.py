"""Checkpoints of a run, and the log that goes with them: a killed run goes on as if it had never been killed.

In `models/checkpoints/<phase>/`: `run.json` (what the run is of: other settings, data or another model start afresh),
`round_<n>.npz` (the state of the server after round n, written whole or not at all) and `log.jsonl` (a line a round).
Nothing here is an output of the DVC stage: DVC deletes those before it runs a stage again.

A checkpoint holds the SHA-256 of `run.json`'s identity and of the log's lines up to its round. It counts only if the
log beside it still has this digest: a log that was cut, doubled or mixed with another process's, and a checkpoint that
was renamed or copied from another run, would each train another model without a word.
"""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.errors import DataError, reading
from tasks.federate.state import ServerState
from tasks.files import read_json, remove, replacing, write_json

_log = logging.getLogger(__name__)

Identity = dict[str, Any]
"""What a run is of, in JSON: its settings, data, model, code."""

Line = dict[str, Any]
"""A line of log.jsonl, in JSON: the fields of a `RoundLine`."""

_DIGEST = "log"
"""The array of a checkpoint that holds the digest, beside the state's `arr_0`, `arr_1`, …"""


def checkpoints_of(folder: Path, phase: str) -> Path:
    """Returns where a phase's checkpoints are in the workspace `folder`."""
    return folder / "models" / "checkpoints" / phase


def finish(folder: Path, phase: str) -> None:
    """Marks the phase as finished: a step that runs again starts afresh. Call it once all outputs are written."""
    path = checkpoints_of(folder, phase) / "run.json"
    write_json(path, {**(_read_run(path) or {}), "finished": True})


def saved_states(folder: Path, phase: str, identity: Identity) -> dict[int, Path]:
    """Returns the checkpoints of a phase by their round, for reading only; none if they are of another run.

    They are of the run if their identity agrees with `identity` in every key of `identity`, which may lack some keys.
    A checkpoint that its log does not account for is left out, with a warning.
    """
    place = checkpoints_of(folder, phase)
    saved = (_read_run(place / "run.json") or {}).get("identity", {})
    if not isinstance(saved, dict) or {name: saved.get(name) for name in identity} != identity:
        return {}
    expected = {digest for _, digest in _prefixes(saved, _read_lines(place / "log.jsonl"))}
    counting = {}
    for round_num, path in _saved(place).items():
        try:
            counts = _digest_in(path) in expected
        except DataError:
            counts = False
        if counts:
            counting[round_num] = path
        else:
            _log.warning("%s: %s: not used", path, _NOT_OF_THIS_LOG)
    return counting


def load_state(path: Path, template: ServerState) -> ServerState:
    """Returns the state in the checkpoint `path`, in the structure of `template`.

    Raises:
        DataError: the file is damaged, or of a run with other clients or another model.
    """
    with reading(f"{path} must be a checkpoint"), np.load(path, allow_pickle=False) as arrays:
        leaves = [arrays[name] for name in arrays.files if name != _DIGEST]
    wanted = [np.shape(leaf) for leaf in tf.nest.flatten(template.nested)]
    # TensorFlow's own words for another number have every array in them.
    if [leaf.shape for leaf in leaves] != wanted:
        raise DataError(
            f"{path} must hold {len(wanted)} arrays of the model's shapes, got {len(leaves)}: it is of other clients "
            "or another model"
        )
    return ServerState.of(**tf.nest.pack_sequence_as(template.nested, leaves))


_NOT_OF_THIS_LOG = "log.jsonl does not hold exactly its rounds"


class Checkpoints:
    """The checkpoints of one phase of one run. One process at a time: its folder is locked (`tasks.lock`)."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Opens `folder`; checkpoints of a run with another `identity`, or of a finished one, are deleted."""
        self._folder, self._identity = folder, identity
        run = {"identity": identity, "finished": False}
        saved = _read_run(folder / "run.json")
        if saved != run:
            if _saved(folder) and not (saved or {}).get("finished"):
                _log.info("%s begins anew: its checkpoints are of other settings, data, code or models", folder.name)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "run.json", run)
        self._digest = _begun(identity)
        self._log = (folder / "log.jsonl").open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def resume(self, before: int, template: ServerState) -> tuple[int, ServerState, list[Line]] | None:
        """Returns the newest checkpoint that counts: its round, its state, and the log's lines up to there.

        What comes after it, lines and checkpoints, is deleted; a warning names each checkpoint that did not count.

        Args:
            before: the round before the phase's first.
            template: a state of the structure that the checkpoints have.

        Returns:
            None if no checkpoint counts: then there are no lines and no checkpoints any more.
        """
        lines = _read_lines(self._folder / "log.jsonl")
        digests = dict(_prefixes(self._identity, lines))
        for round_num, path in sorted(_saved(self._folder).items(), reverse=True):
            try:
                if _digest_in(path) != digests.get(round_num - before):
                    raise DataError(f"{path}: {_NOT_OF_THIS_LOG}")
                state = load_state(path, template)
            except DataError as exc:
                _log.warning("a checkpoint is not used: %s", exc)
                remove(path)
                continue
            kept = lines[: round_num - before]
            self._keep(kept)
            return round_num, state, [json.loads(line) for line in kept]
        self._keep([])
        return None

    def rounds(self) -> list[int]:
        """Returns the rounds that have a checkpoint, ascending."""
        return sorted(_saved(self._folder))

    def save(self, round_num: int, state: ServerState) -> None:
        """Writes the state after `round_num`, once the log up to there is on disk."""
        self._log.flush()
        os.fsync(self._log.fileno())
        # First in memory: an archive that a full disk breaks off leaves a traceback as it is collected.
        archive = io.BytesIO()
        digest = np.frombuffer(self._digest.digest(), np.uint8)
        np.savez(archive, *tf.nest.flatten(state.nested), **{_DIGEST: digest})
        with replacing(self._path(round_num)) as fresh:
            fresh.write_bytes(archive.getbuffer())

    def load(self, round_num: int, template: ServerState) -> ServerState:
        """Returns the state after `round_num`, in the structure of `template`."""
        return load_state(self._path(round_num), template)

    def append(self, line: Line) -> None:
        """Appends a round to the log."""
        text = json.dumps(line)
        self._log.write(text + "\n")
        self._log.flush()
        self._digest.update(_bytes(text))

    def _keep(self, lines: Sequence[str]) -> None:
        """Makes `lines` the whole log."""
        path = self._folder / "log.jsonl"
        self._log.close()
        with replacing(path) as fresh:
            fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._log = path.open("a", encoding="utf-8")
        self._digest = _begun(self._identity)
        for line in lines:
            self._digest.update(_bytes(line))

    def _path(self, round_num: int) -> Path:
        return self._folder / f"round_{round_num:05}.npz"


def _begun(identity: Identity) -> "hashlib._Hash":
    return hashlib.sha256(_bytes(json.dumps(identity, sort_keys=True)))


def _bytes(line: str) -> bytes:
    return line.encode() + b"\n"


def _prefixes(identity: Identity, lines: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """Yields n and the digest of the identity and the first n lines, for n = 0, 1, …, len(lines)."""
    digest = _begun(identity)
    yield 0, digest.digest()
    for number, line in enumerate(lines, start=1):
        digest.update(_bytes(line))
        yield number, digest.digest()


def _digest_in(path: Path) -> bytes:
    """Returns the digest that a checkpoint holds.

    Raises:
        DataError: the file is damaged, or of a version that wrote none.
    """
    with reading(f"{path} must be a checkpoint"), np.load(path, allow_pickle=False) as arrays:
        return bytes(arrays[_DIGEST].tobytes())


def _saved(folder: Path) -> dict[int, Path]:
    numbers = {path: path.stem.removeprefix("round_") for path in folder.glob("round_*.npz")}
    return {int(number): path for path, number in numbers.items() if number.isascii() and number.isdigit()}


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except DataError:
        return None
    return content if isinstance(content, dict) else None


def _read_lines(path: Path) -> list[str]:
    """Returns the log's whole lines; the last one of a killed run can be cut short."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.split("\n")[:-1]
