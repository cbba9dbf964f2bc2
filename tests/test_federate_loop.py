"""When a client or the model goes wrong: which clients are left out, what the log says, what federate.guard does."""

import json
import logging
import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tasks.clients import CLIENTS, TEST
from tasks.detection import find_increase
from tasks.errors import DataError, GuardStop, NoClientLeft
from tasks.federate import federate
from tasks.federate.checkpoint import Checkpoints, checkpoints_of
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.loop import Loop, best_checkpoint
from tasks.federate.record import RoundLine
from tasks.federate.runner import Phase, Stepped
from tasks.federate.schedule import sample, stops_early
from tasks.federate.state import ServerState
from tasks.files import read_rows
from tasks.models import build
from tasks.parameters import flatten
from tasks.prune import prune
from tests.shards import damage, members_of, npy, put, shard_of, write_client, write_members

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 6,
    "federate.checkpoint_every": 1,
    "federate.client.batch_size": 4,
    "federate.client.learning_rate": 0.2,
}


@pytest.fixture
def clients(make_clients):
    return make_clients(sizes=(7, 4, 11, 5, 8))


def load_params(folder):
    return flatten(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False))


def reports(folder):
    return [read_rows(folder / "reports" / "federate" / name) for name in ("rounds.csv", "clients.csv")]


def checkpoint(folder, round_num):
    with np.load(folder / "models" / "checkpoints" / "federate" / f"round_{round_num:05}.npz") as arrays:
        return [arrays[name] for name in arrays.files if name != "log"]


def after(round_num, action):
    """A watch that calls `action` once, when round `round_num` is over."""
    return lambda row, *_: action() if row["round"] == round_num else None


def blow_up(clients, client):
    """Gives the client features that are finite, and overflow float32 in the first step."""
    x, y = clients.data[client]
    clients.data[client] = np.full_like(x, 1e30), y


def break_four(folder, clients):
    """Breaks clients 00 to 03 in four ways; 04 stays."""
    root = folder / CLIENTS
    shard_of(root, "00").unlink()
    shard = shard_of(root, "01")
    shard.write_bytes(shard.read_bytes()[:-400])
    x, y = clients.data["02"]
    write_client(root, "02", x, np.append(y[:-1], 77))
    damage(root, "03", "x", lambda npy: npy[:8] + b"\xff\xff" + b"Doe,77;" * 40)  # a header longer than the array


def assert_four_are_named(folder):
    rounds, rows = reports(folder)
    assert [row["num_failed"] for row in rounds] == ["0", "0", "4"]
    assert [row["num_clients"] for row in rounds] == ["5", "5", "5"]
    for row in rows[:10]:
        assert (row["finite"], row["failure"]) == ("True", "")
    last = {row["client"]: row for row in rows[10:]}
    assert list(last) == ["00", "01", "02", "03", "04"]
    for client in ("00", "01", "02", "03"):
        row = last[client]
        assert (row["finite"], row["weight"], row["update_norm"], row["loss_before"]) == ("False", "0.0", "", "")
        assert row["failure"].isprintable()
        assert row["failure"]
        assert str(folder) not in row["failure"]
    assert "clients_000.npz: No such file" in last["00"]["failure"]
    assert "changed since" in last["02"]["failure"]
    assert not any("77" in row["failure"] for row in last.values())
    # The average is the update of the one client that is left.
    assert (last["04"]["weight"], last["04"]["finite"], last["04"]["failure"]) == ("1.0", "True", "")


def test_clients_that_break_during_the_run_are_left_out_and_named(clients, settings_of, tmp_path, caplog):
    clients.write(tmp_path)
    settings = settings_of({**BASE, "federate.rounds": 3})
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        federate(settings, tmp_path, after(2, lambda: break_four(tmp_path, clients)))
    assert_four_are_named(tmp_path)
    for client in ("00", "01", "02", "03"):
        (message,) = (m for m in caplog.messages if m.startswith(f"round 3: client {client} left out: "))
        assert "77" not in message
        assert str(tmp_path) not in message


