"""Plants a cause: the rounds of a healthy run before the onset, and then the rounds of the changed run."""

import hashlib
import json
import math
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bases import data_of
from cases import Case
from losses import end_gap
from planted_data import change, commonest_labels, sizes_of, unchanged, write_data
from plants import Operation

from tasks.clients import CLIENTS
from tasks.errors import GuardStop, NoClientLeft
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.loop import identity_of
from tasks.federate.record import RoundLine
from tasks.federate.round import Round
from tasks.federate.runner import Phase, Runner
from tasks.federate.state import ServerState
from tasks.federate.step import federate
from tasks.files import write_json
from tasks.local import faults
from tasks.models import build
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.round_log.write import write_log
from tasks.runtime.kinds import runtime
from tasks.settings import RuntimeSettings, Settings, parse

_LARGEST = 1e37
"""No rate is larger: float32 ends at 3e38."""
_DOUBLINGS = 9
"""Values of a standing setting that grows: a rate is at most 256 times the first one."""
_TWICE = math.log(2)


class NotPlanted(Exception):
    """The case cannot be planted: the run ends or does not end, or no planted client takes part."""


@dataclass(frozen=True)
class Healthy:
    """A healthy run: its workspace, state after each round (from 0), log lines, and seconds of each round."""

    folder: Path
    settings: Settings
    states: list[ServerState]
    lines: list[RoundLine]
    seconds: list[float]


@dataclass(frozen=True)
class Planted:
    """A run with a planted cause.

    Attributes:
        settings: from the onset on.
        clients: in which something is planted.
        begins: the first round with the changed settings and data.
        onset: the first round in which something planted acts; None: none.
        spiked: the earlier round with a scaled update; None: none.
        lines: of the log.
        healthy: the same run with nothing planted.
        training: seconds that this run's training takes. See `Planter`.
        without: by cause of a pair, the rounds without that cause.
        raw: a folder with data/partition, from which `preprocess` made the data of the whole run; None: no such folder.
    """

    settings: Settings
    clients: list[str]
    begins: int
    onset: int | None
    spiked: int | None
    lines: list[RoundLine]
    healthy: Healthy
    training: float
    without: dict[str, list[RoundLine]] = field(default_factory=dict)
    raw: Path | None = None

    @property
    def twin(self) -> list[RoundLine]:
        """The log of the healthy run."""
        return self.healthy.lines


