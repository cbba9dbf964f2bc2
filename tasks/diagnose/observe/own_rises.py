"""A rise of the own loss of a few clients, or failures of clients, which the mean of all clients hides."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.arrays import Bools
from tasks.detection import Increase
from tasks.diagnose.observe.loss_tests import RECENT, client_losses, usable_rows
from tasks.diagnose.observe.own_losses import ClientRise, client_rises
from tasks.round_log.read import ClientLog, RoundLog


def rises_of_clients(log: RoundLog, clients: ClientLog, rows: Bools, significance: float) -> list[ClientRise]:
    """Returns the clients whose own loss rose in the rounds `rows` (R,)."""
    usable = usable_rows(clients) & ~np.isin(clients.rounds, log.rounds[~rows])
    if not usable.any():
        return []
    losses = client_losses(clients)[usable]
    return client_rises(clients.ids, clients.codes[usable], clients.rounds[usable], losses, significance)


def increase_of(rises: Sequence[ClientRise], clients: ClientLog, share: float) -> Increase:
    """Returns the rise of some clients, from the first of their first rounds to the last of their last.

    Its losses are the clients' own. `share` is the share of the significance that the test of the clients had.
    """
    increase = Increase(
        detected=True,
        round=min(rise.round for rise in rises),
        until=max(rise.until for rise in rises),
        confidence=max(0.0, 1 - (1 - max(rise.confidence for rise in rises)) / share),
        alarm=min(rise.alarm for rise in rises),
        kind="level",
    )
    return _with_own_levels(increase, clients, [rise.client for rise in rises])


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


def increase_of_failures(loss: str, log: RoundLog, clients: ClientLog) -> tuple[Increase, tuple[str, ...]] | None:
    """Returns a rise over the rounds in which updates were not finite, and the clients that sent them.

    None without any. The loss of all stayed finite.
    """
    if not clients.not_finite.any():
        return None
    failed = {clients.clients[row] for row in np.flatnonzero(clients.not_finite)}
    rounds, losses = clients.rounds[clients.not_finite], log.losses[loss].values
    before = losses[np.isfinite(losses) & (log.rounds < rounds.min())]
    increase = Increase(
        detected=True,
        round=int(rounds.min()),
        until=int(rounds.max()),
        loss_before=float(before[-1]) if len(before) else None,
        confidence=1.0,
        alarm=int(rounds.min()),
        kind="not_finite",
    )
    return increase, tuple(sorted(failed))
