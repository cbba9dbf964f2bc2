"""Did the loss of a few clients rise, which the mean of all hides? Short series, one a client, tested together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Bools, Floats, Ints
from tasks.detection.null import draws_for
from tasks.diagnose.observe.short_series import FEWEST_AFTER, FEWEST_BEFORE, clearest, noise_sd, panel_law
from tasks.round_log.read import rows_by_client

OwnSeries = tuple[Ints, Floats, Floats]
"""Of one client (n,): rounds, log losses, and how far they are from what is typical of their rounds and of it."""

_SETTLING = 5
"""First rounds of a log in which no rise is dated: away from its first weights, a model moves towards most clients."""
_AROUND = 2
"""Rounds before and after a round whose losses give what is typical of it."""
_POLISHED = 3
"""Times that what is typical and the clients' factors are fitted in turn."""
_FITTED = 20
"""Iterations of the least-squares fit of the mean client's loss."""
_LONGEST = 100
"""Longest series of a client that is tested; of a longer one, means of as many losses in a row as make it so short."""
_FLOOR = 0.25
"""Share of the median loss that is added to all before the logarithm: the loss of a batch that is fitted is noise."""


@dataclass(frozen=True)
class ClientRise:
    """The rise of one client's own loss.

    Attributes:
        client: id.
        round: first round of the rise in which the client took part.
        until: the last round of its rise, whose losses are at half of the rise or above; see `last_up`.
        alarm: the round whose loss first made the claim possible.
        confidence: 1 - the probability that noise alone rises as clearly for any client.
    """

    client: str
    round: int
    until: int
    alarm: int
    confidence: float


def client_rises(
    ids: Sequence[str], clients: Ints, rounds: Ints, losses: Floats, significance: float
) -> list[ClientRise]:
    """Returns the clients whose loss rose, sorted by id: one that stayed up, or a single one far out of line.

    Args:
        ids: (K,) the clients' ids, sorted.
        clients: (M,) places in `ids`, one row for each round that a client took part in.
        rounds: (M,) rounds.
        losses: (M,) losses, > 0.
        significance: probability of claiming any client where there is only noise.

    **Test.** H0: a client's loss = its own factor · what is typical of the round · noise, and only the second changes.
    Let z be the log losses of a client in the order of its rounds, z = ln(loss + a quarter of the median loss), because
    a loss near 0 is noise. Let d be z without the client's factor and without what is typical (see `polished`). The
    statistic of a split and a window of 1, 2, 4, 8 or all losses after it is Student's t of d in the window against d
    before the split, as the normal deviate that is as improbable. Its variance is the variance within the two parts,
    with 4 degrees of freedom of all clients' noise (from the mean of the smaller half of all |d_t - d_(t-1)|). A split
    counts only if z rose by at least half as much as d, from the 4 losses before: the client is up against the others,
    and up against its own recent past.

    The largest statistic of single losses over all clients has one law, the largest of several losses another. Each
    gives a p-value; the smaller of the two p-values has a law of its own. A client is claimed if that law gives its
    smaller p-value a probability of at most `significance`. The laws are simulated: independent Student-t(5) noise in
    panels of the same shape, as many as `draws_for` says.

    **False alarms.** On noise as assumed, as promised. Of 152 healthy runs of 30 rounds (digits with all and with 6
    of 20 clients a round, linear and not, under five divisions; chest X-rays; FedProx's synthetic data), two were
    claimed at a significance of 0.005, a chest X-ray run and one of the digits with 6 of 20.

    **Limiting cases.** A rise of most clients is typical, and not found here; nor is one in the first 5 rounds. Clients
    with fewer than 4 losses are not tested; equal losses are no rise. If a client has more than 100 losses, all losses
    are averaged in blocks: a rise is then dated to its block.
    """
    series = _blocks(_apart(clients, rounds, _logarithm(losses)))
    series = {client: each for client, each in series.items() if len(each[1]) >= FEWEST_BEFORE + FEWEST_AFTER}
    if not series:
        return []
    noise = noise_sd(np.concatenate([np.diff(d) for _, _, d in series.values()])[None])
    law = panel_law(tuple(sorted(len(z) for _, z, _ in series.values())), draws_for(significance))
    rises = []
    for client, (at, z, d) in sorted(series.items()):
        p, split, end = clearest(z, d, noise, law)
        if p > significance or at[split] < rounds.min() + _SETTLING:
            continue
        ends = range(split + FEWEST_AFTER, end)
        alarm = next((i for i in ends if clearest(z[:i], d[:i], noise, law)[0] <= significance), end)
        middle = (d[:split].mean() + d[split:end].mean()) / 2
        until = int(at[max(end - 1, last_up(d > middle, split))])
        rises.append(ClientRise(ids[client], int(at[split]), until, int(at[alarm - 1]), 1 - p))
    return rises