def test_average_without_the_failed_is_that_of_the_others(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, "federate.rounds": 3})
    blow_up(clients, "02")
    federate(settings, clients.write(tmp_path / "five"))
    rounds, rows = reports(tmp_path / "five")
    assert [row["num_failed"] for row in rounds] == ["1", "1", "1"]
    failed = [row for row in rows if row["client"] == "02"]
    assert {row["failure"] for row in failed} == {"its update is not finite"}
    assert {(row["finite"], row["weight"]) for row in failed} == {("False", "0.0")}
    del clients.data["02"]
    federate(settings, clients.write(tmp_path / "four"))
    np.testing.assert_allclose(load_params(tmp_path / "five"), load_params(tmp_path / "four"), atol=1e-7)
    for one, other in zip(rounds, reports(tmp_path / "four")[0], strict=True):
        for name in ("train_loss", "val_loss", "drift", "update_norm_max", "gradient_diversity"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)


def test_round_in_which_every_client_fails_ends_the_run(clients, settings_of, tmp_path):
    clients.write(tmp_path)

    def break_all():
        for client in clients.ids:
            put(tmp_path / CLIENTS, client, y=None)

    with pytest.raises(NoClientLeft, match=r"round 3: every client failed: 00 \(.*y.npy.*\); 01 .*04") as caught:
        federate(settings_of(BASE), tmp_path, after(2, break_all))
    assert str(tmp_path) not in str(caught.value)
    (_, second, last), rows = reports(tmp_path)
    assert [last[name] for name in ("round", "num_clients", "num_failed")] == ["3", "5", "5"]
    assert last["failure"] == "every client failed"
    # The model stays, and so does its loss. Nothing was averaged.
    assert (last["val_loss"], last["server_update_norm"]) == (second["val_loss"], "0.0")
    assert {last[name] for name in ("train_loss", "drift", "update_norm_max", "gradient_diversity")} == {""}
    failed = [row for row in rows if row["round"] == "3"]
    assert [row["client"] for row in failed] == clients.ids
    assert {(row["finite"], row["weight"]) for row in failed} == {("False", "0.0")}
    assert all("y.npy" in row["failure"] and str(tmp_path) not in row["failure"] for row in failed)
    assert not (tmp_path / "models" / "global.h5").exists()


def test_a_run_that_ended_is_repeated_with_the_same_log(clients, settings_of, tmp_path):
    clients.write(tmp_path)
    # With a step of 1e38 times the gradient, the second step's loss is not finite.
    settings = settings_of({**BASE, "federate.client.learning_rate": 1e38, "federate.local_work.epochs": 3})
    logs = []
    for _ in range(2):
        with pytest.raises(NoClientLeft, match="every client failed"):
            federate(settings, tmp_path)
        logs.append([(tmp_path / "reports" / name).read_bytes() for name in ("rounds.csv", "clients.csv")])
    assert logs[0] == logs[1]
    assert b"every client failed" in logs[0][0]


def test_round_whose_sampled_clients_all_fail_ends_the_run(clients, settings_of, tmp_path):
    blow_up(clients, "02")
    sampling = {"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 1}
    settings = settings_of({**BASE, **sampling, "federate.rounds": 100})
    sizes = dict.fromkeys(clients.ids, 1)
    first = next(t for t in range(1, 100) if sample(settings.federate.sampling, sizes, 0, t) == ["02"])
    with pytest.raises(NoClientLeft, match=rf"round {first}: every client failed: 02 \(its update is not finite\)"):
        federate(settings, clients.write(tmp_path))


# federate.guard


def break_one(folder, client="01"):
    return lambda: put(folder / CLIENTS, client, x=None)


def test_guard_stop_ends_the_run_and_keeps_its_log(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, "federate.guard": "stop"})
    with pytest.raises(GuardStop, match=r"round 3: clients failed: 01 \(.*x.npy.*\); federate.guard is stop"):
        federate(settings, clients.write(tmp_path), after(2, break_one(tmp_path)))
    rounds, rows = reports(tmp_path)
    assert [row["round"] for row in rounds] == ["1", "2", "3"]
    assert [row["failure"] for row in rounds] == ["", "", "federate.guard: clients failed"]
    assert [row["client"] for row in rows if row["failure"]] == ["01"]
    assert not (tmp_path / "models" / "global.h5").exists()


