"""The rounds of one phase of a run, with checkpoints, the guard and early stopping."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks import timings
from tasks.detection import Increase, find_increase
from tasks.errors import GuardStop, NoClientLeft
from tasks.federate import schedule
from tasks.federate.aggregators import bytes_at_once, check
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.cohort import Cohort
from tasks.federate.computations import build_computations
from tasks.federate.progress import RoundProgress
from tasks.federate.record import RoundLine
from tasks.federate.run_log import Identity, Line
from tasks.federate.runner import Phase, Runner, Stepped, with_reasons
from tasks.federate.state import ServerState
from tasks.models import num_params
from tasks.parameters import assign, digest, flatten
from tasks.round_log.columns import ClientRow, RoundRow
from tasks.runtime.code import digest_of_code
from tasks.runtime.kinds import runtime
from tasks.settings import Settings

_log = logging.getLogger(__name__)

Report = Callable[[Sequence[RoundRow], Iterable[ClientRow]], None]
"""Gets the rows of rounds.csv and, one after the other, the rows of clients.csv of all rounds that were run."""

Watch = Callable[[RoundRow, int, int], None]
"""(row of rounds.csv, rounds of the phase done, rounds of the phase in all) of each finished round.

In the last round the two numbers are equal, even if early stopping ends the phase.
"""


def ignore(row: RoundRow, done: int, total: int) -> None:
    """Does nothing: the `Watch` of a caller that needs no progress."""


# Most rollbacks of a run after rounds in which no client failed. They leave out no client, so the next rounds can go
# wrong again.
_MAX_MODEL_ROLLBACKS = 3
_SIGNIFICANCE = 0.001
"""Significance of one test of the guard. It tests after every round, so false alarms add up (see `find_increase`)."""


@dataclass
class _Progress:
    """What changes from round to round."""

    state: ServerState
    excluded: set[str] = field(default_factory=set)
    model_rollbacks: int = 0
    watched_from: int = 1
    """First round whose loss the guard tests. A rollback has dealt with the rounds before it."""


def run_rounds(
    settings: Settings,
    folder: Path,
    cohort: Cohort,
    model: tf.keras.Model,
    phase: Phase,
    report: Report,
    watch: Watch = ignore,
) -> list[RoundRow]:
    """Trains `model` in place for the rounds of `phase`, and returns the row of rounds.csv of each round.

    A killed run of the same phase with the same settings, data and code goes on from its last checkpoint, and ends with
    the same bits. `report` gets the rows even if the rounds end with an error, so that a stopped run can be diagnosed.
    `watch` gets each round when it is finished.

    Raises:
        SettingsError: the clients, the model or the privacy budget do not allow the settings.
        GuardStop: a client failed, the loss or the model was not finite, or val_loss rose, and (1) `federate.guard` is
            stop, or (2) it is rollback and the run has used up its rollbacks.
        NoClientLeft: every client of a round failed, or none is left.
    """
    schedule.check_clients(settings.federate, [*cohort.clients, *cohort.broken, *settings.federate.exclude])
    check(settings, len(cohort.clients), num_params(model))
    at_once = bytes_at_once(settings, len(cohort.clients), num_params(model))
    if at_once:
        _log.info("%s holds all updates of a round: %.1f MB", settings.federate.aggregator.kind, at_once / 1e6)
    computations = build_computations(settings, cohort, model, masked=phase.next_mask is not None)
    identity = {**identity_of(settings, cohort, model, phase), "code": _code()}
    checkpoints = Checkpoints(checkpoints_of(folder, phase.name), identity)
    with closing(checkpoints), runtime(settings.federate.runtime, folder / "models"):
        runner = Runner(settings, cohort, model, phase, computations, scratch=folder / "models")
        loop = Loop(settings, folder, cohort, runner, phase, checkpoints, watch)
        try:
            assign(model, loop.run().params)
        finally:
            loop.close()
            report(loop.rows, (row for line in checkpoints.log for row in RoundLine.of(line).clients))
    return loop.rows


def identity_of(settings: Settings, cohort: Cohort, model: tf.keras.Model, phase: Phase) -> Identity:
    """Returns what identifies the checkpoints of a run; `model` must have the parameters that the run begins with.

    Where the rounds are computed is no part of it, because each runtime gives the same bits.
    """
    described = settings.model_dump(mode="json", include={"seed", "preprocess", "federate", "prune"})
    del described["federate"]["runtime"]
    return {
        "phase": [phase.name, phase.first, phase.last],
        "settings": described,
        "data": cohort.digest,
        "model": model.to_json(),
        "start": hashlib.sha256(flatten(model).tobytes()).hexdigest(),
        "constants": digest(model),
    }


def _code() -> str:
    """Returns the digest of the code that trains: our modules, and the versions of TensorFlow, TFF and NumPy.

    A run goes on only from checkpoints of the same code. A replay can begin from checkpoints of other code.
    """
    packages = ("clients", "federate", "local", "prune", "runtime")
    return digest_of_code(packages, f"{tf.__version__} {tff.__version__} {np.__version__}")


class Loop:
    """Runs the rounds of a phase in their order; `rows` holds the row of rounds.csv of each round."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        cohort: Cohort,
        runner: Runner,
        phase: Phase,
        checkpoints: Checkpoints,
        watch: Watch,
    ) -> None:
        self._settings, self._folder, self._cohort, self._phase = settings.federate, folder, cohort, phase
        self._runner, self._checkpoints, self._watch = runner, checkpoints, watch
        self._seconds: list[float] = []
        self._begun = phase.first
        self.rows: list[RoundRow] = []

    def run(self) -> ServerState:
        """Returns the state after the last round."""
        phase, settings = self._phase, self._settings
        now = self._start()
        self._begun = phase.first + len(self.rows)
        with RoundProgress(phase.name, len(self.rows), phase.last - phase.first + 1) as progress:
            for round_num in range(self._begun, phase.last + 1):
                if self._stops_early():
                    _log.info("%s ends after round %d: federate.early_stopping", phase.name, round_num - 1)
                    break
                began = time.perf_counter()
                try:
                    done = self._runner.step(now.state, round_num, now.excluded)
                except NoClientLeft as exc:
                    self._log(now, exc.line)
                    raise
                now.state = done.state
                what = self._wrong(now, done)
                stop = self._guard(now, done, what) if what else None
                failure = f"federate.guard: {'clients failed' if done.failures else what}" if stop else None
                line = self._log(now, replace(done.line, row={**done.line.row, "failure": failure}))
                if stop is not None:
                    raise stop
                last = round_num == phase.last or self._stops_early()
                if last or round_num % settings.checkpoint_every == 0:
                    self._checkpoints.save(round_num, now.state)
                self._seconds.append(time.perf_counter() - began)
                # Without the first round, which also compiles.
                left = float(np.median(self._seconds[1:] or self._seconds)) * (phase.last - round_num)
                progress.show(line.row, phase.last, left, done.failures)
                done_rounds = len(self.rows)
                self._watch(line.row, done_rounds, done_rounds if last else phase.last - phase.first + 1)
        return now.state

    def _log(self, now: _Progress, line: RoundLine) -> RoundLine:
        """Logs a round; returns its line with the guard's fields."""
        line = replace(
            line, excluded=sorted(now.excluded), model_rollbacks=now.model_rollbacks, watched_from=now.watched_from
        )
        self.rows.append(line.row)
        self._checkpoints.log.append(line.json())
        return line

    def close(self) -> None:
        """Writes the seconds of each round, once for all rounds: one write takes as long as a small round."""
        timings.record(self._folder, self._phase.name, rounds=self._seconds, first_round=self._begun)

    def _start(self) -> _Progress:
        """Returns the progress at the last checkpoint, or at the beginning; `rows` becomes the log up to there."""
        fresh = self._runner.fresh()
        before = self._phase.first - 1
        resumed = self._checkpoints.resume(before, fresh)
        for client, reason in self._cohort.broken.items():
            _log.warning("%s: left out: %s", client, reason)
        if resumed is None:
            self._checkpoints.save(before, fresh)
            return _Progress(fresh)
        done, state = resumed
        last: Line = {}
        for last in self._checkpoints.log:
            self.rows.append(last["row"])
        if done == before:
            return _Progress(state)
        _log.info("%s goes on after round %d, from its checkpoint", self._phase.name, done)
        return _Progress(state, set(last["excluded"]), last["model_rollbacks"], last["watched_from"])

    def _stops_early(self) -> bool:
        settings = self._settings.early_stopping
        if not settings.patience or self._phase.next_mask is not None:
            return False
        return schedule.stops_early(settings, [row["train_loss"] for row in self.rows])

    def _wrong(self, now: _Progress, done: Stepped) -> str:
        """Returns what went wrong in a round, or "". It tests for a rise of val_loss only if the guard acts on one."""
        if done.failures:
            return f"clients failed: {with_reasons(done.failures)}"
        if not done.healthy:
            return "the loss or the model is not finite"
        rise = self._rise(now, done.line.row) if self._settings.guard != "continue" else Increase(detected=False)
        if not rise.detected or rise.until != done.line.round:
            return ""
        return f"val_loss has risen since round {rise.round}, from {rise.loss_before:.4g} to {rise.loss_after:.4g}"

    def _rise(self, now: _Progress, last: RoundRow) -> Increase:
        rows = [row for row in [*self.rows, last] if row["round"] >= now.watched_from]
        measured = [(row["round"], row["val_loss"]) for row in rows if row["val_loss"] is not None]
        if not measured or last["val_loss"] is None or self._phase.next_mask is not None:
            return Increase(detected=False)  # pruning is expected to raise the loss
        return find_increase([r for r, _ in measured], [loss for _, loss in measured], _SIGNIFICANCE)

    def _guard(self, now: _Progress, done: Stepped, what: str) -> GuardStop | None:
        """Acts on a round that went wrong, as `federate.guard` says; returns the error that ends the run, if any."""
        round_num = done.line.round
        if self._settings.guard == "stop":
            return GuardStop(f"round {round_num}: {what}; federate.guard is stop")
        if self._settings.guard == "continue":
            return None
        now.excluded |= set(done.failures)
        now.model_rollbacks += not done.failures
        if now.model_rollbacks > _MAX_MODEL_ROLLBACKS:
            return GuardStop(
                f"round {round_num}: {what}, after {_MAX_MODEL_ROLLBACKS} rollbacks without a failed client"
            )
        best = best_checkpoint(self._checkpoints.rounds(), [*self.rows, done.line.row])
        _log.warning("round %d: %s: back to the model after round %d", round_num, what, best)
        now.state = self._checkpoints.load(best, now.state)
        now.watched_from = round_num + 1
        return None


def best_checkpoint(rounds: Sequence[int], rows: Sequence[RoundRow]) -> int:
    """Returns the round of the checkpoint with the lowest training loss, or the last checkpoint if no loss is finite.

    Round t + 1 measures the training loss of the model after round t.
    """
    losses = {row["round"] - 1: row["train_loss"] for row in rows}
    finite = {r: loss for r in rounds if (loss := losses.get(r)) is not None and np.isfinite(loss)}
    return min(finite, key=lambda r: (finite[r], -r)) if finite else rounds[-1]
