"""Single rounds from any state: sample, train, aggregate, record. Runs and replays share this module."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.errors import NoClientLeft, RunError, listed
from tasks.federate import schedule
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.cohort import Cohort
from tasks.federate.computations import widths
from tasks.federate.inputs import Inputs, Plan, order
from tasks.federate.kept import Kept, KeptWriter
from tasks.federate.privacy import epsilon
from tasks.federate.record import Outcome, RoundLine, client_rows, round_row
from tasks.federate.round import Round
from tasks.federate.state import ClientReport, ClientResult, ServerState
from tasks.federate.updates import FewUpdates, ManyUpdates, updates_of
from tasks.federate.validation import build_validation
from tasks.local import faults
from tasks.parameters import Params, flatten, prunable
from tasks.runtime.failed import Failed
from tasks.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """Which rounds to run: `first` to `last` of the whole run, counted from 1."""

    name: str
    first: int
    last: int
    next_mask: Callable[[int, Params], Params | None] | None = None
    """Pruning: (round, params (P,)) -> the mask (P,) of ones and zeros from this round on, or None for no change."""


@dataclass(frozen=True)
class Stepped:
    """The result of one round."""

    state: ServerState
    """The state after the round; the state before it if the averaged model is not finite."""
    line: RoundLine
    """The log line, without the guard's fields."""
    failures: Mapping[str, str]
    """Each client that was left out, with the reason."""
    healthy: bool
    """Whether (1) no client failed, (2) the model is finite, and (3) the validation loss, if measured, is finite."""