def last_up(up: Bools, first: int) -> int:
    """Returns the last place of a rise that begins at `first`.

    It is the place up to which (losses that are up) minus (losses that are not) is largest; of several such places, the
    last. If noise puts a loss on the wrong side as often in the rise as after it, this is the most likely end. So a
    rise with gaps is whole, and a single high loss long after it is not a part of it.

    Args:
        up: (n,) whether the client's loss was up, by round in which it took part.
        first: place at which the rise begins; it belongs to the rise.
    """
    lead = np.cumsum(np.where(up[first + 1 :], 1, -1))
    leads = np.append(0, lead)
    return first + int(np.flatnonzero(leads == leads.max())[-1])


def common(clients: Ints, rounds: Ints, losses: Floats, least: float | None = None) -> tuple[Ints, Floats]:
    """Returns the rounds (R,) and the loss (R,) of the mean client in each, whichever clients took part.

    The loss of round t is exp of b_t in z_kt = a_k + b_t + noise, fitted by least squares with Σ_k a_k = 0. z_kt is the
    log of (the loss of client k in round t + `least`); the default of `least` is a quarter of the median loss. So a
    round in which clients of high loss take part is no rise, and one client's large loss does not hide a rise of all
    others. `clients`, `rounds` and `losses` as for `client_rises`.
    """
    z = _logarithm(losses) if least is None else np.log(losses + least)
    at, when = np.unique(rounds, return_inverse=True)
    _, who = np.unique(clients, return_inverse=True)
    factor, level = np.zeros(who.max() + 1), np.zeros(len(at))
    for _ in range(_FITTED):
        level = np.bincount(when, z - factor[who]) / np.bincount(when)
        factor = np.bincount(who, z - level[when]) / np.bincount(who)
        factor -= factor.mean()
    return at, np.exp(level)


def _logarithm(losses: Floats) -> Floats:
    return np.asarray(np.log(losses + _FLOOR * np.median(losses)))


def polished(clients: Ints, rounds: Ints, z: Floats) -> tuple[Floats, Floats]:
    """Returns what is typical of each row's round, and the factor of each row's client, both (M,) on the logarithm.

    The two are fitted in turn, three times. What is typical of a round is the median of the log losses, without the
    clients' factors, over the rounds up to 2 away. A factor is the median of the client's log losses, without what is
    typical. Medians keep a step a step, and neither follows a minority of the clients.
    """
    which, at = np.unique(rounds, return_inverse=True)
    order = np.argsort(at, kind="stable")
    ends = np.searchsorted(at[order], np.arange(len(which) + 1))
    near = [order[ends[max(0, i - _AROUND)] : ends[min(len(which), i + _AROUND + 1)]] for i in range(len(which))]
    mine = rows_by_client(clients)
    factor = np.zeros(len(z))
    for _ in range(_POLISHED):
        rest = z - factor
        typical = np.array([np.median(rest[rows]) for rows in near])[at]
        own = z - typical
        for rows in mine.values():
            factor[rows] = np.median(own[rows])
    return typical, factor


def _apart(clients: Ints, rounds: Ints, z: Floats) -> dict[int, OwnSeries]:
    typical, factor = polished(clients, rounds, z)
    d = z - typical - factor
    order = np.argsort(rounds, kind="stable")
    parts = {client: order[rows] for client, rows in rows_by_client(clients[order]).items()}
    return {client: (rounds[rows], z[rows], d[rows]) for client, rows in parts.items()}


def _blocks(series: Mapping[int, OwnSeries]) -> dict[int, OwnSeries]:
    size = -(-max(len(z) for _, z, _ in series.values()) // _LONGEST)
    if size == 1:
        return dict(series)
    blocks = {}
    for client, (at, z, d) in series.items():
        whole = len(z) // size * size
        means = [values[:whole].reshape(-1, size).mean(axis=1) for values in (z, d)]
        blocks[client] = at[: whole or 0 : size], means[0], means[1]
    return blocks
