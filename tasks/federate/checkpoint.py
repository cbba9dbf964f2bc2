"""Checkpoints of a run, and the log that goes with them: a killed run goes on as if it had never been killed.

The folder `models/checkpoints/<phase>/` holds:

- `run.json`: what identifies the run. Other settings, data, code or another model begin a new run.
- `round_<n>.npz`: the state of the server after round n. It is written whole or not at all. What clients keep is
  written, and read, one client's vector at a time.
- `log.jsonl`: one line a round (run_log.py).

None of these files is an output of the DVC stage, because DVC deletes the outputs before it runs a stage again.

A checkpoint holds the SHA-256 of the identity in `run.json` and of the log's lines up to its round. It counts only if
the log next to it still has this digest. Otherwise two things would train another model without a message: (1) a log
that was cut, doubled or mixed with the log of another process, (2) a checkpoint that was renamed or copied from another
run.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.errors import DataError, reading
from tasks.federate.kept import Kept, Vectors
from tasks.federate.run_log import Identity, RunLog, digests
from tasks.federate.state import ServerState
from tasks.files import read_json, remove, replacing, write_json
from tasks.npz import check_member, locate, members, writing_npz

_log = logging.getLogger(__name__)

_LOG = "log.jsonl"
_DIGEST = "log"
"""Name of the array that holds the digest of a checkpoint; the arrays of the state are `arr_0`, `arr_1`, …"""
_KEPT, _KEEPERS = "kept", "kept_clients"
"""Names of the arrays with the vectors that clients keep (K, P), and with the clients' ids (K,)."""


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
    expected = {digest for _, digest in digests(place / _LOG, saved)}
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
        DataError: the file is damaged, or belongs to a run with another model or other settings.
    """
    with reading(f"{path} must be a checkpoint"), np.load(path, allow_pickle=False) as arrays:
        leaves = [arrays[name] for name in arrays.files if name not in (_DIGEST, _KEPT, _KEEPERS)]
        keepers = arrays[_KEEPERS].tolist() if _KEEPERS in arrays.files else None
    wanted = [np.shape(leaf) for leaf in tf.nest.flatten(template.nested)]
    # TensorFlow's own error for a wrong number of arrays would print every array.
    if [leaf.shape for leaf in leaves] != wanted or (keepers is None) != (template.kept is None):
        raise DataError(
            f"{path} must hold {len(wanted)} arrays of the model's shapes, got {len(leaves)}: it belongs to another "
            "model or other settings"
        )
    kept = None if template.kept is None else _kept(path, template.kept, keepers or [])
    return ServerState.of(**tf.nest.pack_sequence_as(template.nested, leaves), kept=kept)


def _kept(path: Path, template: Kept, keepers: Sequence[str]) -> Kept:
    with reading(f"{path} must be a checkpoint"):
        member = members(path)[f"{_KEPT}.npy"]
        descriptor = os.open(path, os.O_RDONLY)
        vectors = Vectors(descriptor, template.num_params)  # closes the file if the next lines raise
        place = locate(descriptor, f"{_KEPT}.npy", member)
        if place.shape != (len(keepers), template.num_params) or place.dtype != np.float32 or place.fortran:
            raise ValueError(f"vectors of shape {place.shape} for {len(keepers)} clients")
        check_member(descriptor, place, member)
    return template.read_from(vectors.at(place.begin), keepers)


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
        self.log = RunLog(folder / _LOG, identity)

    def close(self) -> None:
        """Closes the log."""
        self.log.close()

    def resume(self, before: int, template: ServerState) -> tuple[int, ServerState] | None:
        """Returns the newest checkpoint that counts: its round and its state. `log` then ends with its round.

        The later lines are deleted, and so are the newer checkpoints, which do not count. A warning names each of them.

        Args:
            before: the round before the phase's first round.
            template: a state with the structure of the checkpoints.

        Returns:
            None if no checkpoint counts. Then all lines and all checkpoints are deleted.
        """
        expected = dict(digests(self.log.path, self._identity))
        for round_num, path in sorted(_saved(self._folder).items(), reverse=True):
            try:
                if _digest_in(path) != expected.get(round_num - before):
                    raise DataError(f"{path}: {_NOT_OF_THIS_LOG}")
                state = load_state(path, template)
            except DataError as exc:
                _log.warning("a checkpoint is not used: %s", exc)
                remove(path)
                continue
            self.log.cut(round_num - before)
            return round_num, state
        self.log.cut(0)
        return None

    def rounds(self) -> list[int]:
        """Returns the rounds that have a checkpoint, ascending."""
        return sorted(_saved(self._folder))

    def save(self, round_num: int, state: ServerState) -> None:
        """Writes the state after `round_num`, after the log up to this round is on disk."""
        digest = np.frombuffer(self.log.synced(), np.uint8)
        with replacing(self._path(round_num)) as fresh, writing_npz(fresh) as npz:
            for number, leaf in enumerate(tf.nest.flatten(state.nested)):
                npz.write(f"arr_{number}", np.asarray(leaf))
            npz.write(_DIGEST, digest)
            if (kept := state.kept) is not None:
                npz.write(_KEEPERS, np.array(kept.written, np.str_))
                shape = len(kept.written), kept.num_params
                npz.write_blocks(_KEPT, shape, np.float32, (kept[client] for client in kept.written))

    def load(self, round_num: int, template: ServerState) -> ServerState:
        """Returns the state after `round_num`, in the structure of `template`."""
        return load_state(self._path(round_num), template)

    def _path(self, round_num: int) -> Path:
        return self._folder / f"round_{round_num:05}.npz"


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
