"""Replays of a run with a simulated fault: they reproduce the run, and its data are those of its last round."""

import numpy as np
import pytest

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.engine import replayer
from tasks.federate import federate
from tasks.files import read_rows, write_rows
from tasks.settings import FaultSettings

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 8,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 2,
}
SIZES = (20, 24, 17, 30)


def with_fault(kind, *clients, **chosen):
    faults = {"kind": kind, "clients": list(clients), **chosen}
    return {**BASE, **{f"federate.faults.{name}": value for name, value in faults.items()}}


@pytest.fixture(scope="module")
def run(make_clients, settings_of, tmp_path_factory):
    """({setting: value}) -> the settings and the workspace of a finished run."""

    def made(dotted):
        folder = make_clients(sizes=SIZES, num_test=60).write(tmp_path_factory.mktemp("run"))
        federate(settings_of(dotted), folder)
        return settings_of(dotted), folder

    return made


def logged(folder, name):
    return [float(row[name] or "nan") for row in read_rows(folder / "reports/rounds.csv")]


def test_replay_of_absent_clients_is_the_run_and_without_the_fault_the_run_without_it(run, computations):
    drill, honest = run(with_fault("absent", "00", "01", "02", from_round=3, until_round=7)), run(BASE)
    healthy = Change("", {"federate.faults": FaultSettings().model_dump(mode="json")})
    with replayer(*drill, computations) as replays:
        replays.go_to(0)
        same, changed = replays.begin(NO_CHANGE, 0), replays.begin(healthy, 0)
        for replay in (same, changed):
            replays.advance(replay, 8)
    np.testing.assert_allclose(same.losses["val_loss"], logged(drill[1], "val_loss"), rtol=1e-6)
    np.testing.assert_allclose(changed.losses["val_loss"], logged(honest[1], "val_loss"), rtol=1e-6)
    # In a round without a client, the training loss of the last round with a client counts.
    last, expected = np.nan, []
    for loss in logged(drill[1], "train_loss"):
        last = loss if np.isfinite(loss) else last
        expected.append(last)
    assert np.isnan(logged(drill[1], "train_loss")).any()
    np.testing.assert_allclose(same.losses["train_loss"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("until", "last", "flipped"),
    [
        (0, 8, True),
        (8, 8, True),
        (7, 8, False),
        (7, 6, True),  # the run ended early, so its data are those of round 6
        (7, 2, False),  # it ended before the fault
    ],
)
def test_data_of_a_fault_are_those_of_the_last_round(until, last, flipped, run, computations):
    settings, folder = run(with_fault("flipped_labels", "01", from_round=3, until_round=until))
    rows = read_rows(folder / "reports/rounds.csv")
    write_rows(folder / "reports/rounds.csv", list(rows[0]), rows[:last])
    with replayer(settings, folder, computations) as replays:
        replays.go_to(0)
        seen = replays.at_clients(lambda client, examples: examples[1])
        stored = {client: replays.cohort.clients[client].labels for client in seen}
        sent = replays.repeated(1, ["01"])["01"]
        as_drawn = replays.updates(1, ["01"])["01"]  # healthy, since the fault begins in round 3
    for client, labels in seen.items():
        # Three classes: y becomes 2 - y, which turns the counts around.
        turn = -1 if flipped and client == "01" else 1
        np.testing.assert_array_equal(np.bincount(labels, minlength=3), stored[client][::turn])
    assert not np.array_equal(stored["01"], stored["01"][::-1])
    assert np.array_equal(sent.update, as_drawn.update) == (not flipped)


def test_surgery_leaves_a_fault_that_ended_in_its_rounds(run, computations):
    settings, folder = run(with_fault("flipped_labels", "01", from_round=3, until_round=4))
    nothing = Change("", surgery={"nothing": lambda sites: sites})
    with replayer(settings, folder, computations) as replays:
        replays.go_to(0)
        replay = replays.begin(nothing, 0)
        replays.advance(replay, 8)
    np.testing.assert_allclose(replay.losses["val_loss"], logged(folder, "val_loss"), rtol=1e-6)
