"""Rounds that are run again: where they start, what stays the same, and what they cost."""

import shutil

import numpy as np
import pytest

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import replayer
from tasks.diagnose.replay.surgery import features_aligned, labels_changed_back, labels_dealt_evenly, sizes_made_equal
from tasks.federate import federate
from tasks.files import read_rows

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 20,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 4,
}


@pytest.fixture(scope="module")
def folder(make_clients, settings_of, tmp_path_factory):
    """A finished run of 6 clients; 4 of them take part in a round."""
    made = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path_factory.mktemp("run"))
    federate(settings_of(BASE), made)
    return made


def drawn(folder, round_num):
    rows = read_rows(folder / "reports/clients.csv")
    return {row["client"] for row in rows if int(row["round"]) == round_num}


def logged(folder, name="val_loss"):
    return [float(row[name]) for row in read_rows(folder / "reports/rounds.csv")]


def test_replay_that_changes_nothing_gives_the_run_again(folder, settings_of, computations):
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(11)
        assert replays.from_round == 10  # the last checkpoint before; there is one every 5 rounds
        replay = replays.begin(NO_CHANGE, 0)
        replays.advance(replay, 16)
        # The log has seven digits of each number.
        np.testing.assert_allclose(replay.losses["val_loss"], logged(folder)[10:16], rtol=1e-6)
        np.testing.assert_allclose(replay.losses["train_loss"], logged(folder, "train_loss")[10:16], rtol=1e-6)
        assert replays.loss == pytest.approx(logged(folder)[9], rel=1e-6)
        other = replays.begin(NO_CHANGE, 1)
        replays.advance(other, 16)
        sampled = [[[row["client"] for row in line.clients] for line in one.lines] for one in (replay, other)]
        assert sampled[0] == sampled[1]  # another seed draws other orders, but the same clients
        assert replay.losses != other.losses
        assert replays.spent == 12


def test_replay_from_round_1_is_the_whole_run(folder, settings_of, computations):
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(11)
        replay = replays.begin_after(0, NO_CHANGE)
        replays.advance(replay, 20)
        np.testing.assert_allclose(replay.losses["val_loss"], logged(folder), rtol=1e-6)
        assert (replays.spent, replays.from_round) == (20, 10)


def test_without_checkpoints_the_rounds_are_run_again_to_the_same_bits(folder, settings_of, tmp_path, computations):
    shutil.copytree(folder / "data", tmp_path / "data")
    found = []
    for place in (folder, tmp_path):
        with replayer(settings_of(BASE), place, computations) as replays:
            replays.go_to(7)
            found.append((replays.from_round, replays.params.tobytes()))
    assert found[0] == found[1]
    assert not (tmp_path / "models").exists()


def test_checkpoints_of_other_settings_are_not_used_and_stay(folder, settings_of, computations):
    before = sorted((folder / "models/checkpoints/federate").iterdir())
    with replayer(settings_of({**BASE, "federate.client.learning_rate": 0.1}), folder, computations) as replays:
        replays.go_to(7)
        replay = replays.begin(NO_CHANGE, 0)
        replays.advance(replay, 8)
        assert replay.losses["val_loss"][-1] != logged(folder)[7]
    assert sorted((folder / "models/checkpoints/federate").iterdir()) == before


def test_clients_left_out_are_drawn_and_take_no_part(folder, settings_of, computations):
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(5)
        whole, part = replays.begin(NO_CHANGE, 0), replays.begin(Change("", without=("01", "03")), 0)
        for replay in (whole, part):
            replays.advance(replay, 10)
        for all_of_them, some in zip(whole.lines, part.lines, strict=True):
            named = [[row["client"] for row in line.clients] for line in (all_of_them, some)]
            assert named[1] == [client for client in named[0] if client not in ("01", "03")]


def test_state_goes_on_under_other_algorithms(folder, settings_of, computations):
    changes = [
        {"federate.client.kind": "scaffold"},
        {"federate.server_optimizer.kind": "adam", "federate.server_optimizer.learning_rate": 0.01},
        {"federate.aggregator.kind": "median"},
        {"federate.shared_fraction": 0.1},
        {"federate.exclude": ["02"]},
    ]
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(10)
        first = replays.params.copy()
        for settings in changes:
            replay = replays.begin(Change("", settings), 0)
            np.testing.assert_array_equal(replay.state.params, first)
            replays.advance(replay, 11)
            assert np.isfinite(replay.losses["val_loss"]).all()


def test_examples_dealt_anew_leave_out_who_was_left_out_in_the_run(folder, settings_of, tmp_path, computations):
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data/clients/clients_005.npz").unlink()
    surgery = {"dealt": labels_dealt_evenly(0), "equal": sizes_made_equal(0)}
    with replayer(settings_of({**BASE, "federate.exclude": ["02"]}), tmp_path, computations) as replays:
        replay = replays.begin(Change("", surgery=surgery), 0)
        replays.advance(replay, 1)
    # The clients have 20, 24, 30 and 22 examples, so each gets 24.
    assert {row["client"]: row["num_examples"] for row in replay.lines[0].clients if row["finite"]} == dict.fromkeys(
        ["00", "01", "03", "04"], 24
    )
    assert replay.lines[0].row["num_failed"] == 1  # client 05, whose data are gone


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ({}, {"00": 20, "01": 24, "02": 17, "03": 30, "04": 22, "05": 25}),
        ({"federate.exclude": ["01"]}, {"00": 20, "02": 17, "03": 30, "04": 22, "05": 25}),
        ({"federate.aggregator.weighting": "uniform"}, dict.fromkeys(["00", "01", "02", "03", "04", "05"], 1)),
    ],
    ids=["as they were", "one excluded", "equal weights"],
)
def test_a_replay_begins_with_the_server_vector_of_its_clients_and_weights(
    change, weights, folder, settings_of, computations
):
    with replayer(settings_of({**BASE, "federate.client.kind": "scaffold"}), folder, computations) as replays:
        replays.go_to(5)
        state = replays.begin(Change("", change), 0).state
    kept = [weight * state.kept[client] for client, weight in weights.items()]
    np.testing.assert_allclose(state.shared, sum(kept) / sum(weights.values()), atol=1e-6)
    assert np.abs(state.shared).max() > 1e-3


