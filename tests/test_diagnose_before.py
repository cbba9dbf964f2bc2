"""Missing clients, data of most clients that drifted, and hold-out data that were replaced: proven on real rounds."""

import shutil

import numpy as np
import pytest

from tasks.clients import CLIENTS, TEST
from tasks.diagnose import diagnosis
from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import to_json
from tasks.federate import federate
from tasks.federate.inputs import Inputs
from tasks.federate.runner import Runner
from tasks.files import read_rows, write_json, write_rows
from tasks.round_log.read import read_clients, read_rounds
from tests.shards import write_sites

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 20,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.3,
}
ONSET = 12
"""After the checkpoint of round 10; there is one every 5 rounds."""
AWAY = ["04", "05"]
"""The only clients with label 2."""
MOST = ["00", "01", "02", "03"]
"""The clients whose data drift."""


@pytest.fixture(scope="module")
def sites():
    """(rounds of labels) -> examples of 6 clients and the hold-out data, whose labels follow one linear rule."""
    rng = np.random.default_rng(2)
    rule = rng.standard_normal((9, 3))

    def examples(number, label=None):
        x = 4 * rng.random((40 * number, 3, 3, 1), dtype=np.float32) - 2
        y = (x.reshape(len(x), -1) @ rule).argmax(1).astype(np.int32)
        kept = np.flatnonzero(y == label)[:number] if label is not None else np.arange(number)
        return x[kept], y[kept]

    def made(one_class):
        clients = {f"{k:02}": examples(40, k // 2 if one_class else None) for k in range(6)}
        return {**clients, TEST: examples(120)}

    return made


def write(folder, data):
    """Writes the clients' data as preprocess does."""
    shutil.rmtree(folder / CLIENTS, ignore_errors=True)
    write_sites(folder / CLIENTS, data)
    sizes = {client: len(y) for client, (_, y) in data.items() if client != TEST}
    form = {"input_shape": [3, 3, 1], "num_classes": 3}
    write_json(folder / CLIENTS / "preprocess.json", {"clients": sizes, **form})
    return folder


def diagnosed(folder, settings, computations):
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = to_json(diagnosis(*logs, settings, folder, computations))
    assert contradictions(found) == []
    return found


@pytest.fixture(scope="module")
def left(sites, settings_of, tmp_path_factory):
    """A run in which two clients stay away from round 12 on, and no setting says so; and its data."""
    data = sites(one_class=True)
    folder = write(tmp_path_factory.mktemp("left"), data)
    drawn = Runner._sample

    def without(self, state, round_num, excluded):
        return [c for c in drawn(self, state, round_num, excluded) if round_num < ONSET or c not in AWAY]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_sample", without)
        federate(settings_of(BASE), folder)
    return folder, data


def the_cause(found, kind):
    (cause,) = found["causes"]
    assert cause["replay"]["kind"] == kind
    assert cause["remedy"] is None
    assert cause["replay"]["removes"]["low"] > 0.2
    return cause


def test_simulated_absence_is_undone_in_a_replay(sites, settings_of, tmp_path, computations):
    fault = {"federate.faults.kind": "absent", "federate.faults.clients": AWAY, "federate.faults.from_round": ONSET}
    settings = settings_of({**BASE, **fault})
    folder = write(tmp_path, sites(one_class=True))
    federate(settings, folder)
    cause = the_cause(diagnosed(folder, settings, computations), "change")
    assert (cause["cause"], cause["clients"]) == ("missing_clients", AWAY)
    assert cause["replay"]["change"]["federate.faults.kind"] == "none"
    assert "bring clients 04 and 05 back" in cause["advice"]
    # The clients take part up to round 11, and are missing in rounds 12 to 20.
    assert (cause["evidence"][0]["signal"], cause["evidence"][0]["value"]) == ("rounds_missed", 9)


def test_clients_that_are_back_are_proven_by_the_log(left, settings_of, computations):
    folder, _ = left
    cause = the_cause(diagnosed(folder, settings_of(BASE), computations), "log_without")
    assert (cause["cause"], cause["clients"], cause["rounds"]) == ("missing_clients", AWAY, [ONSET, 20])
    assert cause["replay"]["of_log"]
    assert "advice" not in cause


def test_clients_whose_data_are_gone_are_proven_by_the_log_before(left, settings_of, tmp_path, computations):
    folder, data = left
    gone = tmp_path / "gone"
    shutil.copytree(folder, gone)
    write(gone, {client: examples for client, examples in data.items() if client not in AWAY})
    cause = the_cause(diagnosed(gone, settings_of(BASE), computations), "log_before")
    assert (cause["cause"], cause["clients"]) == ("missing_clients", AWAY)
    # The last model from which 3 rounds or more up to round 11 can be replayed.
    assert (cause["replay"]["from_round"], cause["replay"]["rounds"]) == (5, ONSET - 1 - 5)
    logged = read_rounds(gone / "reports/rounds.csv").losses["val_loss"].values[5 : ONSET - 1]
    assert cause["replay"]["loss_with"] == pytest.approx(logged, rel=1e-5)
    assert not cause["replay"]["of_log"]


def flipped(x, y):
    return x, (2 - y).astype(np.int32)


def inverted(x, y):
    return -x, y


def drifted(sites, settings, folder, change):
    """Makes a run in which the data of four of six clients are changed from round 12 on."""
    data = sites(one_class=False)
    write(folder, data)
    given = Inputs._input

    def with_other_data(self, place):
        inputs = given(self, place)
        if self.plan.round_num >= ONSET and self.clients[place] in MOST:
            inputs["x"], inputs["y"] = change(inputs["x"], inputs["y"])
        return inputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inputs, "_input", with_other_data)
        federate(settings, folder)
    return write(folder, {client: change(*each) if client in MOST else each for client, each in data.items()})


@pytest.mark.parametrize(("change", "kind"), [(flipped, "change"), (inverted, "log_before")])
def test_changed_data_of_most_clients_are_named_and_not_one_of_them(
    change, kind, sites, settings_of, tmp_path, computations
):
    settings = settings_of(BASE)
    found = diagnosed(drifted(sites, settings, tmp_path, change), settings, computations)
    cause = the_cause(found, kind)
    assert (cause["cause"], cause["clients"]) == ("data_drift", MOST)
    assert (cause["evidence"][0]["signal"], cause["evidence"][0]["value"]) == ("clients_with_changed_data", 4)
    # Checkpoints are after rounds 10 and 15: round 11 is the last that is known to have the data of then.
    assert "changed after round 11" in cause["evidence"][0]["says"]
    assert any(each["signal"] == "hold_out_as_before" for each in cause["evidence"])
    assert any("y to 2 - y" in each["says"] for each in cause["evidence"]) is (change is flipped)


def replaced_hold_out(sites, settings, folder, change):
    """Makes a run whose hold-out data are changed from round 12 on: the training does not depend on them."""
    data = sites(one_class=False)
    before, after = write(folder / "before", data), write(folder / "after", {**data, TEST: change(*data[TEST])})
    for run in (before, after):
        federate(settings, run)
    old, new = (read_rows(run / "reports/rounds.csv") for run in (before, after))
    rows = [*old[: ONSET - 1], *new[ONSET - 1 :]]
    write_rows(after / "reports/rounds.csv", list(rows[0]), rows)
    return after


@pytest.mark.parametrize("change", [flipped, inverted])
def test_replaced_hold_out_data_are_named_and_nothing_of_the_model(change, sites, settings_of, tmp_path, computations):
    settings = settings_of(BASE)
    found = diagnosed(replaced_hold_out(sites, settings, tmp_path, change), settings, computations)
    assert found["increase"]["round"] == ONSET
    cause = the_cause(found, "log_before")
    assert (cause["cause"], cause["clients"]) == ("hold_out_shift", [])
    assert cause["evidence"][0]["signal"] == "hold_out_loss_today"
    assert cause["evidence"][0]["value"] > 2 * cause["evidence"][0]["expected"]
    assert "compare the hold-out data" in cause["advice"]
    assert [each["cause"] for each in found["ruled_out"] + found["not_finished"]] == []


def test_missing_clients_are_ruled_out_where_the_loss_rises_with_them(sites, settings_of, tmp_path, computations):
    """Client 05 stays away in the round in which client 00 begins to send reversed updates."""
    fault = {"kind": "reversed_update", "clients": ["00"], "from_round": ONSET, "factor": 8.0}
    settings = settings_of({**BASE, **{f"federate.faults.{name}": value for name, value in fault.items()}})
    folder = write(tmp_path, sites(one_class=False))
    drawn = Runner._sample

    def without(self, state, round_num, excluded):
        return [c for c in drawn(self, state, round_num, excluded) if round_num < ONSET or c != "05"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_sample", without)
        federate(settings, folder)
    found = diagnosed(folder, settings, computations)
    assert [(cause["cause"], cause["clients"]) for cause in found["causes"]] == [("faulty_clients", ["00"])]
    (ruled_out,) = [each for each in found["ruled_out"] if each["cause"] == "missing_clients"]
    assert ruled_out["why"] == "the loss rises again in a replay in which they take part"
