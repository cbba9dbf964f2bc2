"""A run, and the same run with one factor changed: its settings, clients' data, computations and first state."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tasks.clients import CLIENTS, TEST, Examples, Stored, read_client, read_raw, writing
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.surgery import features_aligned
from tasks.diagnose.verdict import SEED_STEP
from tasks.errors import RunError
from tasks.federate.aggregators import check
from tasks.federate.cohort import Cohort, cohort_from, cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.round import Round
from tasks.federate.runner import Phase, Runner
from tasks.federate.state import ServerState
from tasks.files import write_json
from tasks.local import faults
from tasks.local.on_examples import on_examples
from tasks.models import build, num_params
from tasks.parameters import digest
from tasks.round_log.read import has_no_row, read_rounds
from tasks.runtime.carry import at_clients
from tasks.runtime.check_in import check_in
from tasks.runtime.failed import Failed
from tasks.settings import FaultSettings, Settings, with_settings

T = TypeVar("T")

# What a round's computations do not depend on: these come with each client's input, or are the host's business.
_PER_ROUND = (
    "rounds",
    "evaluate_every",
    "checkpoint_every",
    "guard",
    "local_work",
    "exclude",
    "early_stopping",
    "runtime",
)


class Variants:
    """Makes the runner of a run with one factor changed.

    Attributes:
        settings: of the run; every round is evaluated, and no rise ends a replay.
        cohort: the clients of the run.
        model: the global model.
        phase: its rounds.
        unchanged: the runner of the run itself.
    """

    def __init__(self, settings: Settings, folder: Path, holder: Path, cache: ComputationCache) -> None:
        """Reads the clients and the model.

        Args:
            settings: of the run.
            folder: its workspace.
            holder: an empty folder for changed data.
            cache: of computations.
        """
        self.settings = with_settings(settings, {"federate.evaluate_every": 1, "federate.guard": "continue"})
        self._checked_in = check_in((folder / CLIENTS).resolve(), settings.federate.exclude)
        self.cohort = cohort_from(settings, self._checked_in)
        self._excluded = {*settings.federate.exclude}
        self.model = build(settings.federate.model, self.cohort.input_shape, self.cohort.num_classes, settings.seed)
        self.phase = Phase("federate", 1, settings.federate.rounds)
        self._folder, self._holder, self._cache = folder, holder, cache
        self._today = _last_round(folder, settings.federate.rounds)
        self._cohorts: dict[str, Cohort] = {}
        computations = self._computations(self.settings, self.cohort)
        self.unchanged = Runner(self.settings, self.cohort, self.model, self.phase, computations, scratch=holder)

    def at_clients(self, compute: Callable[[str, Examples], T], clients: Iterable[str]) -> dict[str, T]:
        """Returns what a client computation gives at each of `clients`, by client.

        Args:
            compute: the client's id and its preprocessed examples, without public ones, as a simulated fault leaves
                them in the last round of the run -> numbers, or vectors of the model's size.
            clients: ids.

        Raises:
            RunError: a client's data cannot be read, or the model fails on them.
        """

        def with_fault(stored: Stored) -> T:
            def compute_on(examples: Examples) -> T:
                return compute(stored.client, self._with_fault(stored.client, examples))

            return on_examples(compute_on, stored)

        stored = self._checked_in.preprocessed.stored
        results = at_clients(with_fault, {client: stored[client] for client in clients})
        for client, result in results.items():
            if isinstance(result, Failed):
                raise RunError(f"client {client}: {result.reason}")
        return {client: result for client, result in results.items() if not isinstance(result, Failed)}

    def _sites(self) -> dict[str, Examples]:
        """The clients' examples in one place: a simulation may move them between clients, a federation could not."""
        return {
            client: self._with_fault(client, read_client(info.stored)) for client, info in self.cohort.clients.items()
        }

    def _with_fault(self, client: str, examples: Examples) -> Examples:
        settings = self.settings
        return faults.with_fault(
            settings.federate.faults, settings.seed, self._today, client, examples, self._checked_in.form.num_classes
        )

    @property
    def _data_are_faulty(self) -> bool:
        simulated = self.settings.federate.faults
        return simulated.kind in faults.OF_DATA and faults.acts(simulated, self._today)

    @property
    def draws(self) -> bool:
        """Whether the model draws random numbers while it trains."""
        return self._computations(self.settings, self.cohort).draws

    def changed(self, change: Change, seed: int, state: ServerState) -> tuple[Runner, ServerState]:
        """Returns the runner of the changed run, and what it begins with.

        Args:
            change: what is different.
            seed: 0 draws what the run drew.
            state: of the run, to go on from; kept as far as it means the same under the changed settings.

        Raises:
            SettingsError: the run's other settings or its data do not allow the change.
        """
        settings = with_settings(self.settings, change.settings)
        if change.surgery and self._data_are_faulty:
            # The fault is already in the data on which the surgery was done.
            settings = with_settings(settings, {"federate.faults": FaultSettings().model_dump(mode="json")})
        cohort = self._cohort(settings, change)
        check(settings, len(cohort.clients), num_params(self.model))
        runner = Runner(
            settings,
            cohort,
            self.model,
            self.phase,
            self._computations(settings, cohort),
            local_seed=self.settings.seed + seed * SEED_STEP,
            absent=change.without,
            validate=None if _of_every_site(change) else self.unchanged.validate,
            scratch=self._holder,
        )
        return runner, self._first_state(settings, cohort, runner, state)

    def honest(self, state: ServerState) -> Runner:
        """Returns the runner of the run with honest updates.

        A fault of the data that is there in the last round of the run is in all rounds.
        """
        simulated = self.settings.federate.faults
        if simulated.kind == "none":
            return self.unchanged
        always = simulated.model_copy(update={"from_round": 1, "until_round": 0})
        left = always if self._data_are_faulty else FaultSettings()
        return self.changed(Change("", {"federate.faults": left.model_dump(mode="json")}), 0, state)[0]

    def again(self, seed: int, state: ServerState) -> tuple[Runner, ServerState]:
        """Returns the runner of the run itself with another seed, and what it begins with; 0 is the run's own seed."""
        return self.changed(NO_CHANGE, seed, state) if seed else (self.unchanged, state)

    def _first_state(self, settings: Settings, cohort: Cohort, runner: Runner, state: ServerState) -> ServerState:
        now, before = settings.federate, self.settings.federate
        fresh = replace(runner.fresh(), params=state.params)
        if now.server_optimizer == before.server_optimizer:
            fresh = replace(fresh, optimizer=state.optimizer)
        if now.aggregator == before.aggregator:
            fresh = replace(fresh, aggregator=state.aggregator)
        if now.client.kind == before.client.kind:
            fresh = replace(fresh, shared=state.shared, kept=state.kept)
            if state.kept is not None and _shares(cohort) != _shares(self.cohort):
                fresh = runner.settled(fresh, list(cohort.clients))
        return fresh

    def _cohort(self, settings: Settings, change: Change) -> Cohort:
        federate = settings.federate
        key = json.dumps(
            [*change.surgery, federate.aggregator.weighting, federate.shared_fraction, sorted(federate.exclude)]
        )
        if key not in self._cohorts:
            if change.surgery:
                self._cohorts[key] = cohort_of(settings, self._operated(change))
            elif self._excluded <= {*federate.exclude}:
                self._cohorts[key] = cohort_from(settings, self._checked_in.without(federate.exclude))
            else:
                self._cohorts[key] = cohort_of(settings, self._folder)
        return self._cohorts[key]

    def _operated(self, change: Change) -> Path:
        folder = self._holder / f"{len(self._cohorts)}"
        sites: Mapping[str, Examples] = self._sites()
        for surgery in change.surgery.values():
            sites = surgery(sites)
        preprocessed = self._checked_in.preprocessed
        # Clients that are excluded or broken stay named, so that they are here what they were in the run.
        sizes = {**preprocessed.sizes, **{client: len(y) for client, (_, y) in sites.items()}}
        with writing(folder / CLIENTS, list(sizes)) as write:
            for client in sorted(sites):
                write(client, *sites[client])
            if _of_every_site(change):
                write(TEST, *features_aligned({TEST: self._checked_in.test})[TEST])
            else:
                write(TEST, *read_raw(preprocessed.test))
        write_json(folder / CLIENTS / "preprocess.json", {**preprocessed.content, "clients": sizes})
        return folder

    def _computations(self, settings: Settings, cohort: Cohort) -> Round:
        federate = settings.model_dump(mode="json")["federate"]
        for name in _PER_ROUND:
            del federate[name]
        del federate["client"]["learning_rate"], federate["client"]["schedule"]
        federate["faults"] = faults.of_graph(settings.federate.faults)
        shape = [cohort.input_shape, cohort.num_classes, len(cohort.clients)]
        augment = settings.preprocess.augment.model_dump(mode="json")
        key = json.dumps([federate, augment, shape, digest(self.model), cohort.public is not None and cohort.digest])
        return self._cache.get(key, lambda: build_computations(settings, cohort, self.model, masked=False))


def _last_round(folder: Path, planned: int) -> int:
    """Returns the last round of training in the log of the run, which may have ended early; `planned` without a log."""
    log = folder / "reports/rounds.csv"
    rounds = read_rounds(log) if log.is_file() and not has_no_row(log) else None
    return planned if rounds is None else int(rounds.rounds[~rounds.pruning].max(initial=0))


def _of_every_site(change: Change) -> bool:
    """Whether a surgery is done to the hold-out data, too, as preprocessing would do."""
    return features_aligned in change.surgery.values()


def _shares(cohort: Cohort) -> dict[str, float]:
    return {client: info.share for client, info in cohort.clients.items()}
