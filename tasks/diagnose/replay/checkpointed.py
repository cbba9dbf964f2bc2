"""The states of a run that its checkpoints hold, if these are of that run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.federate.checkpoint import checkpoints_of, load_state, saved_states
from tasks.federate.cohort import Cohort
from tasks.federate.record import RoundLine
from tasks.federate.state import ServerState
from tasks.files import read_rows


class CheckpointedStates:
    """A run's state before the first round, and after each round that has a checkpoint."""

    def __init__(
        self, folder: Path, phase: str, identity: Mapping[str, Any], cohort: Cohort, fresh: ServerState
    ) -> None:
        """Looks for the run's checkpoints.

        Checkpoints of other data count as well if their log is the one of reports/rounds.csv: data that changed in the
        course of the run are what a diagnosis looks for.

        Args:
            folder: the workspace.
            phase: whose checkpoints they are.
            identity: what the run is of: settings, data, model.
            cohort: its clients.
            fresh: the state before the first round.
        """
        self._fresh = fresh
        self._paths = saved_states(folder, phase, dict(identity))
        if not self._paths and _logged_as_reported(folder, phase, cohort, all_of_them=fresh.kept is not None):
            others = {name: value for name, value in identity.items() if name != "data"}
            self._paths = saved_states(folder, phase, others)
        self._loaded: tuple[int, ServerState] | None = None

    @property
    def rounds(self) -> list[int]:
        """The rounds after which the state is known, ascending: 0, before the first, and the checkpoints."""
        return sorted({0, *self._paths})

    def latest(self, round_num: int) -> int | None:
        """Returns the last round with a checkpoint up to `round_num`; None if there is none."""
        return max((saved for saved in self._paths if saved <= round_num), default=None)

    def after(self, saved: int) -> ServerState:
        """Returns the state after round `saved`, one of `rounds`."""
        if not saved:
            return self._fresh
        # Client after client asks for the same state, which may be of gigabytes.
        if self._loaded is None or self._loaded[0] != saved:
            self._loaded = saved, load_state(self._paths[saved], self._fresh)
        return self._loaded[1]


def _logged_as_reported(folder: Path, phase: str, cohort: Cohort, all_of_them: bool) -> bool:
    """Whether the log next to the checkpoints is the one of reports/rounds.csv, and of the cohort's clients.

    If it is not, the checkpoints are of another run. Clients may have come or gone since. If clients keep vectors, the
    server's vector is their sum: the log must be of `all_of_them`, and of no others.
    """
    log, reported = checkpoints_of(folder, phase) / "log.jsonl", folder / "reports/rounds.csv"
    if not log.is_file() or not reported.is_file():
        return False
    rows = {row["round"]: row.get("train_loss", "") for row in read_rows(reported)}
    took_part: set[str] = set()
    pairs = []
    try:
        with log.open(encoding="utf-8") as lines:
            for line in map(RoundLine.of, map(json.loads, lines)):
                took_part |= {row["client"] for row in line.clients if row["finite"]}
                if text := rows.get(str(line.round)):
                    pairs.append((line.row["train_loss"], float(text)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    known = {*cohort.clients, *cohort.broken}
    same = took_part == {*cohort.clients} if all_of_them else took_part <= known or known <= took_part
    return bool(pairs and same) and all(
        loss is not None and np.isclose(loss, other, rtol=1e-5, equal_nan=True) for loss, other in pairs
    )
