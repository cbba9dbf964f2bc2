"""Did the loss rise: of all clients together, or of a few whose rise the mean of all hides?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.arrays import Bools
from tasks.detection import Increase
from tasks.diagnose.observe.loss_tests import (
    RECENT,
    LossTest,
    client_losses,
    column_tests,
    explained_test,
    not_finite_tests,
    tested_losses,
    usable_rows,
)
from tasks.diagnose.observe.own_losses import ClientRise, client_rises
from tasks.round_log.read import ClientLog, RoundLog

SHARES = (0.3, 0.2, 0.5)
"""Shares of the significance: of the first loss, of the second loss, of the clients' own losses."""


@dataclass(frozen=True)
class Rise:
    """Whether, when and how far the loss rose.

    Attributes:
        detected: whether it rose beyond its noise.
        round: first round of the rise; None if there is none.
        until: last round of the rise; None if there is none.
        loss_before: the loss before it, nats per example; None if not known.
        loss_after: the loss at its height; None if not finite.
        confidence: 1 - the probability of a rise as clear by noise alone.
        alarm: the round after which the rise was sure; None if there is none.
        kind: `none`, `level`, `not_finite`, as tasks/detection names it; `ended` for the rounds before a run's end.
        noise: sd of the loss's noise, as a fraction of the loss (see `relative`); None if not estimated.
        correlation: lag-1 correlation of that noise; None if not estimated.
        visible: the least lasting rise that the test would have seen, in the unit of `noise`; None if there is none.
        relative: false where the losses are not all positive: `noise` and `visible` are then in nats.
        significance: `diagnose.significance`, the probability of a claim where nothing rose.
        loss: the column of rounds.csv that was tested, `val_loss` or `train_loss`.
        num_losses: rounds in which that column was measured.
        phase: phase of the first round of the rise, `federate` or `prune`; "" if not known.
        sparsity: sparsity of the model before and at the end of the rise; None unless it rose with the loss.
        clients: those whose own loss rose, or who failed, where the mean of all clients hides it; else none.
        val_loss_round: round from which `val_loss` rose too, where `loss` is `train_loss`; else None.
    """

    detected: bool
    round: int | None
    until: int | None
    loss_before: float | None
    loss_after: float | None
    confidence: float
    alarm: int | None
    kind: Literal["none", "level", "not_finite", "ended"]
    noise: float | None
    correlation: float | None
    visible: float | None
    relative: bool
    significance: float
    loss: str
    num_losses: int
    phase: str
    sparsity: tuple[float, float] | None
    clients: tuple[str, ...]
    val_loss_round: int | None

    @property
    def rounds(self) -> range:
        """The rounds of the rise; empty if there is none."""
        return range(0) if self.round is None or self.until is None else range(self.round, self.until + 1)


def find_rise(log: RoundLog, clients: ClientLog, significance: float, more_rises: Sequence[ClientRise] = ()) -> Rise:
    """Returns the rise that is to be explained, or that there is none.

    Half of the significance goes to the clients, whose short series need it most. The other half goes to the columns
    of rounds.csv, three fifths of it to the first, so that any claim has the significance as a whole. If the run
    pruned, the rounds of training are tested before the whole run, each at half of the significance, so that pruning
    hides no rise before it. A value that is not finite counts in whichever column it came first.

    Args:
        log: rounds.csv.
        clients: clients.csv.
        significance: the probability of a claim where nothing rose.
        more_rises: rises of single clients that are known from elsewhere; they count where no test finds a rise.
    """
    outcome = _tested(log, clients, significance)
    if more_rises and not outcome.increase.detected:
        outcome = _of_clients(outcome.loss, log, clients, more_rises, 1.0)
    increase, loss = outcome.increase, outcome.loss
    return Rise(
        **vars(increase),
        significance=significance,
        loss=loss,
        num_losses=int(log.losses[loss].given.sum()),
        phase=_phase(log, increase),
        sparsity=_rising_sparsity(log, increase),
        clients=outcome.clients,
        val_loss_round=outcome.val_loss_round,
    )


@dataclass(frozen=True)
class _Outcome:
    """The loss that rose, if one did, with the fields of `Rise` that follow from which loss it is."""

    loss: str
    increase: Increase
    clients: tuple[str, ...] = ()
    val_loss_round: int | None = None


def _tested(log: RoundLog, clients: ClientLog, significance: float) -> _Outcome:
    names = tested_losses(log)
    *of_columns, of_clients = SHARES if len(names) > 1 else (0.5, 0.5)
    not_finite, stages = not_finite_tests(log, significance), _stages(log)
    for number, rows in enumerate(stages):
        tests = column_tests(log, clients, rows, significance, [share / len(stages) for share in of_columns])
        explained = _first_broken(explained_test(log, tests), not_finite)
        if explained.increase.detected:
            return _Outcome(explained.loss, explained.whole, val_loss_round=_val_loss_round(tests, explained.loss))
        if number == 0 and (hidden := _hidden(explained.loss, log, clients, significance, of_clients)) is not None:
            return hidden
    return _Outcome(explained.loss, explained.whole)


