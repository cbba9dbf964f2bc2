"""Clients that stay away: what clients.csv says of who was not there, by plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from tasks.diagnose.causes import order
from tasks.diagnose.evidence.absent import Absence, absence, chance_of_gap
from tasks.round_log.read import ClientLog
from tests.plain_findings import AWAY, findings

LAST = 20
EVERY = range(1, LAST + 1)


def log(here: Mapping[str, Sequence[int]], failed: tuple[tuple[str, int], ...] = ()) -> ClientLog:
    """(client -> its rounds, failed (client, round)) -> clients.csv."""
    rows = sorted((r, client) for client, rounds in here.items() for r in rounds)
    failures = np.array([(client, r) in failed for r, client in rows])
    return ClientLog(np.array([r for r, _ in rows]), tuple(c for _, c in rows), {}, failures, failures)


def found(here: Mapping[str, Sequence[int]], drawn: object = None, **rest: object) -> Absence | None:
    """The absence where the rise is sure in round 14 and rounds from 10 on are shortly before it."""
    draw = drawn or (lambda _: sorted(here))
    return absence(log(here, **rest), 10, 14, draw, significance=0.01)  # type: ignore[arg-type]


def test_clients_that_are_drawn_and_do_not_come_are_missing() -> None:
    here = {"00": EVERY, "01": range(1, 12), "02": range(1, 13), "03": EVERY}
    assert found(here) == Absence(("01", "02"), first=12, last=20, took_part=12, missed=9, chance=0.0, recent=True)


def test_nobody_is_missing_if_all_are_there_or_nobody_is() -> None:
    assert found({"00": EVERY, "01": EVERY}) is None
    assert found({"00": range(1, 12), "01": range(1, 12)}) is None


def test_a_client_that_comes_back_before_the_rise_is_sure_is_not_missing() -> None:
    assert found({"00": EVERY, "01": [*range(1, 12), *range(14, 21)]}) is None


def test_a_client_that_comes_back_later_was_missing_up_to_then() -> None:
    away = found({"00": EVERY, "01": [*range(1, 12), *range(17, 21)]})
    assert away is not None
    assert (away.first, away.last, away.missed) == (12, 16, 5)


def test_clients_that_failed_are_not_missing_but_left_out() -> None:
    here = {"00": EVERY, "01": range(1, 12)}
    assert found(here, failed=(("01", 11),)) is None
    assert found(here) is not None


def test_clients_that_were_never_there_are_not_missing() -> None:
    assert found({"00": EVERY, "01": range(15, 21)}) is None


def test_of_several_the_clients_that_went_shortly_before_the_rise_are_meant() -> None:
    here = {"00": EVERY, "01": range(1, 5), "02": range(1, 12)}
    away = found(here)
    assert away is not None
    assert (away.clients, away.recent) == (("02",), True)
    long_ago = found({"00": EVERY, "01": range(1, 5)})
    assert long_ago is not None
    assert (long_ago.clients, long_ago.first, long_ago.recent) == (("01",), 5, False)


def test_a_client_that_is_not_drawn_is_not_missing() -> None:
    here = {"00": EVERY, "01": range(1, 12), "02": EVERY}
    drawn = {r: ["00", "01", "02"] if r < 12 else ["00", "02"] for r in EVERY}
    assert found(here, drawn.get) is None


def test_a_draw_that_does_not_explain_the_log_is_not_believed() -> None:
    """Round 1 has client 02, which the draw lacks: so only the chance of the absence counts."""
    here = {"00": EVERY, "01": range(1, 12), "02": EVERY}
    away = found(here, lambda _: ["00", "01"])
    assert away is not None
    # 11 of 20 rounds, of which the last 9 are free: one of C(20, 11) choices.
    assert away.chance == pytest.approx(1 / comb(20, 11))


def test_an_absence_that_chance_explains_is_none() -> None:
    """Took part in 3 of 20 rounds, the last time in round 11: C(9 + 2, 3) of C(20, 3) choices leave 9 rounds free."""
    here = {"00": EVERY, "01": [2, 7, 11]}
    assert chance_of_gap(20, 3, 9) == pytest.approx(comb(11, 3) / comb(20, 3))
    assert found(here, lambda _: []) is None


def test_chance_of_a_gap_is_the_share_of_random_rounds_that_leave_it_free() -> None:
    rng = np.random.default_rng(0)
    free = [not (rng.permutation(12)[:4] < 3).any() for _ in range(4000)]
    # 4000 draws: the standard error of a share of about 0.25 is 0.007.
    assert chance_of_gap(12, 4, 3) == pytest.approx(np.mean(free), abs=0.025)
    assert chance_of_gap(12, 4, 0) == 1


def test_clients_that_have_been_away_for_long_come_right_before_the_skews() -> None:
    recent, long_ago = replace(findings(), absence=AWAY), replace(findings(), absence=replace(AWAY, recent=False))
    assert order(recent).index("missing_clients") < order(recent).index("faulty_clients")
    ordered = order(long_ago)
    assert ordered.index("server_learning_rate") + 1 == ordered.index("missing_clients")
    assert ordered.index("missing_clients") + 1 == ordered.index("quantity_skew")
