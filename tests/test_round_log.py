"""rounds.csv and clients.csv: they are written and read, and a file that no run writes is refused in one line."""

import itertools

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.evaluate.curves import read_updates
from tasks.files import Block, write_rows
from tasks.round_log.own import checked_data, clients_of_run, rounds_of_run
from tasks.round_log.read import read_clients, read_rounds
from tasks.round_log.write import write_log

ROUNDS, CLIENTS = ("round", "phase", "val_loss"), ("round", "client", "finite")


def rounds_of(*rows):
    """Returns rows of rounds.csv for pairs (round, phase)."""
    return [{"round": number, "phase": phase, "val_loss": 1.5} for number, phase in rows]


def clients_of(*rows):
    return [{"round": number, "client": client, "finite": True} for number, client in rows]


def test_rounds_from_1_of_both_phases_are_read(tmp_path):
    written = rounds_of((1, "federate"), (2, "federate"), (3, "prune"))
    write_rows(tmp_path / "rounds.csv", ROUNDS, written)
    rows = rounds_of_run(tmp_path / "rounds.csv", ["val_loss"], ["federate", "prune"], "prune")
    assert rows == [{name: str(value) for name, value in row.items()} for row in written]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (rounds_of(), "must hold rounds of federate and then of prune, got no round"),
        (rounds_of((1, "federate"), (1, "federate"), (2, "prune")), "got '1' in row 2"),
        (rounds_of((1, "federate"), (3, "prune")), "must hold the rounds 1 to 2 in their order, got '3' in row 2"),
        (rounds_of((2, "federate"), (3, "prune")), "got '2' in row 1"),
        (rounds_of((2, "federate"), (1, "prune")), "got '2' in row 1"),
        (rounds_of((1, "federate"), ("2.0", "prune")), "got '2.0' in row 2"),
        (rounds_of((1, "federate"), ("", "prune")), "got '' in row 2"),
        (rounds_of((1, "federate"), (2, "federate")), "got 'federate': run the step prune first"),
        (rounds_of((1, "prune"), (2, "prune")), "got 'prune'"),
        (rounds_of((1, "prune"), (2, "federate")), "rounds of federate and then of prune"),
        (rounds_of((1, "federate"), (2, "other"), (3, "prune")), "got 'federate', 'other', 'prune'"),
    ],
)
def test_rounds_that_no_run_writes_are_refused(tmp_path, rows, says):
    path = tmp_path / "rounds.csv"
    write_rows(path, ROUNDS, rows)
    with pytest.raises(DataError) as caught:
        rounds_of_run(path, ["val_loss"], ["federate", "prune"], "prune")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "run the step prune" in str(caught.value)


@pytest.mark.parametrize("missing", ["round", "phase", "val_loss"])
def test_a_log_that_lacks_a_column_is_refused(tmp_path, missing):
    columns = [name for name in ROUNDS if name != missing]
    write_rows(tmp_path / "rounds.csv", columns, [dict.fromkeys(columns, 1)])
    with pytest.raises(DataError, match=f"rounds.csv has no column {missing}"):
        rounds_of_run(tmp_path / "rounds.csv", ["val_loss"], ["federate"], "federate")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (clients_of((1, "a"), (3, "a")), "of the 2 rounds of rounds.csv, got client 'a' of round '3' in row 2"),
        (clients_of((0, "a")), "got client 'a' of round '0'"),
        (clients_of((1, "a"), (2, "a"), (1, "a")), "at most one row for a client in each of the 2 rounds .* in row 3"),
        (clients_of(("x", "a")), "of round 'x'"),
        (clients_of((1, "../a")), "row 1: a client id must be"),
        (clients_of((1, "")), "row 1: a client id must be"),
    ],
)
def test_clients_that_no_run_writes_are_refused(tmp_path, rows, says):
    write_rows(tmp_path / "clients.csv", CLIENTS, rows)
    with pytest.raises(DataError, match=says) as caught:
        list(clients_of_run(tmp_path / "clients.csv", ["finite"], 2, "federate"))
    assert str(tmp_path / "clients.csv") in str(caught.value)
    assert "run the step federate again" in str(caught.value)


def test_clients_of_a_round_in_which_not_all_took_part_are_read(tmp_path):
    rows = clients_of((1, "a"), (1, "b"), (2, "b"))
    write_rows(tmp_path / "clients.csv", CLIENTS, rows)
    (block,) = clients_of_run(tmp_path / "clients.csv", ["finite"], 2, "prune")
    assert block.column("client") == ["a", "b", "b"]


def test_what_is_written_is_read_the_same_after_the_rows_of_an_earlier_step(tmp_path):
    earlier = {"round": "1", "phase": "federate", "val_loss": "0.7"}, {"round": "1", "client": "b", "finite": "True"}
    row = {"round": 2, "phase": "prune", "train_loss": None, "val_loss": 0.5, "sparsity": 0.25}
    clients = [{"round": 2, "client": client, "finite": client == "a", "update_norm": 1e-7} for client in ("b", "a")]
    write_log(tmp_path, [*earlier[:1], row], [*earlier[1:], *clients])
    rounds, log = read_rounds(tmp_path / "rounds.csv"), read_clients(tmp_path / "clients.csv")
    assert (rounds.rounds.tolist(), rounds.phases) == ([1, 2], ("federate", "prune"))
    assert rounds.losses["val_loss"].values.tolist() == [0.7, 0.5]
    assert not rounds.losses["train_loss"].given.any()
    assert (log.clients, log.failed.tolist()) == (("b", "a", "b"), [False, False, True])
    np.testing.assert_array_equal(log.signals["update_norm"], [np.nan, 1e-7, 1e-7])


