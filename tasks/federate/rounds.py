"""The rounds of one phase of a run: sample, train, aggregate, record, guard, checkpoint."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks import timings
from tasks.errors import GuardStop, NoClientLeft, RunError, SettingsError, UndriftError
from tasks.federate import faults, schedule
from tasks.federate.aggregators import aggregator, check
from tasks.federate.architecture import Architecture, narrower, whole
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.cohort import Cohort
from tasks.federate.descent import LocalTraining
from tasks.federate.in_process import Failed
from tasks.federate.models import build, num_params
from tasks.federate.parameters import assign, build_validation, flatten, prunable
from tasks.federate.privacy import epsilon
from tasks.federate.progress import RoundProgress
from tasks.federate.record import Outcome, client_rows, round_row
from tasks.federate.round import Round, build_round
from tasks.federate.runtime import runtime
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.settings import Settings

log = logging.getLogger(__name__)

Watch = Callable[[Mapping[str, Any]], None]


def ignore(row: Mapping[str, Any]) -> None:
    """Watches nothing."""


# Rollbacks of a run whose model, not a client, went wrong: nobody can be left out the next time.
_MAX_MODEL_ROLLBACKS = 3
# Drawing one costs 25 µs a client, which is much where nothing is augmented.
_NO_SEED = np.zeros(2, np.int32)


@dataclass(frozen=True)
class Phase:
    """Which rounds to run: `first` to `last` of the whole run, counted from 1."""

    name: str
    first: int
    last: int
    next_mask: Callable[[int, NDArray[np.float32]], NDArray[np.float32] | None] | None = None
    """Pruning: (round, params (P,)) -> the mask (P,) of ones and zeros from then on, or None for no change."""


@dataclass
class _Progress:
    """What changes from round to round."""

    state: Any
    excluded: set[str] = field(default_factory=set)
    model_rollbacks: int = 0


def run_rounds(
    settings: Settings,
    folder: Path,
    cohort: Cohort,
    model: tf.keras.Model,
    phase: Phase,
    report: Callable[[Sequence[Mapping[str, Any]]], None],
    watch: Watch = ignore,
) -> list[dict[str, Any]]:
    """Trains `model` in place for the rounds of `phase`, and returns a log line for each of them.

    A run of the same phase with the same settings and data that was killed goes on from its last checkpoint, and ends
    with the same bits. `report` gets the lines however the rounds end, so that a run that was stopped can be diagnosed;
    `watch` gets each finished round's row of rounds.csv at once.

    Raises:
        SettingsError: the clients, the model or the privacy budget do not allow what the settings ask for.
        GuardStop: a client failed or the model was not finite, and `federate.guard` says stop.
        NoClientLeft: every client of a round failed.
    """
    schedule.check_clients(settings.federate, [*cohort.clients, *cohort.broken])
    check(settings, len(cohort.clients))
    identity = {
        "phase": [phase.name, phase.first, phase.last],
        "settings": settings.model_dump(mode="json", include={"seed", "preprocess", "federate", "prune"}),
        "data": cohort.digest,
        "model": model.to_json(),
    }
    federate = settings.federate
    computations = build_round(
        _architectures(settings, cohort, model),
        _local_training(settings, cohort, model),
        aggregator(federate.aggregator, schedule.clients_per_round(federate.sampling, len(cohort.clients))),
        SERVER_OPTIMIZERS[federate.server_optimizer.kind](federate.server_optimizer),
        masked=phase.next_mask is not None,
    )
    checkpoints = Checkpoints(checkpoints_of(folder, phase.name), identity)
    with closing(checkpoints), runtime(federate.runtime):
        loop = _Loop(settings, folder, cohort, model, phase, computations, checkpoints, watch)
        try:
            loop.run()
        finally:
            loop.close()
            report(loop.lines)
    return loop.lines


def _local_training(settings: Settings, cohort: Cohort, model: tf.keras.Model) -> LocalTraining:
    client, augment = settings.federate.client, settings.preprocess.augment
    return LocalTraining(
        input_shape=cohort.input_shape,
        num_classes=cohort.num_classes,
        num_params=num_params(model),
        batch_size=client.batch_size,
        update=CLIENT_UPDATES[client.kind](client),
        flip=augment.flip,
        brightness=augment.brightness > 0,
        shared_data=cohort.shared,
        faults=settings.federate.faults,
    )


def _widths(by_client: Mapping[str, float]) -> list[float]:
    """Returns the widths of the architectures, the whole model's first."""
    return [1.0, *sorted({width for width in by_client.values() if width < 1})]