def test_guard_continue_goes_on_and_tries_the_client_again(clients, settings_of, tmp_path):
    shard = shard_of(clients.write(tmp_path) / CLIENTS, "01")
    content = shard.read_bytes()

    def watch(row, *_):
        if row["round"] == 2:
            shard.unlink()
        if row["round"] == 4:
            shard.write_bytes(content)

    federate(settings_of(BASE), tmp_path, watch)
    rounds, rows = reports(tmp_path)
    assert [row["num_failed"] for row in rounds] == ["0", "0", "1", "1", "0", "0"]
    assert [row["finite"] for row in rows if row["client"] == "01"] == ["True"] * 2 + ["False"] * 2 + ["True"] * 2


@pytest.mark.parametrize(("rate", "best_is_last"), [(0.2, True), (60.0, False)], ids=["falling loss", "jumping loss"])
def test_guard_rollback_goes_back_to_the_best_model_without_the_client(
    rate, best_is_last, clients, settings_of, tmp_path, caplog
):
    # The batch holds all data, so the training loss is exact.
    dotted = {"federate.client.learning_rate": rate, "federate.client.batch_size": 50}
    settings = settings_of({**BASE, **dotted, "federate.guard": "rollback"})
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        federate(settings, clients.write(tmp_path), after(3, break_one(tmp_path)))
    rounds, rows = reports(tmp_path)
    # Round 4 fails. There are checkpoints after rounds 0 to 3; the training loss of each is measured in the next round.
    losses = [float(row["train_loss"]) for row in rounds[:4]]
    best = int(np.argmin(losses))
    assert (best == 3) == best_is_last
    assert any(message.endswith(f"back to the model after round {best}") for message in caplog.messages)
    for kept, restored in zip(checkpoint(tmp_path, best), checkpoint(tmp_path, 4), strict=True):
        np.testing.assert_array_equal(kept, restored)
    assert [row["num_clients"] for row in rounds] == ["5", "5", "5", "5", "4", "4"]
    assert [row["round"] for row in rows if row["client"] == "01"] == ["1", "2", "3", "4"]
    assert (tmp_path / "models" / "global.h5").exists()


def test_guard_rollback_that_has_left_out_everyone_ends_the_run(make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(4, 4))
    settings = settings_of({**BASE, "federate.guard": "rollback"})

    def watch(row, *_):
        if row["round"] in (1, 2):
            break_one(tmp_path, f"0{row['round'] - 1}")()

    with pytest.raises(NoClientLeft, match=r"round 3: every client failed: 01"):
        federate(settings, clients.write(tmp_path), watch)


HUGE_STEPS = {"federate.server_optimizer.learning_rate": 3e38, "federate.client.learning_rate": 50.0}


def initial_params(settings):
    return flatten(build("logistic", (3, 3, 1), 3, settings.seed))


def test_no_round_is_trained_on_a_model_that_is_not_finite(clients, settings_of, tmp_path, caplog):
    settings = settings_of({**BASE, **HUGE_STEPS})
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        federate(settings, clients.write(tmp_path))
    rounds, rows = reports(tmp_path)
    assert len(rounds) == 6
    assert {row["server_update_norm"] for row in rounds} == {"0.0"}
    assert all(row["loss_before"] and row["finite"] == "True" for row in rows)
    np.testing.assert_array_equal(load_params(tmp_path), initial_params(settings))
    assert sum("not finite; the model before it is kept" in message for message in caplog.messages) == 6


def test_guard_stop_ends_the_run_when_the_model_is_not_finite(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, **HUGE_STEPS, "federate.guard": "stop"})
    with pytest.raises(GuardStop, match=r"round 1: the loss or the model is not finite; federate\.guard is stop"):
        federate(settings, clients.write(tmp_path))
    (row,) = reports(tmp_path)[0]
    assert row["failure"] == "federate.guard: the loss or the model is not finite"


def test_guard_rollback_of_the_model_is_bounded_also_when_the_run_was_killed_between(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, **HUGE_STEPS, "federate.guard": "rollback"})

    def kill():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(settings, clients.write(tmp_path), after(2, kill))
    with pytest.raises(GuardStop, match="round 4: the loss or the model is not finite, after 3 rollbacks"):
        federate(settings, tmp_path)
    assert [row["round"] for row in reports(tmp_path)[0]] == ["1", "2", "3", "4"]


