"""Runs rounds for the planted cases. Healthy runs and compiled computations are shared."""

import hashlib
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bases import data_of
from cases import Case
from planted_data import change
from plants import Operation

from tasks.errors import NoClientLeft
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.record import RoundLine
from tasks.federate.round import Round
from tasks.federate.runner import Phase, Runner
from tasks.federate.state import ServerState
from tasks.local import faults
from tasks.models import build
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.settings import Settings, parse


@dataclass(frozen=True)
class Healthy:
    """A healthy run: its workspace, state after each round (from 0), log lines, and seconds of each round."""

    folder: Path
    settings: Settings
    states: list[ServerState]
    lines: list[RoundLine]
    seconds: list[float]


class Trainer:
    """Runs rounds; `folder` gets the data and the healthy runs, and `chest` is the file of the chest X-rays."""

    def __init__(self, folder: Path, chest: Path | None) -> None:
        self._folder, self._chest = folder, chest
        self._compiled: dict[str, Round] = {}
        self._tracing: dict[str, float] = {}
        self._healthy: tuple[str, Operation | None, Healthy] | None = None

    def settings(self, case: Case, named: dict[str, Any]) -> Settings:
        """Returns the settings by their dotted names, with those of the base's data, which are written if needed."""
        return parse(nested({**named, **data_of(case.base, self._folder, self._chest)}))

    def healthy(self, case: Case) -> Healthy:
        """Returns the run with nothing planted. The last one is kept, because cases that share it follow each other."""
        settings, at_first = self.settings(case, case.healthy()), case.what.at_first
        key = hashlib.md5(settings.model_dump_json().encode(), usedforsecurity=False).hexdigest()
        if self._healthy is not None and self._healthy[:2] == (key, at_first):
            return self._healthy[2]
        folder = self._folder / "healthy"
        shutil.rmtree(folder, ignore_errors=True)
        partition(settings, folder)
        preprocess(settings, folder)
        if at_first:
            num = case.what.num_at_first or None
            change(folder, lambda sizes: dict.fromkeys(list(sizes)[:num], at_first), case.seed)
        _, _, runner = self.runner(settings, folder)
        states, lines, seconds = [runner.fresh()], [], []
        for round_num in range(1, settings.federate.rounds + 1):
            began = time.perf_counter()
            stepped = runner.step(states[-1], round_num)
            seconds.append(time.perf_counter() - began)
            states.append(stepped.state)
            lines.append(stepped.line)
        self._healthy = key, at_first, Healthy(folder, settings, states, lines, seconds)
        return self._healthy[2]

    def seconds_to_begin(self, settings: Settings, cohort: Cohort) -> float:
        """Returns the seconds that building the computations and the first round took."""
        return self._tracing[self._key(settings, cohort)]

    def _key(self, settings: Settings, cohort: Cohort) -> str:
        federate = settings.model_dump(mode="json")["federate"]
        # These settings come with each client's input or act on the host, so the computations are the same.
        for name in ("rounds", "local_work", "exclude", "guard"):
            del federate[name]
        del federate["client"]["learning_rate"]
        federate["faults"] = faults.of_graph(settings.federate.faults)
        return json.dumps([federate, cohort.input_shape, cohort.num_classes, len(cohort.clients)])

    def runner(self, settings: Settings, folder: Path) -> tuple[Cohort, Any, Runner]:
        """Returns the clients in `folder`, a new model, and what runs its rounds."""
        cohort = cohort_of(settings, folder)
        key = self._key(settings, cohort)
        phase = phase_of(settings)
        if key not in self._compiled:
            began = time.perf_counter()
            model = _model_of(settings, cohort)
            self._compiled[key] = build_computations(settings, cohort, model, masked=False)
            # The first round compiles what later rounds reuse. It writes into the model, so the run gets a new one.
            first = Runner(settings, cohort, model, phase, self._compiled[key])
            with suppress(NoClientLeft):
                first.step(first.fresh(), 1)
            self._tracing[key] = time.perf_counter() - began
        model = _model_of(settings, cohort)
        return cohort, model, Runner(settings, cohort, model, phase, self._compiled[key])


def _model_of(settings: Settings, cohort: Cohort) -> Any:
    return build(settings.federate.model, cohort.input_shape, cohort.num_classes, settings.seed)


def phase_of(settings: Settings) -> Phase:
    """Returns the rounds of `federate`."""
    return Phase("federate", 1, settings.federate.rounds)


def nested(named: dict[str, Any]) -> dict[str, Any]:
    """Returns settings by their dotted names as the sections of params.yaml."""
    raw: dict[str, Any] = {}
    for name, value in named.items():
        *sections, last = name.split(".")
        at = raw
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return raw