def _architectures(settings: Settings, cohort: Cohort, model: tf.keras.Model) -> list[Architecture]:
    name, shape = settings.federate.model, cohort.input_shape
    found = [whole(model, shape)]
    for width in _widths(settings.federate.width)[1:]:
        try:
            narrow = build(name, shape, cohort.num_classes, settings.seed, width)
            found.append(narrower(model, narrow, shape))
        except (TypeError, ValueError) as exc:
            raise SettingsError(f"federate.model {name} has no width {width:g} (federate.width): {exc}") from exc
    return found


class _Loop:
    def __init__(
        self,
        settings: Settings,
        folder: Path,
        cohort: Cohort,
        model: tf.keras.Model,
        phase: Phase,
        computations: Round,
        checkpoints: Checkpoints,
        watch: Watch,
    ) -> None:
        self._watch = watch
        self._seed, self._settings = settings.seed, settings.federate
        self._folder, self._cohort, self._phase = folder, cohort, phase
        self._computations, self._checkpoints, self._model = computations, checkpoints, model
        self._prunable, self._widths = prunable(model), _widths(settings.federate.width)
        augment = settings.preprocess.augment
        self._augments = augment.flip or augment.brightness > 0
        self._validate = build_validation(model, cohort.test_x, cohort.test_y)
        private = settings.federate.aggregator.kind == "dp_mean"
        self._epsilon = epsilon(settings, len(cohort.clients)) if private else None
        self._seconds: list[float] = []
        self._begun = phase.first
        self.lines: list[dict[str, Any]] = []

    def run(self) -> None:
        phase, settings = self._phase, self._settings
        now = self._start()
        self._begun = phase.first + len(self.lines)
        with RoundProgress(phase.name, len(self.lines), phase.last - phase.first + 1) as progress:
            for round_num in range(self._begun, phase.last + 1):
                if self._stops_early():
                    log.info("%s ends after round %d: federate.early_stopping", phase.name, round_num - 1)
                    break
                began = time.perf_counter()
                line, failures, healthy = self._round(now, round_num)
                stop = None if healthy else self._guard(now, line, failures)
                line |= {"excluded": sorted(now.excluded), "model_rollbacks": now.model_rollbacks}
                self.lines.append(line)
                self._checkpoints.append(line)
                if stop is not None:
                    raise stop
                last = round_num == phase.last or self._stops_early()
                if last or round_num % settings.checkpoint_every == 0:
                    self._checkpoints.save(round_num, now.state)
                self._seconds.append(time.perf_counter() - began)
                # The first round also compiles.
                left = float(np.median(self._seconds[1:] or self._seconds)) * (phase.last - round_num)
                progress.show(line["row"], phase.last, left, failures)
                self._watch(line["row"])
        assign(self._model, now.state["server"]["params"])

    def close(self) -> None:
        """Writes what the rounds cost; once, for each write costs as much as a small round."""
        timings.record(self._folder, self._phase.name, rounds=self._seconds, first_round=self._begun)

    def _start(self) -> _Progress:
        """Returns the state to go on from, the last checkpoint's or the beginning's, with the log up to there."""
        broadcast = OrderedDict(params=flatten(self._model))
        if self._phase.next_mask is not None:
            broadcast["mask"] = np.ones_like(broadcast["params"])
        fresh = self._computations.initialize(broadcast)
        if CLIENT_UPDATES[self._settings.client.kind].kept:
            fresh["kept"] = {client: np.zeros_like(broadcast["params"]) for client in self._cohort.clients}
        before = self._phase.first - 1
        rounds = self._checkpoints.rounds()
        now = _Progress(self._checkpoints.load(rounds[-1], fresh) if rounds else fresh)
        self.lines = self._checkpoints.log(rounds[-1] if rounds else before)
        if rounds and rounds[-1] > before:
            log.info("%s goes on after round %d, from its checkpoint", self._phase.name, rounds[-1])
            now.excluded = set(self.lines[-1]["excluded"])
            now.model_rollbacks = self.lines[-1]["model_rollbacks"]
        elif not rounds:
            self._checkpoints.save(before, fresh)
        for client, reason in self._cohort.broken.items():
            log.warning("%s: left out: %s", client, reason)
        return now

    def _round(self, now: _Progress, round_num: int) -> tuple[dict[str, Any], dict[str, str], bool]:
        """Runs one round and moves `now`; returns its log line, who failed and why, and whether all went well."""
        sampled = self._sample(now, round_num)
        inputs = {client: self._client_input(now, client, round_num) for client in sampled}
        proposed, results = self._call(now.state, inputs)
        failures = {c: _reason(r, inputs[c]["folder"]) for c, r in results.items() if _reason(r, "") != ""}
        if len(failures) == len(sampled):
            raise NoClientLeft(f"round {round_num}: every client failed: {_list(failures)}")
        if round_num == self._phase.first:
            failures |= {c: reason for c, reason in self._cohort.broken.items() if c not in now.excluded}
        before = now.state["server"]["params"]
        proposed = self._prune(proposed, round_num)
        finite = bool(np.isfinite(proposed["server"]["params"]).all())
        if finite:
            now.state = _with_kept(proposed, {c: r for c, r in results.items() if c not in failures})
        outcome = Outcome(round_num, self._phase.name, results, failures, before, now.state["server"]["params"])
        validation = self._validation(now, round_num)
        clients, statistics = client_rows(outcome, inputs)
        row = round_row(outcome, clients, statistics, validation, self._prunable)
        if self._epsilon is not None:
            row["epsilon"] = float(f"{self._epsilon(round_num):.7g}")
        for client, reason in failures.items():
            log.warning("round %d: client %s left out: %s", round_num, client, reason)
        if not finite:
            log.warning("round %d: the averaged model is not finite; the model before it is kept", round_num)
        healthy = finite and not failures and (validation is None or np.isfinite(validation[0]))
        return {"round": round_num, "row": row, "clients": clients}, failures, bool(healthy)

    def _stops_early(self) -> bool:
        settings = self._settings.early_stopping
        if not settings.patience or self._phase.next_mask is not None:
            return False
        return schedule.stops_early(settings, [line["row"]["train_loss"] for line in self.lines])

    def _sample(self, now: _Progress, round_num: int) -> list[str]:
        left = {c: info for c, info in self._cohort.clients.items() if c not in now.excluded}
        if not left:
            raise NoClientLeft(f"round {round_num}: every client has failed and been left out")
        sampling = self._settings.sampling
        sizes, labels = {c: i.num_examples for c, i in left.items()}, {c: i.labels for c, i in left.items()}
        sampled = schedule.sample(sampling, sizes, self._seed, round_num, labels)
        if sampling.kind != "power_of_choice" or len(sampled) <= sampling.clients_per_round:
            return sampled
        inputs = {client: self._client_input(now, client, round_num) for client in sampled}
        return schedule.highest(self._losses(now.state, inputs), sampling.clients_per_round)

    def _losses(self, state: Any, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Returns the global model's loss on each client's data; NaN for one that fails."""
        try:
            losses = dict(zip(inputs, self._computations.measure(state, list(inputs.values())), strict=True))
        except UndriftError:
            raise
        except Exception:
            # The worker runtime fails for all when one does.
            tried = {client: _alone(self._computations.measure, state, given) for client, given in inputs.items()}
            losses = {client: found if isinstance(found, Failed) else found[0] for client, found in tried.items()}
        return {client: np.nan if isinstance(loss, Failed) else float(loss) for client, loss in losses.items()}

    def _client_input(self, now: _Progress, client: str, round_num: int) -> OrderedDict[str, Any]:
        info, settings = self._cohort.clients[client], self._settings
        rng = schedule.client_rng(self._seed, round_num, client)
        num_epochs = schedule.epochs(settings.local_work, client, rng)
        step, steps = round_num - self._phase.first + 1, self._phase.last - self._phase.first + 1
        factor = schedule.learning_rate_factor(settings.client.schedule, step, steps)
        given = OrderedDict(
            folder=info.folder,
            num_examples=np.int32(info.num_examples),
            order=schedule.visits(info.num_examples, num_epochs, rng),
            weight=np.float32(info.weight),
            share=np.float32(info.share),
            learning_rate=np.float32(settings.client.learning_rate * factor),
            seed=schedule.augment_seed(self._seed, round_num, client) if self._augments else _NO_SEED,
            brightness=info.brightness,
            architecture=np.int32(self._widths.index(settings.width.get(client, 1.0))),
        )
        given |= faults.told(settings.faults, self._seed, round_num, client)
        if "kept" in now.state:
            given["kept"] = now.state["kept"][client]
        return given

    def _call(self, state: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns the next state and each client's result or `Failed`.

        The worker runtime fails the whole round with an error that does not say whose it is: then each client is
        tried alone, and the round is run again without those that fail.
        """
        try:
            proposed, results = self._computations.next(state, list(inputs.values()))
            return proposed, dict(zip(inputs, results, strict=True))
        except UndriftError:
            raise
        except Exception as exc:
            failed = self._find_failed(state, inputs)
            if not failed:
                raise RunError(f"the round failed, but each of its clients alone did not: {exc}") from exc
            rest = {client: given for client, given in inputs.items() if client not in failed}
            if not rest:
                return state, dict(failed)
            proposed, results = self._computations.next(state, list(rest.values()))
            found = {**dict(zip(rest, results, strict=True)), **failed}
            return proposed, {client: found[client] for client in inputs}

    def _find_failed(self, state: Any, inputs: Mapping[str, Any]) -> dict[str, Failed]:
        tried = {client: _alone(self._computations.train, state, given) for client, given in inputs.items()}
        return {client: found for client, found in tried.items() if isinstance(found, Failed)}

    def _prune(self, state: Any, round_num: int) -> Any:
        if self._phase.next_mask is None:
            return state
        mask = self._phase.next_mask(round_num, state["server"]["params"])
        if mask is None:
            return state
        server = OrderedDict(state["server"], mask=mask, params=state["server"]["params"] * mask)
        return OrderedDict(state, server=server)

    def _validation(self, now: _Progress, round_num: int) -> tuple[float, float] | None:
        if round_num % self._settings.evaluate_every and round_num != self._phase.last:
            return None
        return self._validate(now.state["server"]["params"])

    def _guard(self, now: _Progress, line: Mapping[str, Any], failures: Mapping[str, str]) -> GuardStop | None:
        """Does what `federate.guard` says when a round went wrong; returns the error that ends the run, if any."""
        round_num = line["round"]
        what = f"clients failed: {_list(failures)}" if failures else "the loss or the model is not finite"
        if self._settings.guard == "stop":
            return GuardStop(f"round {round_num}: {what}; federate.guard is stop")
        if self._settings.guard == "continue":
            return None
        now.excluded |= set(failures)
        now.model_rollbacks += not failures
        if now.model_rollbacks > _MAX_MODEL_ROLLBACKS:
            return GuardStop(f"round {round_num}: {what}, after {_MAX_MODEL_ROLLBACKS} rollbacks for the same reason")
        best = _best_checkpoint(self._checkpoints.rounds(), [*self.lines, line])
        log.warning("round %d: %s: back to the model after round %d", round_num, what, best)
        now.state = self._checkpoints.load(best, now.state)
        return None


def _alone(compute: Callable[[Any, Sequence[Any]], list[Any]], state: Any, given: Any) -> list[Any] | Failed:
    """Returns what `compute` gives for one client, or `Failed` if it raises."""
    try:
        return compute(state, [given])
    except UndriftError:
        raise
    except Exception as exc:
        return Failed(exc)


def _with_kept(state: Any, results: Mapping[str, Any]) -> Any:
    """Returns the state with the vectors that the round's clients keep; those of the others stay."""
    if "kept" not in state:
        return state
    return OrderedDict(state, kept={**state["kept"], **{client: r["kept"] for client, r in results.items()}})


def _best_checkpoint(rounds: Sequence[int], lines: Sequence[Mapping[str, Any]]) -> int:
    """Returns the checkpoint with the lowest training loss, which the round after it measured; else the last one."""
    losses = {line["round"] - 1: line["row"]["train_loss"] for line in lines}
    known = {r: losses[r] for r in rounds if losses.get(r) is not None and np.isfinite(losses[r])}
    return min(known, key=lambda r: (known[r], -r)) if known else rounds[-1]


def _reason(result: Any, folder: str) -> str:
    """Returns why a client's result cannot be used; empty if it can."""
    if isinstance(result, Failed):
        text = str(getattr(result.error, "message", result.error)).strip().partition("\n")[0]
        return text.replace(f"{folder}/", "").replace("assertion failed: ", "")[:200] or type(result.error).__name__
    return "" if result["finite"] else "its update is not finite"


def _list(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{client} ({reason})" for client, reason in failures.items())