class Runner:
    """Runs the rounds of one phase, one at a time; call its methods inside a runtime's context."""

    def __init__(
        self,
        settings: Settings,
        cohort: Cohort,
        model: tf.keras.Model,
        phase: Phase,
        computations: Round,
        local_seed: int | None = None,
        absent: Collection[str] = (),
        validate: Callable[[Params], tuple[float, float]] | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Prepares the rounds.

        Args:
            settings: the run's settings.
            cohort: its clients.
            model: the global model. A fresh state has the parameters that it has now; validation overwrites them.
            phase: which rounds. A learning rate schedule runs from the first to the last round of the phase.
            computations: see `tasks.federate.computations`.
            local_seed: the seed of the clients' draws (the order of their examples, epochs, augmentation, dropout).
                The sampling of clients always follows the run's seed. None: the run's seed.
            absent: clients that are sampled like the others, but take no part in any round. The average and the
                clients' vectors are then of the other clients alone, as if these were the whole federation.
            validate: see `build_validation`, for `model` and the cohort's hold-out data; None: built here.
            scratch: the folder for files without a name, which hold what does not fit into memory; None: the system's
                folder for temporary files.
        """
        self._seed, self._settings = settings.seed, settings.federate
        self._local_seed = settings.seed if local_seed is None else local_seed
        self._cohort, self._phase, self._computations = cohort, phase, computations
        self._initial = flatten(model)
        self._absent, self._scratch = frozenset(absent), scratch
        self._prunable, known = prunable(model), widths(settings.federate.width)
        self._architectures = {client: known.index(width) for client, width in settings.federate.width.items()}
        augment = settings.preprocess.augment
        self._draws = computations.draws or augment.flip or augment.brightness > 0
        self.validate = validate or build_validation(model, cohort.test_x, cohort.test_y)
        private = settings.federate.aggregator.kind == "dp_mean"
        self._epsilon = epsilon(settings, len(cohort.clients)) if private else None

    def fresh(self) -> ServerState:
        """Returns the state before the first round, with the parameters that the model had first."""
        fresh = self._computations.initialize(self._initial)
        if CLIENT_UPDATES[self._settings.client.kind].kept:
            return replace(fresh, kept=Kept(self._cohort.clients, len(fresh.params), self._scratch))
        return fresh

    def step(self, state: ServerState, round_num: int, excluded: Collection[str] = ()) -> Stepped:
        """Runs round `round_num` from `state` without the clients in `excluded`; changes neither argument.

        A client that `federate.faults` makes absent is still one of the federation, so its SCAFFOLD or FedDyn vector
        counts on. If every client that was drawn is absent, nobody trains, and the model stays as it is.

        Raises:
            NoClientLeft: every client of the round failed, or no client is left. It has the round's log line.
        """
        away = faults.absent(self._settings.faults, round_num)
        drawn = self._sample(state, round_num, excluded)
        sampled = [client for client in drawn if client not in self._absent and client not in away]
        if not sampled:
            why = "; federate.faults.kind is absent" if away else ""
            _log.warning("round %d: no client takes part: %s stayed away%s", round_num, listed(drawn), why)
        gone = self._absent.union(excluded)
        left = [client for client in self._cohort.clients if client not in gone]
        if state.kept is not None and len(left) < len(self._cohort.clients):
            state = self.settled(state, left)
        inputs = self._inputs(state, sampled, round_num, self._whole(left))
        kept: KeptWriter | None = state.kept.writer() if state.kept is not None and sampled else None
        with updates_of(len(sampled), len(state.params), self._scratch) as updates:
            taken = _Taken(sampled, updates, kept)
            proposed, in_order = self._computations.next(state, inputs, taken) if sampled else (state, [])
            reports = dict(zip(sampled, in_order, strict=True))
            failures = {client: reason for client, report in reports.items() if (reason := _reason(report))}
            ended = bool(sampled) and len(failures) == len(sampled)
            if round_num == self._phase.first:
                failures |= {c: reason for c, reason in self._cohort.broken.items() if c not in excluded}
            if ended:
                raise self._ended(state, round_num, "every client failed", reports, failures)
            proposed = self._prune(proposed, round_num)
            finite = bool(np.isfinite(proposed.params).all())
            after = proposed if finite else state
            if finite and kept is not None and proposed.kept is not None:
                after = replace(proposed, kept=proposed.kept.updated(kept))
            for client, reason in failures.items():
                _log.warning("round %d: client %s left out: %s", round_num, client, reason)
            if not finite:
                _log.warning("round %d: the averaged model is not finite; the model before it is kept", round_num)
            outcome = Outcome(
                round_num,
                self._phase.name,
                reports,
                failures,
                {client: self._cohort.clients[client].num_examples for client in sampled},
                taken.averaged,
                updates,
                params_before=state.params,
                params_after=after.params,
            )
            validation = self._validation(after.params, round_num)
            healthy = finite and not failures and (validation is None or np.isfinite(validation[0]))
            return Stepped(after, self._line(outcome, validation), failures, bool(healthy))

    def _line(self, outcome: Outcome, validation: tuple[float, float] | None, failure: str | None = None) -> RoundLine:
        clients, statistics = client_rows(outcome)
        # A round without an update tells nobody anything, so it spends no privacy.
        epsilon = None if self._epsilon is None or failure else self._epsilon(outcome.round_num)
        row = round_row(outcome, clients, statistics, validation, self._prunable, epsilon, failure)
        return RoundLine(outcome.round_num, row, clients)

    def _ended(
        self,
        state: ServerState,
        round_num: int,
        failure: str,
        reports: Mapping[str, ClientReport | Failed],
        failures: Mapping[str, str],
    ) -> NoClientLeft:
        """Returns the error of a round without an update, with its log line; the model stays as it was."""
        with updates_of(0, len(state.params), self._scratch) as nothing:
            outcome = Outcome(
                round_num,
                self._phase.name,
                reports,
                failures,
                {client: self._cohort.clients[client].num_examples for client in reports},
                (),
                nothing,
                params_before=state.params,
                params_after=state.params,
            )
            try:
                validation = self.validate(state.params)
            except RunError:
                validation = None  # a model that fails at every client can fail on the hold-out data too
            line = self._line(outcome, validation, failure)
        reasons = f": {with_reasons(failures)}" if failures else ""
        return NoClientLeft(f"round {round_num}: {failure}{reasons}", line)

    def settled(self, state: ServerState, left: Collection[str]) -> ServerState:
        """Returns `state` with the server's vector Σ p_k c_k over the clients in `left`, their shares p_k summing to 1.

        With it, the fixed point of SCAFFOLD and FedDyn is the minimum of the loss of the clients that are left. Without
        it, the vector of a client that has left would stay in every step of all later rounds.
        """
        whole, vector = self._whole(left), np.zeros(len(state.params))
        for client in left:
            if state.kept is not None:
                vector += self._cohort.clients[client].share / whole * state.kept[client]
        return replace(state, shared=vector.astype(np.float32))

    def _whole(self, left: Collection[str]) -> float:
        """Returns the sum of the shares of the clients in `left`."""
        if len(left) == len(self._cohort.clients):
            return 1.0  # exactly; the sum can round to something else
        return sum(self._cohort.clients[client].share for client in left)

    def updates(self, state: ServerState, round_num: int, clients: Iterable[str]) -> dict[str, ClientResult | Failed]:
        """Returns the result that each of `clients` would send in round `round_num` if it took part."""
        names = list(clients)
        results = self._computations.train(state, self._inputs(state, names, round_num))
        return dict(zip(names, results, strict=True))

    def order(self, client: str, round_num: int) -> NDArray[np.int32]:
        """Returns the order (E·N,) in which the client visits its examples in round `round_num`."""
        info = self._cohort.clients[client]
        return order(info, client, round_num, self._local_seed, self._settings.local_work)

    def _sample(self, state: ServerState, round_num: int, excluded: Collection[str]) -> list[str]:
        left = {c: info for c, info in self._cohort.clients.items() if c not in excluded}
        if not left:
            raise self._ended(state, round_num, "every client has failed and been left out", {}, {})
        sampling = self._settings.sampling
        sizes, labels = {c: i.num_examples for c, i in left.items()}, {c: i.labels for c, i in left.items()}
        sampled = schedule.sample(sampling, sizes, self._seed, round_num, labels)
        if sampling.kind != "power_of_choice" or len(sampled) <= sampling.clients_per_round:
            return sampled
        measured = self._computations.measure(state, self._inputs(state, sampled, round_num))
        numbers = [np.nan if isinstance(loss, Failed) else loss for loss in measured]
        losses = dict(zip(sampled, numbers, strict=True))
        return schedule.highest(losses, sampling.clients_per_round)

    def _inputs(self, state: ServerState, clients: Sequence[str], round_num: int, whole: float = 1.0) -> Inputs:
        settings, seed = self._settings, self._local_seed
        step, steps = round_num - self._phase.first + 1, self._phase.last - self._phase.first + 1
        learning_rate = settings.client.learning_rate * schedule.learning_rate_factor(
            settings.client.schedule, step, steps
        )
        plan = Plan(
            round_num, self._seed, seed, learning_rate, whole, self._draws, settings.local_work, settings.faults
        )
        return Inputs(clients, self._cohort.clients, self._architectures, state.kept, plan)

    def _prune(self, state: ServerState, round_num: int) -> ServerState:
        mask = self._phase.next_mask(round_num, state.params) if self._phase.next_mask else None
        return state if mask is None else replace(state, mask=mask, params=state.params * mask)

    def _validation(self, params: Params, round_num: int) -> tuple[float, float] | None:
        if round_num % self._settings.evaluate_every and round_num != self._phase.last:
            return None
        return self.validate(params)


class _Taken:
    """Takes the vectors of each result before they are dropped."""

    def __init__(self, clients: Sequence[str], updates: FewUpdates | ManyUpdates, kept: KeptWriter | None) -> None:
        self._clients, self._updates, self._kept = clients, updates, kept
        self.averaged: list[str] = []

    def __call__(self, place: int, result: ClientResult) -> None:
        if not result.finite:
            return
        client = self._clients[place]
        self.averaged.append(client)
        self._updates.add(result.update, result.weight)
        if self._kept is not None and result.kept is not None:
            self._kept.write(client, result.kept)


def _reason(report: ClientReport | Failed) -> str:
    """Returns why a client's result cannot be used; empty if it can."""
    if isinstance(report, Failed):
        return report.reason
    return "" if report.finite else "its update is not finite"


def with_reasons(failures: Mapping[str, str]) -> str:
    """Returns the first clients with their reasons, for a message."""
    return listed([f"{client} ({reason})" for client, reason in failures.items()], between="; ")