def _stages(log: RoundLog) -> list[Bools]:
    """The rows to test first, and the rows to test if nothing rose in them: training, then the whole run."""
    training, every = ~log.pruning, np.ones(len(log.rounds), dtype=np.bool_)
    return [every] if training.all() or not training.any() else [training, every]


def _first_broken(explained: LossTest, not_finite: Sequence[LossTest]) -> LossTest:
    """The test of the loss that was first not finite, if that came before the rise of `explained`."""
    for test in not_finite:
        began, broke = explained.increase.round, test.increase.round
        if began is None or (broke is not None and broke < began):
            explained = test
    return explained


def _val_loss_round(tests: Sequence[LossTest], explained: str) -> int | None:
    return next((test.increase.round for test in tests if test.loss == "val_loss" != explained), None)


def _hidden(loss: str, log: RoundLog, clients: ClientLog, significance: float, share: float) -> _Outcome | None:
    """A rise of a few clients, or failures that the loss of all hides; None if there is neither."""
    rises = _rises_in_training(log, clients, significance * share)
    if rises:
        return _of_clients(loss, log, clients, rises, share)
    if clients.not_finite.any():
        failed = {clients.clients[row] for row in np.flatnonzero(clients.not_finite)}
        return _Outcome(loss, _failures(loss, log, clients), tuple(sorted(failed)))
    return None


def _rises_in_training(log: RoundLog, clients: ClientLog, significance: float) -> list[ClientRise]:
    usable = usable_rows(clients) & ~np.isin(clients.rounds, log.rounds[log.pruning])
    if not usable.any():
        return []
    losses = client_losses(clients)[usable]
    return client_rises(clients.ids, clients.codes[usable], clients.rounds[usable], losses, significance)


def _of_clients(loss: str, log: RoundLog, clients: ClientLog, rises: Sequence[ClientRise], share: float) -> _Outcome:
    """The rise of some clients, from the first of their first rounds to the last of their last."""
    increase = Increase(
        detected=True,
        round=min(rise.round for rise in rises),
        until=max(rise.until for rise in rises),
        confidence=max(0.0, 1 - (1 - max(rise.confidence for rise in rises)) / share),
        alarm=min(rise.alarm for rise in rises),
        kind="level",
    )
    names = tuple(rise.client for rise in rises)
    column = "train_loss" if "train_loss" in log.losses else loss
    return _Outcome(column, _with_own_levels(increase, clients, names), names)


def _with_own_levels(increase: Increase, log: ClientLog, clients: Sequence[str]) -> Increase:
    """The increase with the mean loss of the clients in the rounds before it, up to 4 of each, and in it."""
    before, during = [], []
    for client in clients:
        mine = log.rows(client)
        mine = mine[np.isfinite(log.signals["loss_before"][mine])]
        rounds, losses = log.rounds[mine], log.signals["loss_before"][mine]
        before += losses[rounds < (increase.round or 0)][-RECENT:].tolist()
        during += losses[(rounds >= (increase.round or 0)) & (rounds <= (increase.until or 0))].tolist()
    return replace(increase, loss_before=float(np.mean(before)), loss_after=float(np.mean(during)))


def _failures(loss: str, log: RoundLog, clients: ClientLog) -> Increase:
    """A rise over the rounds in which some client's update was not finite, though the loss of all stayed finite."""
    rounds, losses = clients.rounds[clients.not_finite], log.losses[loss].values
    before = losses[np.isfinite(losses) & (log.rounds < rounds.min())]
    return Increase(
        detected=True,
        round=int(rounds.min()),
        until=int(rounds.max()),
        loss_before=float(before[-1]) if len(before) else None,
        confidence=1.0,
        alarm=int(rounds.min()),
        kind="not_finite",
    )


def _phase(log: RoundLog, increase: Increase) -> str:
    """The phase of the first round of the rise."""
    if increase.round is None:
        return ""
    return log.phases[int(np.searchsorted(log.rounds, increase.round))] if increase.round in log.rounds else ""


def _rising_sparsity(log: RoundLog, increase: Increase) -> tuple[float, float] | None:
    if log.sparsity is None or increase.round is None or increase.until is None:
        return None
    finite = np.isfinite(log.sparsity.values)
    before = log.sparsity.values[finite & (log.rounds < increase.round)]
    during = log.sparsity.values[finite & (log.rounds >= increase.round) & (log.rounds <= increase.until)]
    if not len(before) or not len(during) or during.max() <= before[-1]:
        return None
    return float(before[-1]), float(during.max())