class Planter:
    """Plants cases in `folder`; healthy runs and compiled rounds are shared.

    The seconds of a training are its number of rounds times the median of their seconds, and once the seconds that it
    took to build the computations and to run their first round. A process that trains once has this cost once. Imports
    are not part of it, and not part of the diagnosis.
    """

    def __init__(self, folder: Path, chest: Path | None) -> None:
        self._folder, self._chest = folder, chest
        self._compiled: dict[str, Round] = {}
        self._tracing: dict[str, float] = {}
        self._healthy: tuple[str, Operation | None, Healthy] | None = None

    def plant(self, case: Case, workspace: Path) -> Planted:
        """Writes the workspace of `case`.

        Raises:
            NotPlanted: there is no such run.
            UndriftError: the data cannot be divided as the case needs.
        """
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        with runtime(RuntimeSettings()):
            healthy = self._run_healthy(case)
        sizes = sizes_of(healthy.folder)
        if case.what.whole_classes:
            case = replace(case, labels=commonest_labels(healthy.folder))
        clients = case.clients(sizes)
        settings = self._settings(case, case.planted(sizes))
        # The changed data of one round are gone when the run is diagnosed.
        changed = self._folder / "once" if case.what.kind == "once" else workspace
        write_data(case, settings, healthy.settings, healthy.folder, clients, changed, self._folder / "raw")
        same = unchanged(healthy.folder, changed, clients) if case.changes_data else []
        clients = [client for client in clients if client not in same]
        if case.what.kind == "ended":
            return self._end(case, settings, healthy, clients, workspace)
        with runtime(RuntimeSettings()):
            if case.what.grows:
                return self._grow(case, settings, healthy, clients, workspace)
            return self._run(case, settings, healthy, clients, same, changed, workspace)

    def _grow(self, case: Case, settings: Settings, healthy: Healthy, clients: list[str], workspace: Path) -> Planted:
        """Doubles a setting until the run does not end, and its loss at the end is at least twice the twin's."""
        name = case.what.grows
        value = reduce(getattr, name.split("."), settings)
        for _ in range(_DOUBLINGS):
            for written in ("models", "reports"):
                shutil.rmtree(workspace / written, ignore_errors=True)
            try:
                planted = self._run(case, settings, healthy, clients, [], workspace, workspace)
            except NotPlanted:
                pass  # A higher rate can survive where a lower one ended: the first steps then stop all units.
            else:
                if (
                    end_gap(*([line.row["val_loss"] for line in each] for each in (planted.lines, planted.twin)))
                    >= _TWICE
                ):
                    return planted
            value *= 2
            settings = self._settings(case, {**case.planted(sizes_of(healthy.folder)), name: value})
        raise NotPlanted(f"with {name} up to {value}, the run ends or learns")

    def _run(
        self,
        case: Case,
        settings: Settings,
        healthy: Healthy,
        clients: list[str],
        same: list[str],
        changed: Path,
        workspace: Path,
    ) -> Planted:
        """Writes the logs and checkpoints of a run that is changed from a round on, or in one round."""
        sizes, last = sizes_of(healthy.folder), case.what.rounds
        named = [[row["client"] for row in line.clients] for line in healthy.lines]
        once = case.what.kind == "once"
        begins = case.begins
        if once:
            begins = case.onset(sizes, named, same) or 0
            if not 0 < begins < last:
                raise NotPlanted("no planted client takes part")
            shutil.copytree(healthy.folder / CLIENTS, workspace / CLIENTS)
        kept = healthy.settings if once else settings
        spike = self._settings(case, case.spike(sizes)) if case.what.spike else None
        spiked = None
        if spike:
            wanted = set(spike.federate.faults.clients)
            spiked = next((r for r in range(case.spiked, begins) if wanted & set(named[r - 1])), None)
            if spiked is None:
                raise NotPlanted("the client of the spike takes no part")
        cohort, model, runner = self._runner(kept, workspace)
        fresh = runner.fresh()
        # A run writes the digest of its data when it begins. Data that are changed later have another one.
        begun = cohort.digest if begins == 1 else cohort_of(healthy.settings, healthy.folder).digest
        identity = {**identity_of(kept, cohort, model, _phase(kept)), "data": begun}
        checkpoints = Checkpoints(checkpoints_of(workspace, "federate"), identity)
        every = kept.federate.checkpoint_every
        first = spiked or begins
        lines, seconds = healthy.lines[: first - 1], healthy.seconds[: first - 1]
        for line in lines:
            checkpoints.log.append(line.json())
            if line.round % every == 0:
                checkpoints.save(line.round, _carried(healthy.states[line.round], healthy.settings, kept, fresh))
        state, before = healthy.states[first - 1], healthy.settings
        for round_num in range(first, last + 1):
            now, folder = healthy.settings, healthy.folder
            if round_num == spiked and spike:
                now = spike
            elif round_num == begins or (round_num > begins and not once):
                now, folder = settings, changed
            if now is not before:
                _, _, runner = self._runner(now, folder)
                state, before = _carried(state, before, now, runner.fresh()), now
            elif round_num == first:
                _, _, runner = self._runner(now, folder)
            began = time.perf_counter()
            try:
                stepped = runner.step(state, round_num)
            except NoClientLeft:
                if case.what.kind == "standing":
                    raise NotPlanted(f"the run ends in round {round_num}") from None
                break
            seconds = [*seconds, time.perf_counter() - began]
            state, lines = stepped.state, [*lines, stepped.line]
            checkpoints.log.append(stepped.line.json())
            if round_num % every == 0:
                checkpoints.save(round_num, _carried(state, before, kept, fresh))
        checkpoints.close()
        write_log(workspace / "reports", [line.row for line in lines], (row for line in lines for row in line.clients))
        _write_settings(workspace, kept)
        tracing = self._tracing[self._key(kept, cohort)]
        without = {
            cause: self.plant(other, self._folder / "without" / "workspace").lines
            for cause, other in case.without().items()
        }
        if case.changes_updates:
            drawn = {row["client"] for line in lines[begins - 1 :] for row in line.clients}
            clients = [client for client in clients if client in drawn]
        onset = case.onset(sizes, [[row["client"] for row in line.clients] for line in lines], same)
        training = float(np.median(seconds)) * len(lines) + tracing
        raw = self._folder / "raw" if case.what.raw and begins == 1 else None
        return Planted(kept, clients, begins, onset, spiked, lines, healthy, training, without, raw)

    def _end(self, case: Case, settings: Settings, healthy: Healthy, clients: list[str], workspace: Path) -> Planted:
        """Runs `federate` as a user does, until it dies: a setting that `grows` is multiplied by 10 each time."""
        settings = self._grown(case, settings, workspace) if case.what.grows else settings
        began = time.perf_counter()
        if not _dies(settings, workspace):
            raise NotPlanted("the run does not end")
        _write_settings(workspace, settings)
        training = time.perf_counter() - began
        return Planted(settings, clients, case.begins, case.begins, None, [], healthy, training)

    def _grown(self, case: Case, settings: Settings, workspace: Path) -> Settings:
        """Returns the settings with the smallest rate that ends the run; a client rate ends it in round 1."""
        name = case.what.grows
        rate = settings.federate.client.learning_rate if "client" in name else 1.0
        while (rate := rate * 10) < _LARGEST:
            grown = self._settings(case, {**case.healthy(), name: rate})
            if self._fails_at_once(grown, workspace) if "client" in name else _dies(grown, workspace):
                return grown
        raise NotPlanted(f"with {name} up to {_LARGEST}, the run does not end")

    def _fails_at_once(self, settings: Settings, workspace: Path) -> bool:
        with runtime(RuntimeSettings()):
            _, _, runner = self._runner(settings, workspace)
            try:
                runner.step(runner.fresh(), 1)
            except NoClientLeft:
                return True
        return False

    def _settings(self, case: Case, named: dict[str, Any]) -> Settings:
        return parse(nested({**named, **data_of(case.base, self._folder, self._chest)}))

    def _run_healthy(self, case: Case) -> Healthy:
        settings, at_first = self._settings(case, case.healthy()), case.what.at_first
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
        _, _, runner = self._runner(settings, folder)
        states, lines, seconds = [runner.fresh()], [], []
        for round_num in range(1, settings.federate.rounds + 1):
            began = time.perf_counter()
            stepped = runner.step(states[-1], round_num)
            seconds.append(time.perf_counter() - began)
            states.append(stepped.state)
            lines.append(stepped.line)
        self._healthy = key, at_first, Healthy(folder, settings, states, lines, seconds)
        return self._healthy[2]

    def _key(self, settings: Settings, cohort: Cohort) -> str:
        federate = settings.model_dump(mode="json")["federate"]
        # These settings come with each client's input or act on the host, so the computations are the same.
        for name in ("rounds", "local_work", "exclude", "guard"):
            del federate[name]
        del federate["client"]["learning_rate"]
        federate["faults"] = faults.of_graph(settings.federate.faults)
        return json.dumps([federate, cohort.input_shape, cohort.num_classes, len(cohort.clients)])

    def _runner(self, settings: Settings, folder: Path) -> tuple[Cohort, Any, Runner]:
        cohort = cohort_of(settings, folder)
        key = self._key(settings, cohort)
        phase = _phase(settings)
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