def test_validation_loss_that_is_not_finite_is_the_guards_business(clients, settings_of, tmp_path):
    x, y = clients.data[TEST]
    clients.data[TEST] = np.full_like(x, 3e38), y
    clients.write(tmp_path)
    with pytest.raises(GuardStop, match="round 1: the loss or the model is not finite"):
        federate(settings_of({**BASE, "federate.guard": "stop"}), tmp_path)
    federate(settings_of({**BASE, "federate.rounds": 1}), tmp_path)
    # The loss was measured and is not finite. An empty cell would mean that it was not measured.
    (row,) = reports(tmp_path)[0]
    assert row["val_loss"] in {"nan", "inf"}


# Clients that are broken from the beginning.


def test_client_that_is_broken_from_the_beginning_is_named_once(clients, settings_of, tmp_path):
    clients.write(tmp_path)
    break_one(tmp_path)()
    federate(settings_of({**BASE, "federate.rounds": 2}), tmp_path)
    rounds, rows = reports(tmp_path)
    assert [(row["num_clients"], row["num_failed"]) for row in rounds] == [("5", "1"), ("4", "0")]
    (row,) = (row for row in rows if row["client"] == "01")
    assert (row["round"], row["finite"], row["weight"], row["num_examples"]) == ("1", "False", "0.0", "")
    assert "x.npy" in row["failure"]
    assert str(tmp_path) not in row["failure"]


def test_a_client_whose_shard_is_gone_since_preprocess_is_named(clients, settings_of, tmp_path, caplog):
    (clients.write(tmp_path) / "data/clients/clients_001.npz").unlink()
    federate(settings_of({**BASE, "federate.rounds": 2}), tmp_path)
    rounds, rows = reports(tmp_path)
    assert [(row["num_clients"], row["num_failed"]) for row in rounds] == [("5", "1"), ("4", "0")]
    (row,) = (row for row in rows if row["client"] == "01")
    assert row["failure"] == "cannot read clients_001.npz: No such file or directory"
    assert "01: left out: cannot read clients_001.npz: No such file or directory" in caplog.messages


def test_a_client_that_preprocess_did_not_write_ends_federate_before_it_begins(clients, settings_of, tmp_path):
    folder = clients.write(tmp_path)
    shard = shard_of(folder / CLIENTS, "01")
    x, y = map(npy, clients.data["01"])
    write_members(shard, {**members_of(shard), "07/x.npy": x, "07/y.npy": y})
    with pytest.raises(DataError, match=r"got 2 more members \(07/x.npy, 07/y.npy\): run the step preprocess again"):
        federate(settings_of(BASE), folder)
    assert [path.name for path in folder.iterdir()] == ["data"]


ONSET = 13
RISING = {
    **BASE,
    "federate.rounds": 20,
    "federate.client.batch_size": 40,
    "federate.faults.kind": "reversed_update",
    "federate.faults.clients": ["00"],
    "federate.faults.from_round": ONSET,
    "federate.faults.factor": 30.0,
}


@pytest.fixture
def many(make_clients):
    return make_clients(sizes=(40,) * 5, num_test=60)


def test_guard_stops_within_two_rounds_of_the_onset_of_a_rise(many, settings_of, tmp_path):
    with pytest.raises(GuardStop, match=r"val_loss has risen since round \d+, from .*; federate\.guard is stop"):
        federate(settings_of({**RISING, "federate.guard": "stop"}), many.write(tmp_path))
    last = reports(tmp_path)[0][-1]["round"]
    assert ONSET <= int(last) <= ONSET + 2


def test_guard_goes_back_from_a_rise_to_the_best_model_before_it(many, settings_of, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="tasks.federate.loop"):
        federate(settings_of({**RISING, "federate.guard": "rollback"}), many.write(tmp_path))
    (back,) = [record.getMessage() for record in caplog.records if "back to the model" in record.getMessage()]
    fired, best = (int(found) for found in re.findall(r"round (\d+): val_loss .* after round (\d+)", back)[0])
    assert ONSET <= fired <= ONSET + 2
    losses = {int(row["round"]): float(row["train_loss"]) for row in reports(tmp_path)[0]}
    # A round measures the training loss of the model before it. The round after the rollback began with the best model.
    assert best + 1 == min((r for r in losses if r <= fired), key=lambda r: losses[r])
    np.testing.assert_allclose(losses[fired + 1], losses[best + 1], rtol=1e-5)  # all clients, a full batch each