def test_a_number_s_row_in_an_error_is_its_row_in_the_file(tmp_path):
    """The rows are counted in the order of the file, not of the rounds."""
    (tmp_path / "rounds.csv").write_text("round,val_loss\n2,0.5\n1,x\n")
    with pytest.raises(DataError, match=r"rounds\.csv: row 2, column val_loss must be a number or empty, got 'x'"):
        read_rounds(tmp_path / "rounds.csv")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        # Sizes in clients.csv by client. preprocess.json has 10 for a and 20 for b.
        ({"a": "10", "b": "20"}, None),
        ({"a": "13", "b": "23"}, None),  # a public set of 3
        ({"a": "10", "b": ""}, None),
        ({"a": "10", "b": "21"}, "client b with 21 examples, but data/clients has 20"),
        ({"a": "9", "b": "19"}, "client a with 9 examples, but data/clients has 10"),
        ({"a": "10", "c": "20"}, "client c with 20 examples, but data/clients has none"),
        ({"a": "1.5", "b": "20"}, r"client a with 1\.5 examples"),
    ],
)
def test_a_log_of_other_data_is_refused(tmp_path, sizes, says):
    path, blocks = (
        tmp_path / "clients.csv",
        [Block(["client", "num_examples"], 1, [list(row) for row in sizes.items()])],
    )
    if says is None:
        assert list(checked_data(path, blocks, {"a": 10, "b": 20}, "federate")) == blocks
        return
    with pytest.raises(DataError, match=rf"clients\.csv must belong to the clients in data/clients, got {says}"):
        list(checked_data(path, blocks, {"a": 10, "b": 20}, "federate"))


@pytest.mark.parametrize(
    "read", [read_clients, lambda path: read_updates(path, {"a": 10}, 3)], ids=["diagnose", "evaluate"]
)
def test_clients_without_a_row_are_refused(tmp_path, read):
    (tmp_path / "clients.csv").write_text("round,client,update_norm,update_cosine,finite\n")
    with pytest.raises(DataError, match=r"clients\.csv holds no row below its header"):
        read(tmp_path / "clients.csv")


def long_log(path, last):
    """Writes 20,002 rows, more than are read at a time: two clients, and `last` as the last row."""
    rows = ({"round": k // 2 + 1, "client": "ab"[k % 2], "update_norm": k, "finite": True} for k in range(20_001))
    write_rows(path, ("round", "client", "update_norm", "finite"), itertools.chain(rows, [last]))


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ({"round": "x", "client": "b"}, "row 20002, column round must be a whole number >= 0, got 'x'"),
        ({"round": 10_001, "client": ""}, "row 20002, column client must be a client id, got ''"),
        (
            {"round": 10_001, "client": "b", "update_norm": "1,5", "finite": True},
            "row 20002, column update_norm must be a number or em",
        ),
        ({"round": 10_001, "client": "b", "finite": "maybe"}, "row 20002, column finite must be True or False, got 'm"),
        ({"round": 7, "client": "a", "finite": True}, "client a has two rows in round 7; one row is allowed"),
    ],
)
def test_an_error_far_below_names_its_row_and_column(tmp_path, last, says):
    long_log(tmp_path / "clients.csv", last)
    with pytest.raises(DataError, match=says):
        read_clients(tmp_path / "clients.csv")


def test_a_long_log_has_its_rows_by_client(tmp_path):
    long_log(tmp_path / "clients.csv", {"round": 10_001, "client": "b", "update_norm": " ", "finite": "0"})
    log = read_clients(tmp_path / "clients.csv")
    assert (log.ids, len(log.rounds)) == (("a", "b"), 20_002)
    # Client a has the even numbers of `update_norm`, in the order of its rounds; b's last one is missing.
    np.testing.assert_array_equal(log.signals["update_norm"][log.rows("a")], np.arange(0, 20_001, 2))
    np.testing.assert_array_equal(log.signals["update_norm"][log.rows("b")], [*range(1, 20_000, 2), np.nan])
    assert log.of("b").sum() == 10_001
    assert np.flatnonzero(log.failed).tolist() == log.rows("b")[-1:].tolist()
    assert log.rows("unknown").tolist() == []


def test_a_row_of_a_run_that_comes_again_in_a_later_block_is_refused(tmp_path):
    long_log(tmp_path / "clients.csv", {"round": 7, "client": "a", "finite": True})
    with pytest.raises(DataError, match="got client 'a' of round '7' in row 20002: run the step federate again"):
        list(clients_of_run(tmp_path / "clients.csv", ["finite"], 10_001, "federate"))


def test_a_log_is_written_from_rows_that_come_once(tmp_path):
    clients = ({"round": 1, "client": client, "update_norm": 0.5, "finite": True} for client in "ab")
    write_log(tmp_path, iter([{"round": 1, "val_loss": 0.5}]), clients)
    assert read_clients(tmp_path / "clients.csv").clients == ("a", "b")
    assert read_rounds(tmp_path / "rounds.csv").rounds.tolist() == [1]
