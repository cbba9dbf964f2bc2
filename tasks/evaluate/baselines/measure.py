"""Trains and measures the baselines of a run."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import CLIENTS, read_preprocessed
from tasks.errors import DataError, RunError
from tasks.evaluate.baselines.judgement import (
    Answers,
    Comparison,
    Mark,
    answers,
    compare,
    flat,
    mark,
    says,
    weights_of,
)
from tasks.evaluate.baselines.pooled import pool
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.round import Round
from tasks.federate.runner import Phase, Runner
from tasks.federate.schedule import clients_per_round
from tasks.local import faults
from tasks.models import build, logits_of
from tasks.parameters import Params, assign
from tasks.runtime.failed import Failed
from tasks.runtime.kinds import runtime
from tasks.scrub import scrubbing
from tasks.settings import (
    FaultSettings,
    FederateSettings,
    LocalWorkSettings,
    RuntimeSettings,
    Settings,
    switch_kind,
    with_settings,
)

_log = logging.getLogger(__name__)

POOLED = "pooled model"


@dataclass(frozen=True)
class Baselines:
    """The baselines of a run.

    Attributes:
        rounds: T.
        pooled: the pooled model on the hold-out data; None if it could not be trained.
        federated: the global model on the hold-out data.
        clients: the comparison for each client that was measured.
        left_out: the reason for each client, or the pooled model, that was not.
    """

    rounds: int
    pooled: Mark | None
    federated: Mark
    clients: Mapping[str, Comparison]
    left_out: Mapping[str, str]

    @property
    def says(self) -> list[str]:
        """The answer in a few sentences."""
        return says(self.clients, self.pooled, self.federated, list(self.left_out))

    @property
    def flat(self) -> dict[str, float]:
        """The numbers of metrics.json."""
        return flat(self.clients, self.pooled)

    @property
    def detailed(self) -> dict[str, Any]:
        """The `baselines` of evaluation.json."""
        return {"says": self.says, **asdict(self)}


def measure(settings: Settings, folder: Path, rounds: int, logits: NDArray[np.float32]) -> Baselines:
    """Returns the baselines of the run in the workspace `folder`; see the package.

    Args:
        settings: of the run.
        folder: its workspace.
        rounds: of training that the run had.
        logits: (N, C) of its global model for the hold-out data.

    Raises:
        DataError: no client's data, or no hold-out data, can be used.
    """
    alone = _alone(settings, rounds)
    cohort = cohort_of(alone, folder)
    of_round, number = clients_per_round(settings.federate.sampling, len(cohort.clients)), len(cohort.clients)
    last = max(1, round(rounds * of_round / number))
    _log.info("baselines: %d rounds, on all data in one place and for each of %d clients alone", last, number)
    federated = answers(cohort.test_y, logits)
    left_out = {**dict.fromkeys(settings.federate.exclude, "federate.exclude names it"), **cohort.broken}
    comparisons: dict[str, Comparison] = {}
    # In this process also if the rounds were on a cluster: only one client at a time trains, and on temporary data.
    with runtime(RuntimeSettings(threads=settings.federate.runtime.threads)):
        trainer = _Trainer(alone, cohort, last)
        pooled = _pooled(alone, folder, trainer)
        if isinstance(pooled, Failed):
            left_out[POOLED] = pooled.reason
        for client, info in cohort.clients.items():
            weights = weights_of(info.labels, cohort.test_y)
            if weights is None:
                left_out[client] = "the hold-out data have fewer than two examples of its classes"
                continue
            own = trainer.answers(client)
            if isinstance(own, Failed):
                left_out[client] = own.reason
            else:
                comparisons[client] = compare(own, federated, weights)
    for what, reason in left_out.items():
        _log.warning("baselines: %s not measured: %s", what if what == POOLED else f"client {what}", reason)
    return Baselines(last, None if isinstance(pooled, Failed) else mark(pooled), mark(federated), comparisons, left_out)


def _alone(settings: Settings, rounds: int) -> Settings:
    """Returns the settings of clients that train without a federation, for a run that had `rounds` rounds."""
    simulated, plain = settings.federate.faults, FederateSettings()
    faulty = simulated.kind in faults.OF_DATA and faults.acts(simulated, rounds)
    always = simulated.model_copy(update={"from_round": 1, "until_round": 0}) if faulty else FaultSettings()
    without = ("aggregator", "server_optimizer", "sampling", "width", "shared_fraction", "guard", "early_stopping")
    changes = {f"federate.{name}": plain.model_dump(mode="json")[name] for name in without}
    return with_settings(
        settings,
        {
            **switch_kind("federate.client", "sgd"),
            **changes,
            "federate.faults": always.model_dump(mode="json"),
        },
    )


def _mean_epochs(work: LocalWorkSettings, cohort: Cohort) -> int:
    """Returns the passes of a round over an example, on average over the examples, at least 1."""
    match work.kind:
        case "same":
            return work.epochs
        case "range":
            return max(1, round((work.low + work.high) / 2))
    sizes = {client: int(info.labels.sum()) for client, info in cohort.clients.items()}
    visits = sum(size * work.by_client.get(client, work.epochs) for client, size in sizes.items())
    return max(1, round(visits / sum(sizes.values())))


class _Trainer:
    """Trains one client at a time, without the others; use it inside a runtime's context."""

    def __init__(self, alone: Settings, cohort: Cohort, last: int, computations: Round | None = None) -> None:
        self.settings, self.cohort, self.last = alone, cohort, last
        self._model = build(alone.federate.model, cohort.input_shape, cohort.num_classes, alone.seed)
        self.computations = computations or build_computations(alone, cohort, self._model, masked=False)
        self._runner = Runner(alone, cohort, self._model, Phase("alone", 1, last), self.computations)
        self._start = self._runner.fresh()
        self._logits = logits_of(self._model, alone.evaluate.batch_size)

    def answers(self, client: str) -> Answers | Failed:
        """Returns what the client's own model answers on the hold-out data, or why there is none."""
        params = self._trained(client)
        if isinstance(params, Failed):
            return params
        assign(self._model, params)
        try:
            predicted = scrubbing("its model failed on the hold-out data", lambda: self._logits(self.cohort.test_x))
        except RunError as exc:
            return Failed(str(exc))
        return answers(self.cohort.test_y, predicted)

    def _trained(self, client: str) -> Params | Failed:
        state = self._start
        for round_num in range(1, self.last + 1):
            result = self._runner.updates(state, round_num, [client])[client]
            if isinstance(result, Failed):
                return result
            if not result.finite:
                return Failed(f"its training is not finite in round {round_num}")
            state = replace(state, params=state.params + result.update)
        return state.params


def _pooled(alone: Settings, folder: Path, trainer: _Trainer) -> Answers | Failed:
    """Returns what the model of all data in one place answers on the hold-out data, or why there is none."""
    preprocessed, cohort, simulated = (
        read_preprocessed((folder / CLIENTS).resolve()),
        trainer.cohort,
        alone.federate.faults,
    )
    work = {"kind": "same", "epochs": _mean_epochs(alone.federate.local_work, cohort)}
    changes = {
        "federate.faults": FaultSettings().model_dump(mode="json"),  # it is in the pooled data
        "federate.exclude": [],
        "federate.local_work": {**LocalWorkSettings().model_dump(mode="json"), **work},
    }
    settings = with_settings(alone, changes)
    # Tracing the computations takes seconds.
    same = faults.of_graph(simulated) == faults.of_graph(FaultSettings())
    with tempfile.TemporaryDirectory() as holder:
        try:
            name = pool(cohort, preprocessed.test, preprocessed.content, simulated, alone.seed, Path(holder))
        except DataError as exc:
            return Failed(str(exc))
        of_all = cohort_of(settings, Path(holder))
        return _Trainer(settings, of_all, trainer.last, trainer.computations if same else None).answers(name)