def test_guard_leaves_a_run_alone_whose_loss_falls(many, settings_of, tmp_path):
    calm = {name: value for name, value in RISING.items() if "faults" not in name}
    federate(settings_of({**calm, "federate.guard": "stop"}), many.write(tmp_path))
    assert len(reports(tmp_path)[0]) == 20


def test_guard_decides_on_a_client_that_is_broken_from_the_beginning(clients, settings_of, tmp_path, caplog):
    clients.write(tmp_path)
    break_one(tmp_path)()
    with pytest.raises(GuardStop, match=r"round 1: clients failed: 01 \(.*x.npy"):
        federate(settings_of({**BASE, "federate.guard": "stop"}), tmp_path)
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        federate(settings_of({**BASE, "federate.guard": "rollback"}), tmp_path)
    assert sum("back to the model after round" in message for message in caplog.messages) == 1
    assert [row["num_failed"] for row in reports(tmp_path)[0]] == ["1", "0", "0", "0", "0", "0"]


@pytest.mark.parametrize("cut", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_run_with_a_rollback_that_is_killed_ends_with_the_same_bytes(cut, clients, settings_of, tmp_path):
    # Client 02 fails whenever it is drawn. With this seed it is first drawn in round 3, before a checkpoint.
    blow_up(clients, "02")
    dotted = {
        **BASE,
        "federate.rounds": 8,
        "federate.checkpoint_every": 2,
        "federate.guard": "rollback",
        "federate.sampling.kind": "uniform",
        "federate.sampling.clients_per_round": 3,
        "federate.server_optimizer.kind": "momentum",
    }
    sampling, sizes = settings_of(dotted).federate.sampling, dict.fromkeys(clients.ids, 1)
    drawn = {s: [t for t in range(1, 9) if "02" in sample(sampling, sizes, s, t)] for s in range(100)}
    seed = next(s for s, rounds in drawn.items() if rounds[:1] == [3])
    settings = settings_of({**dotted, "seed": seed})
    federate(settings, clients.write(tmp_path / "whole"))
    _, rows = reports(tmp_path / "whole")
    assert [row["round"] for row in rows if row["client"] == "02"] == ["3"]

    def kill():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(settings, clients.write(tmp_path / "killed"), after(cut, kill))
    log = (tmp_path / "killed" / "models" / "checkpoints" / "federate" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["excluded"] == ["02"]
    federate(settings, tmp_path / "killed")
    for name in ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Ending early, a public set, and who is drawn by loss.


def test_early_stopping_ends_the_phase_and_pruning_goes_on_from_there(clients, settings_of, tmp_path):
    dotted = {
        **BASE,
        "federate.rounds": 30,
        "federate.checkpoint_every": 4,
        "federate.client.learning_rate": 60.0,  # the loss jumps
        "federate.early_stopping.patience": 3,
        "prune.rounds": 2,
        "prune.end_round": 2,
    }
    settings = settings_of(dotted)
    federate(settings, clients.write(tmp_path))
    rounds = reports(tmp_path)[0]
    losses = [float(row["train_loss"]) for row in rounds]
    # The last of the first three rounds in a row without a loss below the lowest loss before them.
    ends = next(t for t in range(1, 31) if stops_early(settings.federate.early_stopping, losses[:t]))
    assert len(rounds) == ends < 30
    assert min(losses[-3:]) >= min(losses[:-3])
    prune(settings, tmp_path)
    merged = read_rows(tmp_path / "reports" / "rounds.csv")
    assert [int(row["round"]) for row in merged] == list(range(1, ends + 3))
    assert [row["phase"] for row in merged[-3:]] == ["federate", "prune", "prune"]


def test_a_watch_is_told_how_many_rounds_are_done_and_how_many_there_are(clients, settings_of, tmp_path):
    told = []
    early = {"federate.rounds": 9, "federate.early_stopping.patience": 2, "federate.early_stopping.min_delta": 50}
    clients.write(tmp_path)
    settings = settings_of({**BASE, **early, "prune.rounds": 2, "prune.begin_round": 1, "prune.end_round": 2})

    def watch(row, done, total):
        told.append((row["round"], done, total))

    # No loss falls by 50 nats, so training ends two rounds after the first.
    federate(settings, tmp_path, watch)
    assert told == [(1, 1, 9), (2, 2, 9), (3, 3, 3)]
    told.clear()
    prune(settings, tmp_path, watch)
    assert told == [(4, 1, 2), (5, 2, 2)]


def test_run_that_stopped_early_and_is_killed_ends_with_the_same_bytes(clients, settings_of, tmp_path):
    dotted = {
        **BASE,
        "federate.rounds": 30,
        "federate.client.learning_rate": 60.0,
        "federate.early_stopping.patience": 3,
    }
    settings = settings_of({**dotted, "federate.checkpoint_every": 4})
    federate(settings, clients.write(tmp_path / "whole"))
    last = len(reports(tmp_path / "whole")[0])

    def kill(row, *_):
        if row["round"] == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(settings, clients.write(tmp_path / "killed"), kill)
    federate(settings, tmp_path / "killed")
    for name in ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_public_set_is_trained_on_as_if_it_were_the_clients_own(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, "federate.rounds": 3, "federate.shared_fraction": 0.2})
    clients.write(tmp_path / "shared")
    x, y = cohort_of(settings, tmp_path / "shared").public
    federate(settings, tmp_path / "shared")
    for client in clients.ids:
        own = clients.data[client]
        clients.data[client] = np.concatenate([own[0], x]), np.concatenate([own[1], y])
    federate(settings_of({**BASE, "federate.rounds": 3}), clients.write(tmp_path / "own"))
    np.testing.assert_allclose(load_params(tmp_path / "shared"), load_params(tmp_path / "own"), atol=1e-6)
    assert reports(tmp_path / "shared") == reports(tmp_path / "own")


def test_power_of_choice_takes_the_candidates_of_the_highest_loss(clients, settings_of, tmp_path):
    sampling = {"kind": "power_of_choice", "clients_per_round": 2, "candidates": 3}
    settings = settings_of({**BASE, "federate.rounds": 4, **{f"federate.sampling.{k}": v for k, v in sampling.items()}})
    federate(settings, clients.write(tmp_path))
    sizes, rows = {c: len(clients.data[c][1]) for c in clients.ids}, reports(tmp_path)[1]
    for t in range(1, 5):
        (params,) = (leaf.astype(np.float64) for leaf in checkpoint(tmp_path, t - 1) if leaf.shape == (30,))
        kernel, bias = params[:27].reshape(9, 3), params[27:]
        losses = {}
        for client in sample(settings.federate.sampling, sizes, settings.seed, t):
            x, y = clients.data[client]
            logits = x.reshape(len(y), -1) @ kernel + bias
            losses[client] = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])
        assert len(losses) == 3
        expected = sorted(sorted(losses, key=losses.get)[-2:])
        assert [row["client"] for row in rows if row["round"] == str(t)] == expected


