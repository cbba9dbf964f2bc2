"""Plants a cause: the rounds of a healthy run before the onset, and then the rounds of the changed run."""

import math
import shutil
import time
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import numpy as np
import yaml
from cases import Case
from losses import end_gap
from planted_data import commonest_labels, sizes_of, unchanged, write_data
from trainer import Healthy, Trainer, phase_of

from tasks.clients import CLIENTS
from tasks.errors import GuardStop, NoClientLeft
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.cohort import cohort_of
from tasks.federate.loop import identity_of
from tasks.federate.record import RoundLine
from tasks.federate.state import ServerState
from tasks.federate.step import federate
from tasks.files import write_json
from tasks.models import save_model
from tasks.parameters import assign
from tasks.round_log.write import write_log
from tasks.runtime.kinds import runtime
from tasks.settings import RuntimeSettings, Settings

_LARGEST = 1e37
"""No rate is larger: float32 ends at 3e38."""
_DOUBLINGS = 9
"""Values of a standing setting that grows: a rate is at most 256 times the first one."""
_TWICE = math.log(2)


class NotPlanted(Exception):
    """The case cannot be planted: the run ends or does not end, or no planted client takes part."""


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
        self._folder, self._trainer = folder, Trainer(folder, chest)

    def plant(self, case: Case, workspace: Path) -> Planted:
        """Writes the workspace of `case`.

        Raises:
            NotPlanted: there is no such run.
            UndriftError: the data cannot be divided as the case needs.
        """
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        with runtime(RuntimeSettings()):
            healthy = self._trainer.healthy(case)
        sizes = sizes_of(healthy.folder)
        if case.what.whole_classes:
            case = replace(case, labels=commonest_labels(healthy.folder))
        clients = case.clients(sizes)
        settings = self._trainer.settings(case, case.planted(sizes))
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
            settings = self._trainer.settings(case, {**case.planted(sizes_of(healthy.folder)), name: value})
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
        spike = self._trainer.settings(case, case.spike(sizes)) if case.what.spike else None
        spiked = None
        if spike:
            wanted = set(spike.federate.faults.clients)
            spiked = next((r for r in range(case.spiked, begins) if wanted & set(named[r - 1])), None)
            if spiked is None:
                raise NotPlanted("the client of the spike takes no part")
        cohort, model, runner = self._trainer.runner(kept, workspace)
        fresh = runner.fresh()
        # A run writes the digest of its data when it begins. Data that are changed later have another one.
        begun = cohort.digest if begins == 1 else cohort_of(healthy.settings, healthy.folder).digest
        identity = {**identity_of(kept, cohort, model, phase_of(kept)), "data": begun}
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
                _, _, runner = self._trainer.runner(now, folder)
                state, before = _carried(state, before, now, runner.fresh()), now
            elif round_num == first:
                _, _, runner = self._trainer.runner(now, folder)
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
        # As a run does: where the features of an example say little of its label, a diagnosis asks the global model.
        assign(model, state.params)
        save_model(model, workspace / "models" / "global.h5")
        write_log(workspace / "reports", [line.row for line in lines], (row for line in lines for row in line.clients))
        _write_settings(workspace, kept)
        tracing = self._trainer.seconds_to_begin(kept, cohort)
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
            grown = self._trainer.settings(case, {**case.healthy(), name: rate})
            if self._fails_at_once(grown, workspace) if "client" in name else _dies(grown, workspace):
                return grown
        raise NotPlanted(f"with {name} up to {_LARGEST}, the run does not end")

    def _fails_at_once(self, settings: Settings, workspace: Path) -> bool:
        with runtime(RuntimeSettings()):
            _, _, runner = self._trainer.runner(settings, workspace)
            try:
                runner.step(runner.fresh(), 1)
            except NoClientLeft:
                return True
        return False


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
