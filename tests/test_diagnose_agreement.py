"""Where a replay that changes nothing first differs from the log, on plain rows."""

import numpy as np
import pytest

from tasks.diagnose.replay.agreement import differing, first_disagreement
from tasks.federate.record import RoundLine
from tasks.round_log.read import ClientLog

ROW = {"num_examples": 30, "num_steps": 6, "loss_before": 0.5, "update_norm": 2.0, "finite": True}


def line(round_num, **clients):
    """The replay's rows of a round: client -> what differs from ROW."""
    rows = [{"client": client, **ROW, **changes} for client, changes in clients.items()]
    return RoundLine(round_num, {}, rows)


def log(*lines):
    """The log in which the same rows stand."""
    rows = [(each.round, row) for each in lines for row in each.clients]
    names = ("num_examples", "num_steps", "loss_before", "update_norm")
    signals = {name: np.array([np.nan if row[name] is None else row[name] for _, row in rows], float) for name in names}
    failed = np.array([not row["finite"] for _, row in rows])
    return ClientLog(np.array([r for r, _ in rows]), tuple(row["client"] for _, row in rows), signals, failed, failed)


FIVE = {f"{k:02}": {} for k in range(5)}


def test_a_replay_of_the_same_rows_agrees():
    lines = [line(11, **FIVE), line(12, **FIVE)]
    assert first_disagreement(lines, log(*lines), 12) is None


@pytest.mark.parametrize(
    ("changes", "kind", "logged"),
    [
        ({"update_norm": 60.0}, "update", 60.0),
        ({"update_norm": 1.89}, "update", 1.89),  # by more than 5 %
        ({"loss_before": 0.51, "update_norm": 60.0}, "data", 0.51),  # other data give another update as well
        ({"num_examples": 31, "loss_before": 0.9}, "other", None),
        ({"num_steps": 60, "update_norm": 60.0}, "other", None),
        ({"finite": False}, "other", None),
    ],
)
def test_a_row_that_differs_says_how(changes, kind, logged):
    lines = [line(11, **FIVE), line(12, **FIVE)]
    found = first_disagreement(lines, log(lines[0], line(12, **{**FIVE, "02": changes})), 12)
    assert (found.round, found.clients, found.num_clients, found.of_few) == (12, ("02",), 5, True)
    (row,) = found.rows
    assert row.kind == kind
    assert row.logged == logged or np.isnan(row.logged)


def test_rounding_and_values_that_were_not_logged_are_no_difference():
    small = {"loss_before": 0.5004, "update_norm": 2.09}  # within a thousandth, and within 5 %
    unknown = {"loss_before": None, "update_norm": None}
    lines = [line(11, **FIVE)]
    assert first_disagreement(lines, log(line(11, **{**FIVE, "02": small, "03": unknown})), 11) is None


def test_the_first_round_counts_and_later_rounds_are_not_looked_at():
    lines = [line(11, **FIVE), line(12, **FIVE), line(13, **FIVE)]
    wrong = {"update_norm": 9.0}
    logged = log(line(11, **FIVE), line(12, **{**FIVE, "01": wrong}), line(13, **dict.fromkeys(FIVE, wrong)))
    assert first_disagreement(lines, logged, 13).clients == ("01",)
    assert first_disagreement(lines, logged, 11) is None
    assert first_disagreement(lines, log(line(9, **FIVE)), 13) is None  # rounds that the log does not have


def test_few_are_fewer_than_half():
    lines, wrong = [line(11, **FIVE, **{"05": {}})], {"update_norm": 9.0}
    for number, of_few in ((2, True), (3, False)):
        changed = {f"{k:02}": wrong for k in range(number)}
        assert first_disagreement(lines, log(line(11, **{**FIVE, "05": {}, **changed})), 11).of_few is of_few


def test_a_client_that_took_part_in_one_of_both_differs():
    rows = differing({"01": ROW}, {"02": ROW})
    assert [(row.client, row.kind) for row in rows] == [("01", "other"), ("02", "other")]