def test_candidate_that_cannot_measure_its_loss_is_drawn_and_named(clients, settings_of, tmp_path):
    sampling = {"kind": "power_of_choice", "clients_per_round": 2, "candidates": 4}
    settings = settings_of({**BASE, "federate.rounds": 8, **{f"federate.sampling.{k}": v for k, v in sampling.items()}})
    clients.write(tmp_path)
    federate(settings, tmp_path, after(1, break_one(tmp_path)))
    sizes, rows = {c: len(clients.data[c][1]) for c in clients.ids}, reports(tmp_path)[1]
    candidates = [t for t in range(2, 9) if "01" in sample(settings.federate.sampling, sizes, settings.seed, t)]
    assert candidates
    assert [int(row["round"]) for row in rows if row["client"] == "01" and row["failure"]] == candidates


# What the guard remembers, over rounds with given losses.


class Scripted:
    """A runner whose round t ends with the t-th of `losses`; its state is how often the model was trained."""

    def __init__(self, losses):
        self.losses = losses

    def fresh(self):
        return ServerState(np.zeros(1, np.float32), [], [])

    def step(self, state, round_num, excluded=()):
        trained = replace(state, params=state.params + 1)
        loss = float(self.losses[round_num - 1])
        row = {"round": round_num, "train_loss": loss, "val_loss": loss, "val_accuracy": 0.5, "drift": 0.0}
        return Stepped(trained, RoundLine(round_num, row, []), {}, True)