def _phase(settings: Settings) -> Phase:
    return Phase("federate", 1, settings.federate.rounds)


def _dies(settings: Settings, workspace: Path) -> bool:
    """Runs `federate` in the workspace, and returns whether the run ended before its last round."""
    for name in ("models", "reports"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    try:
        federate(settings, workspace)
    except (GuardStop, NoClientLeft):
        return True
    return False


def _write_settings(workspace: Path, settings: Settings) -> None:
    text = yaml.safe_dump(settings.model_dump(mode="json"))
    (workspace / "params.yaml").write_text(text, encoding="utf-8")


def _carried(state: ServerState, before: Settings, now: Settings, fresh: ServerState) -> ServerState:
    """Returns a state of the run with the settings `before` in the structure of the states with the settings `now`."""
    carried = replace(fresh, params=state.params)
    if now.federate.server_optimizer == before.federate.server_optimizer:
        return replace(carried, optimizer=state.optimizer)
    return carried


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


def write_truth(path: Path, case: Case, planted: Planted) -> None:
    """Writes truth.json: what was planted, and the healthy twin's losses."""
    write_json(
        path,
        {
            "case": case.name,
            "causes": list(case.what.causes),
            "also": list(case.what.also),
            "kind": case.what.kind,
            "clients": planted.clients,
            "onset": planted.onset,
            "spiked": planted.spiked,
            "twin": {name: [line.row[name] for line in planted.twin] for name in ("val_loss", "train_loss")},
        },
    )
