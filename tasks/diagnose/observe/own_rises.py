"""A rise of the own loss of a few clients, or failures of clients, which the mean of all clients hides."""

from collections.abc import Sequence

import numpy as np

from tasks.arrays import Bools
from tasks.detection import Increase
from tasks.detection.increase import is_higher
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


def increase_of(rises: Sequence[ClientRise], clients: ClientLog, share: float) -> Increase | None:
    """Returns the rise of some clients, from the first of their first rounds to the last of their last.

    Its losses are means over the clients: of each, the mean of up to 4 losses before its own rise, and of those in it.
    None if they are not higher in it. `share` is the share of the significance that the test of the clients had.
    """
    before, during = [], []
    for rise in rises:
        mine = clients.rows(rise.client)
        mine = mine[np.isfinite(clients.signals["loss_before"][mine])]
        rounds, losses = clients.rounds[mine], clients.signals["loss_before"][mine]
        before.append(losses[rounds < rise.round][-RECENT:].mean())
        during.append(losses[(rounds >= rise.round) & (rounds <= rise.until)].mean())
    low, high = np.array(before), np.array(during)
    if not is_higher(high, low, 0.0):
        return None
    return Increase(
        detected=True,
        round=min(rise.round for rise in rises),
        until=max(rise.until for rise in rises),
        loss_before=float(low.mean()),
        loss_after=float(high.mean()),
        confidence=max(0.0, 1 - (1 - max(rise.confidence for rise in rises)) / share),
        alarm=min(rise.alarm for rise in rises),
        kind="level",
    )


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
