"""Plants a cause: the rounds of a healthy run before the onset, and then the rounds of the changed run."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cases import ONSET, PLANTS, ROUNDS, Case, Operation

from tasks.clients import CLIENTS, TEST, read_client, read_preprocessed, read_raw, writing
from tasks.errors import NoClientLeft
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.loop import identity_of
from tasks.federate.record import RoundLine
from tasks.federate.round import Round
from tasks.federate.runner import Phase, Runner
from tasks.federate.state import ServerState
from tasks.files import read_json, replacing, write_json
from tasks.models import build
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.round_log.write import write_log
from tasks.settings import Settings, parse

PHASE = Phase("federate", 1, ROUNDS)
CHEST_EXAMPLES = 1500
"""Chest X-rays that are used: 1200 for training and 300 held out."""


@dataclass(frozen=True)
class Healthy:
    """A healthy run: its workspace, state after each round (from 0), and log lines."""

    folder: Path
    settings: Settings
    states: list[ServerState]
    lines: list[RoundLine]


@dataclass(frozen=True)
class Planted:
    """A run with a planted cause.

    `twin` are the same rounds of the healthy run. `without` has, by cause of a pair, the rounds without that cause.
    """

    settings: Settings
    clients: list[str]
    onset: int | None
    lines: list[RoundLine]
    twin: list[RoundLine]
    without: dict[str, list[RoundLine]] = field(default_factory=dict)


class Planter:
    """Plants cases in `folder`; healthy runs and compiled rounds are shared. Use it inside a runtime."""

    def __init__(self, folder: Path, chest: Path | None) -> None:
        self._folder, self._chest = folder, chest
        self._compiled: dict[str, Round] = {}
        self._healthy: tuple[str, Operation | None, Healthy] | None = None

    def plant(self, case: Case, workspace: Path) -> Planted:
        """Writes the workspace of `case`."""
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        healthy = self._run_healthy(case)
        sizes = _sizes(healthy.folder / CLIENTS)
        clients = case.clients(sizes)
        named = self._with_data(case.planted(sizes))
        settings = parse(nested(named))
        self._write_data(case, settings, healthy, clients, workspace)
        same = _unchanged(healthy.folder / CLIENTS, workspace / CLIENTS, clients) if case.changes_data else []
        clients = [client for client in clients if client not in same]
        cohort, model, runner = self._runner(settings, workspace)
        fresh = runner.fresh()
        # A run writes the digest of its data when it begins, so it is the digest of the data before the onset.
        begun = cohort_of(healthy.settings, healthy.folder).digest
        identity = {**identity_of(settings, cohort, model, PHASE), "data": begun}
        checkpoints = Checkpoints(checkpoints_of(workspace, PHASE.name), identity)
        every = settings.federate.checkpoint_every
        due = {*range(every, ONSET, every), ONSET - 1}
        for line in healthy.lines[: ONSET - 1]:
            checkpoints.log.append(line.json())
            if line.round in due:
                checkpoints.save(line.round, _carried(healthy, settings, fresh, line.round))
        state, lines = _carried(healthy, settings, fresh, ONSET - 1), healthy.lines[: ONSET - 1]
        for round_num in range(ONSET, ROUNDS + 1):
            try:
                stepped = runner.step(state, round_num)
            except NoClientLeft:
                break
            state, lines = stepped.state, [*lines, stepped.line]
            checkpoints.log.append(stepped.line.json())
            if round_num % every == 0:
                checkpoints.save(round_num, state)
        checkpoints.close()
        rows = [line.row for line in lines]
        write_log(workspace / "reports", rows, (row for line in lines for row in line.clients))
        (workspace / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
        without = {
            cause: self.plant(other, self._folder / "without" / "workspace").lines
            for cause, other in case.without().items()
        }
        if case.changes_updates:
            drawn = {row["client"] for line in lines[ONSET - 1 :] for row in line.clients}
            clients = [client for client in clients if client in drawn]
        onset = case.onset(sizes, [[row["client"] for row in line.clients] for line in lines], same)
        return Planted(settings, clients, onset, lines, healthy.lines, without)

    def _with_data(self, named: dict[str, Any]) -> dict[str, Any]:
        if named.get("data.kind") != "npz":
            return named
        if self._chest is None:
            raise SystemExit("the cases of the chest X-rays need --chest FILE")
        small = (self._folder / "chest.npz").resolve()
        if not small.is_file():
            with np.load(self._chest) as arrays:
                x, y = arrays["train_images"], arrays["train_labels"].ravel()
            kept = np.random.default_rng(0).permutation(len(y))[:CHEST_EXAMPLES]
            np.savez(small, x_train=x[kept], y_train=y[kept])
        return {**named, "data.path": str(small)}

    def _run_healthy(self, case: Case) -> Healthy:
        settings, at_first = parse(nested(self._with_data(case.healthy()))), PLANTS[case.plant].at_first
        key = hashlib.md5(settings.model_dump_json().encode(), usedforsecurity=False).hexdigest()
        if self._healthy is not None and self._healthy[:2] == (key, at_first):
            return self._healthy[2]
        folder = self._folder / "healthy"
        shutil.rmtree(folder, ignore_errors=True)
        partition(settings, folder)
        preprocess(settings, folder)
        if at_first:
            _change(folder / CLIENTS, _sizes(folder / CLIENTS), at_first, case.seed)
        _, _, runner = self._runner(settings, folder)
        states, lines = [runner.fresh()], []
        for round_num in range(1, ROUNDS + 1):
            stepped = runner.step(states[-1], round_num)
            states.append(stepped.state)
            lines.append(stepped.line)
        self._healthy = key, at_first, Healthy(folder, settings, states, lines)
        return self._healthy[2]

    def _write_data(
        self, case: Case, settings: Settings, healthy: Healthy, clients: list[str], workspace: Path
    ) -> None:
        plant = PLANTS[case.plant]
        if settings.partition != healthy.settings.partition:
            partition(settings, workspace)
            preprocess(settings, workspace)
        else:
            shutil.copytree(healthy.folder / CLIENTS, workspace / CLIENTS)
        # The partition would show which clients' data were changed later.
        shutil.rmtree(workspace / "data/partition", ignore_errors=True)
        if plant.operation is not None:
            known = _sizes(workspace / CLIENTS)
            changed = [name for name in known if (name in clients) != plant.to_others]
            _change(workspace / CLIENTS, changed, plant.operation, case.seed)

    def _runner(self, settings: Settings, folder: Path) -> tuple[Cohort, Any, Runner]:
        cohort = cohort_of(settings, folder)
        model = build(settings.federate.model, cohort.input_shape, cohort.num_classes, settings.seed)
        federate = settings.model_dump(mode="json")["federate"]
        # These settings come with each client's input or act on the host, so the computations are the same.
        for name in ("rounds", "local_work", "exclude"):
            del federate[name]
        del federate["client"]["learning_rate"], federate["faults"]["clients"]
        key = json.dumps([federate, cohort.input_shape, cohort.num_classes, len(cohort.clients)])
        if key not in self._compiled:
            self._compiled[key] = build_computations(settings, cohort, model, masked=False)
        return cohort, model, Runner(settings, cohort, model, PHASE, self._compiled[key])


def _sizes(root: Path) -> dict[str, int]:
    sizes: dict[str, int] = read_json(root / "preprocess.json")["clients"]
    return sizes


def _unchanged(before: Path, after: Path, clients: list[str]) -> list[str]:
    """Returns the clients whose data the operation did not change: reversing the labels keeps the middle label."""
    then, now = (read_preprocessed(root).stored for root in (before, after))
    return [
        client
        for client in clients
        if all(np.array_equal(*pair) for pair in zip(read_client(then[client]), read_client(now[client]), strict=True))
    ]


def _change(root: Path, clients: Iterable[str], operation: Operation, seed: int) -> None:
    preprocessed, changed = read_preprocessed(root), {*clients}
    sizes = dict(preprocessed.sizes)
    with replacing(root) as fresh:
        with writing(fresh, list(sizes)) as write:
            for client, stored in preprocessed.stored.items():
                x, y = read_raw(stored)
                if client in changed:
                    rng = np.random.default_rng([78, seed, *client.encode()])
                    x, y = operation(*read_client(stored), preprocessed.form.num_classes, rng)
                write(client, x, y)
                sizes[client] = len(y)
            write(TEST, *read_raw(preprocessed.test))
        write_json(fresh / "preprocess.json", {**preprocessed.content, "clients": sizes})


def _carried(healthy: Healthy, settings: Settings, fresh: ServerState, done: int) -> ServerState:
    """Returns the healthy state after round `done` in the structure of the changed run's states."""
    before = healthy.states[done]
    state = replace(fresh, params=before.params)
    if settings.federate.server_optimizer == healthy.settings.federate.server_optimizer:
        return replace(state, optimizer=before.optimizer)
    return state


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
            "causes": list(PLANTS[case.plant].causes),
            "clients": planted.clients,
            "onset": planted.onset,
            "twin": {name: [line.row[name] for line in planted.twin] for name in ("val_loss", "train_loss")},
        },
    )