@pytest.fixture
def scripted(settings_of, tmp_path):
    """(losses by round, ...) -> the log lines; with `cut`, of a run that is killed after that round."""

    def run(losses, cut=None, guard="rollback", folder=tmp_path):
        settings = settings_of({"federate.guard": guard, "federate.checkpoint_every": 1})
        phase, cohort = Phase("federate", 1, len(losses)), Cohort({}, {}, (1,), 2, "none", "", np.zeros(0), np.zeros(0))

        def watch(row, *_):
            if row["round"] == cut:
                raise KeyboardInterrupt

        with closing(Checkpoints(checkpoints_of(folder, phase.name), {"run": 1})) as checkpoints:
            loop = Loop(settings, folder, cohort, Scripted(losses), phase, checkpoints, watch)
            try:
                loop.run()
            except KeyboardInterrupt:
                assert cut
            return [RoundLine.of(line) for line in checkpoints.log]

    return run


def losses_of(*levels):
    """One loss a round: the level with noise of 1 % of it."""
    return np.array(levels) * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(levels)))


def rollbacks(lines):
    """The rounds after which the guard went back."""
    counts = [0, *(line.model_rollbacks for line in lines)]
    return [line.round for line, before in zip(lines, counts, strict=False) if line.model_rollbacks > before]


def test_guard_goes_back_once_from_a_rise_that_the_way_back_does_not_end(scripted):
    # The loss is ten times as high from round 10 on. The guard compares losses after the rollback only with each other.
    lines = scripted(losses_of(*[1.0] * 9, *[10.0] * 10))
    (fired,) = rollbacks(lines)
    assert 10 <= fired <= 11
    assert [line.watched_from for line in lines] == [1] * (fired - 1) + [fired + 1] * (20 - fired)


def test_guard_goes_back_from_a_second_rise_after_a_rollback(scripted):
    lines = scripted(losses_of(*[1.0] * 9, *[10.0] * 12, *[100.0] * 3))
    first, second = rollbacks(lines)
    assert 10 <= first <= 11
    assert 22 <= second <= 23
    assert lines[-1].watched_from == second + 1


def test_guard_of_a_run_that_was_killed_after_a_rollback_knows_of_it(scripted, tmp_path):
    losses = losses_of(*[1.0] * 9, *[10.0] * 7)
    whole = scripted(losses, folder=tmp_path / "whole")
    (fired,) = rollbacks(whole)
    assert len(scripted(losses, cut=fired + 1)) == fired + 1
    assert scripted(losses) == whole


def test_guard_lets_a_rise_pass_that_noise_makes_in_one_of_a_hundred_runs(scripted):
    # At least eight losses are needed for a test. 576 is the first seed whose noise is a rise at significance 0.01.
    losses = np.exp(0.1 * np.random.default_rng(576).standard_normal(8))
    found = find_increase(range(1, 9), losses, 0.01)
    assert (found.detected, found.until) == (True, 8)
    assert not find_increase(range(1, 9), losses, 0.001).detected
    assert rollbacks(scripted(losses)) == []


def test_guard_does_not_go_back_from_a_rise_that_is_over(scripted):
    # Rounds 3 to 5 are high before the first test, in round 8.
    assert rollbacks(scripted(losses_of(1.0, 1.0, 1.0, 50.0, 50.0, 1.0, 1.0, 1.0, 1.0, 1.0))) == []


def rows_of(*train_losses):
    return [{"round": t, "train_loss": loss} for t, loss in enumerate(train_losses, start=1)]


@pytest.mark.parametrize(
    ("rounds", "train_losses", "best"),
    [
        # Round t measures the model after round t − 1.
        ([0, 1, 2, 3], (5.0, 3.0, 1.0, 2.0), 2),
        ([0, 2, 4], (5.0, 1.0, 3.0, 2.0, 4.0), 2),  # there is no checkpoint after round 1
        ([0, 1, 2], (2.0, 1.0, 1.0), 2),  # of two equal losses the later one
        ([0, 1, 2], (2.0, np.nan, np.inf), 0),
        ([0, 1, 2], (np.nan, 3.0, 2.0), 2),
        ([0, 1, 2], (2.0, None, 3.0), 0),
        ([0, 1, 2], (np.nan, np.nan, np.nan), 2),
        ([0, 1, 2], (), 2),
    ],
)
def test_best_checkpoint_has_the_lowest_training_loss_that_was_measured(rounds, train_losses, best):
    assert best_checkpoint(rounds, rows_of(*train_losses)) == best
