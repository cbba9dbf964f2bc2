"""Checkpoints of a run, and the log that goes with them: a killed run goes on as if it had never been killed.

The folder `models/checkpoints/<phase>/` holds:

- `run.json`: what identifies the run. Other settings, data, code or another model begin a new run.
- `round_<n>.npz`: the state of the server after round n. It is written whole or not at all.
- `log.jsonl`: one line a round.

None of these files is an output of the DVC stage, because DVC deletes the outputs before it runs a stage again.

A checkpoint holds the SHA-256 of the identity in `run.json` and of the log's lines up to its round. It counts only if
the log next to it still has this digest. Otherwise two things would train another model without a message: (1) a log
that was cut, doubled or mixed with the log of another process, (2) a checkpoint that was renamed or copied from another
run.
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
"""What identifies a run, in JSON: its settings, data, model and code."""

Line = dict[str, Any]
"""A line of log.jsonl, in JSON: the fields of a `RoundLine`."""

_DIGEST = "log"
"""Name of the array that holds the digest of a checkpoint; the arrays of the state are `arr_0`, `arr_1`, …"""


def checkpoints_of(folder: Path, phase: str) -> Path:
    """Returns the folder of a phase's checkpoints in the workspace `folder`."""
    return folder / "models" / "checkpoints" / phase


def finish(folder: Path, phase: str) -> None:
    """Marks the phase as finished: the step then begins a new run. Call it after all outputs are written."""
    path = checkpoints_of(folder, phase) / "run.json"
    write_json(path, {**(_read_run(path) or {}), "finished": True})


def saved_states(folder: Path, phase: str, identity: Identity) -> dict[int, Path]:
    """Returns the paths of a phase's checkpoints by round, for reading only; empty if they belong to another run.

    They belong to the run if their own identity has the same value for every key of `identity`. `identity` need not
    have all keys. A checkpoint whose digest does not fit the log is left out, with a warning.
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
        DataError: the file is damaged, or belongs to a run with other clients or another model.
    """
    with reading(f"{path} must be a checkpoint"), np.load(path, allow_pickle=False) as arrays:
        leaves = [arrays[name] for name in arrays.files if name != _DIGEST]
    wanted = [np.shape(leaf) for leaf in tf.nest.flatten(template.nested)]
    # TensorFlow's own error for a wrong number of arrays would print every array.
    if [leaf.shape for leaf in leaves] != wanted:
        raise DataError(
            f"{path} must hold {len(wanted)} arrays of the model's shapes, got {len(leaves)}: it belongs to other "
            "clients or another model"
        )
    return ServerState.of(**tf.nest.pack_sequence_as(template.nested, leaves))


_NOT_OF_THIS_LOG = "log.jsonl does not hold exactly the checkpoint's rounds"


class Checkpoints:
    """The checkpoints of one phase of one run, for one process at a time: `tasks.lock` locks the workspace."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Opens `folder`; deletes checkpoints of a finished run and of a run with another `identity`."""
        self._folder, self._identity = folder, identity
        run = {"identity": identity, "finished": False}
        saved = _read_run(folder / "run.json")
        if saved != run:
            if _saved(folder) and not (saved or {}).get("finished"):
                _log.info(
                    "%s begins again: its checkpoints belong to other settings, data, code or models", folder.name
                )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "run.json", run)
        self._digest = _begun(identity)
        self._log = (folder / "log.jsonl").open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def resume(self, before: int, template: ServerState) -> tuple[int, ServerState, list[Line]] | None:
        """Returns the newest checkpoint that counts: its round, its state, and the log's lines up to its round.

        The later lines are deleted, and so are the newer checkpoints, which do not count. A warning names each of them.

        Args:
            before: the round before the phase's first round.
            template: a state with the structure of the checkpoints.

        Returns:
            None if no checkpoint counts. Then all lines and all checkpoints are deleted.
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
        """Writes the state after `round_num`, after the log up to this round is on disk."""
        self._log.flush()
        os.fsync(self._log.fileno())
        # The archive is first made in memory: if a full disk stops np.savez, the broken archive prints a traceback when
        # Python collects it.
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
        """Replaces the log by `lines`."""
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
    """Yields n, and the digest of the identity and the first n lines, for n = 0, 1, …, len(lines)."""
    digest = _begun(identity)
    yield 0, digest.digest()
    for number, line in enumerate(lines, start=1):
        digest.update(_bytes(line))
        yield number, digest.digest()


def _digest_in(path: Path) -> bytes:
    """Returns the digest that a checkpoint holds.

    Raises:
        DataError: the file is damaged, or an older version wrote it without a digest.
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
    """Returns the log's complete lines. A killed run can leave a last line that is cut short; it is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.split("\n")[:-1]
