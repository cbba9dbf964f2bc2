"""Clients that took part before and stay away from some round on: what clients.csv says of who was not there."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np

from tasks.round_log.read import ClientLog


@dataclass(frozen=True)
class Absence:
    """Clients that stay away at the same time.

    Attributes:
        clients: their ids, sorted.
        first: first round in which one of them was missing.
        last: last round in which one of them was missing.
        took_part: number of rounds before in which one of them took part.
        missed: number of rounds in which one of them was drawn and did not come, or that are too many for chance.
        chance: the largest probability, of one client, that sampling alone leaves it out so long; 0 if it was drawn.
        recent: whether they were missing for the first time shortly before the rise, or in it.
    """

    clients: tuple[str, ...]
    first: int
    last: int
    took_part: int
    missed: int
    chance: float
    recent: bool = True


def chance_of_gap(rounds: int, took_part: int, gap: int) -> float:
    """Returns the probability that a client takes part in none of `gap` given rounds.

    Of `rounds` rounds it took part in `took_part`. If sampling does not depend on the round, every choice of these
    rounds is as likely as any other: C(rounds - gap, took_part) of C(rounds, took_part) leave the gap free. Limiting
    case: with a gap of 0 it is 1.
    """
    return comb(rounds - gap, took_part) / comb(rounds, took_part)


def absence(
    log: ClientLog,
    shortly_before: int,
    latest: int,
    drawn: Callable[[int], Collection[str]],
    significance: float,
) -> Absence | None:
    """Returns the clients that stay away in round `latest` and were there before; None if there are none.

    1. The client took part before, and its update never failed: the guard leaves out clients that fail.
    2. From that round on it was drawn and did not come; or, where nobody knows who was drawn, it stays away so long
       that the chance of it is below `significance`, divided by the number of clients and of rounds that could be the
       first.
    3. If some of them are missing only since round `shortly_before` or later, they are the clients, and no others.

    Args:
        log: clients.csv, without rounds of pruning.
        shortly_before: first round that is shortly before the rise.
        latest: the round in which the rise was sure.
        drawn: (round) -> the clients that were drawn. It counts only if it explains the log: every client of a round
            was drawn.
        significance: `diagnose.significance`.
    """
    rounds = np.unique(log.rounds)
    here = {client: {*log.rounds[log.rows(client)].tolist()} for client in log.ids}
    failed = {client for client in log.ids if log.failed[log.rows(client)].any()}
    level = significance / (len(log.ids) * max(1, int((rounds <= latest).sum())))
    by_round = {int(r): drawn(int(r)) for r in rounds}
    explains = all({c for c in log.ids if r in here[c]} <= {*names} for r, names in by_round.items())
    found: dict[str, _Gap] = {}
    for client in (one for one in log.ids if one not in failed):
        gap = _gap(client, here[client], by_round, latest, explains)
        if gap is not None and gap.chance < level:
            found[client] = gap
    if not found or len(found) == len(log.ids):
        return None
    recent = {client: gap for client, gap in found.items() if gap.first >= shortly_before}
    found = recent or found
    gaps = list(found.values())
    before = {r for client, gap in found.items() for r in here[client] if r < gap.first}
    return Absence(
        tuple(sorted(found)),
        min(gap.first for gap in gaps),
        max(gap.last for gap in gaps),
        len(before),
        len({r for gap in gaps for r in gap.missed}),
        max(gap.chance for gap in gaps),
        bool(recent),
    )


@dataclass(frozen=True)
class _Gap:
    first: int
    last: int
    missed: tuple[int, ...]
    chance: float


def _gap(
    client: str, here: Collection[int], drawn: Mapping[int, Collection[str]], latest: int, known: bool
) -> _Gap | None:
    """The rounds around `latest` in which a client stays away after one in which it took part; None if there are none.

    They end before the next round in which it takes part. If it is `known` who was drawn, the first round that it
    missed is the first one in which it was drawn and did not come.
    """
    before = [r for r in here if r < latest]
    back = min((r for r in here if r >= latest), default=max(drawn) + 1)
    if not before or latest in here:
        return None
    away = [r for r in drawn if max(before) < r < back]
    if known:
        missed = [r for r in away if client in drawn[r]]
        return _Gap(missed[0], away[-1], tuple(missed), 0.0) if missed and missed[0] <= latest else None
    return _Gap(away[0], away[-1], tuple(away), chance_of_gap(len(drawn), len(here), len(away))) if away else None