@pytest.fixture(scope="module")
def left_out(make_clients, settings_of, tmp_path_factory):
    """The settings and the workspace of a run that left out clients 02 and 05 of six."""
    settings = settings_of({**BASE, "federate.rounds": 4, "federate.exclude": ["02", "05"]})
    made = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path_factory.mktemp("left_out"))
    federate(settings, made)
    return settings, made


@pytest.mark.parametrize(
    "surgery",
    [labels_dealt_evenly(0), sizes_made_equal(0), features_aligned, labels_changed_back({"01": [0, 1, 2]})],
    ids=["labels", "sizes", "features", "mixed up"],
)
def test_a_run_that_left_clients_out_is_replayed_with_other_data(surgery, left_out, computations):
    """Surgery changes the clients that take part. Excluded clients stay excluded, by name."""
    further = {"federate.exclude": ["02", "03", "05"]}
    assert took_part(left_out, Change("", surgery={"data": surgery}), computations) == {"00", "01", "03", "04"}
    assert took_part(left_out, Change("", further, surgery={"data": surgery}), computations) == {"00", "01", "04"}


def test_a_run_that_left_clients_out_is_replayed_without_one_more(left_out, computations):
    assert took_part(left_out, Change("", {"federate.exclude": ["02", "03", "05"]}), computations) == {"00", "01", "04"}


def took_part(left_out, change, computations):
    """Returns the clients of rounds 3 and 4 with a change; their losses must be finite."""
    with replayer(*left_out, computations) as replays:
        replays.go_to(2)
        replay = replays.begin(change, 0)
        replays.advance(replay, 4)
        assert np.isfinite(replay.losses["val_loss"]).all()
        return {row["client"] for line in replay.lines for row in line.clients}


@pytest.fixture(scope="module")
def adam(make_clients, settings_of, tmp_path_factory):
    """A finished run whose server optimizer has a state, and its settings."""
    made = make_clients(sizes=(20, 24, 17), num_test=30).write(tmp_path_factory.mktemp("adam"))
    server = {"federate.server_optimizer.kind": "adam", "federate.server_optimizer.learning_rate": 0.01}
    settings = settings_of({"federate.model": "logistic", "federate.rounds": 5, **server})
    federate(settings, made)
    return made, settings


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"federate.server_optimizer.learning_rate": 0.02}, False),
    ],
    ids=["as it was", "another rate"],
)
def test_adam_goes_on_only_with_the_server_as_it_was(change, kept, adam, computations):
    folder, settings = adam
    with replayer(settings, folder, computations) as replays:
        replays.go_to(5)
        momentum = replays.begin(Change("", change), 0).state.optimizer["m"]
    assert bool(np.any(momentum)) is kept


def test_computations_of_runs_that_augment_are_their_own(folder, settings_of, computations):
    """Two runs in one process share the computations that are the same in both."""
    losses = []
    for settings in (BASE, {**BASE, "preprocess.augment.flip": True}):
        with replayer(settings_of(settings), folder, computations) as replays:
            replays.go_to(0)
            replay = replays.begin(NO_CHANGE, 0)
            replays.advance(replay, 1)
            losses.append(replay.losses["val_loss"])
    assert losses[0] != losses[1]


def test_a_cache_of_computations_forgets_the_oldest():
    cache, built = ComputationCache(), []
    for key in [*map(str, range(33)), "1", "0"]:
        assert cache.get(key, lambda key=key: built.append(key) or f"computations {key}") == f"computations {key}"
    assert built == [*map(str, range(33)), "0"]


def test_rounds_without_training_cost_nothing(folder, settings_of, computations):
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(10)
        before, later, broken = (
            replays.begin(Change("", change), 0)
            for change in (
                {"federate.rounds": 8},
                {"federate.rounds": 12},
                {"federate.client.learning_rate": 1e38},
            )
        )
        spent = []
        for replay in (before, later, broken):
            replays.advance(replay, 15)
            spent.append(replays.spent - sum(spent))
    assert spent == [0, 2, 1]
    # If training ended before the replay starts, the model stays; if later, the last loss stays.
    assert before.losses["val_loss"] == [replays.loss] * 5
    assert before.losses["train_loss"] == [np.inf] * 5
    assert later.losses["val_loss"][1:] == [later.lines[-1].row["val_loss"]] * 4
    assert broken.losses["val_loss"] == [np.inf] * 5


def test_a_round_whose_clients_are_all_left_out_changes_nothing(folder, settings_of, computations):
    with replayer(settings_of(BASE), folder, computations) as replays:
        replays.go_to(10)
        replay = replays.begin(Change("", without=("00", "01", "02", "03", "04")), 0)
        replays.advance(replay, 20)
    trained = [line.round for line in replay.lines if line.clients]
    assert trained == [round_num for round_num in range(11, 21) if {"05"} <= drawn(folder, round_num)]
    assert 0 < len(trained) < 10
    assert not replay.broken
    for name, losses in replay.losses.items():
        by_round = {line.round: line.row[name] for line in replay.lines if line.clients}
        expected = [by_round[max(r for r in trained if r <= now)] for now in range(trained[0], 21)]
        assert losses[trained[0] - 11 :] == expected
