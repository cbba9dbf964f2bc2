"""Logged losses: unchanged data give the same loss again, changed data do not."""

import json
import shutil

import numpy as np
import pytest

from tasks.clients import CLIENTS, TEST
from tasks.diagnose import step
from tasks.diagnose.changed_data import data_changed
from tasks.diagnose.diagnosis import to_json
from tasks.diagnose.evidence.memory import Memory, as_trained, relabelling_in_words, relabellings, same
from tasks.diagnose.evidence.remembered import memories_of, risen_between, risen_with_their_data
from tasks.diagnose.evidence.repeated import sent_over_trained
from tasks.diagnose.limits import FROM_DATA
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.replay.engine import replayer
from tasks.diagnose.replay.surgery import labels_changed_back
from tasks.diagnose.step import diagnosis
from tasks.errors import DataError
from tasks.federate import federate
from tasks.federate.checkpoint import Checkpoints, checkpoints_of, load_state
from tasks.federate.state import ServerState
from tasks.files import read_json, read_rows, write_json, write_rows
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog, read_clients, read_rounds
from tests.shards import put, read_client, write_client, write_sites

SETTINGS = {
    "federate.model": "logistic",
    "federate.rounds": 20,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
}
FIRST = 16


def record_as(folder, identity):
    """Writes the run's checkpoints and log again, as if a run with the identity `identity` had written them."""
    place = checkpoints_of(folder, "federate")
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    states = {}
    for path in place.glob("round_*.npz"):
        with np.load(path) as arrays:
            *others, params = (arrays[name] for name in arrays.files if name != "log")
            states[int(path.stem[6:])] = ServerState(params, [], others)
    checkpoints = Checkpoints(place, identity)
    checkpoints.save(0, states[0])
    for line in lines:
        checkpoints.log.append(line)
        if line["round"] in states:
            checkpoints.save(line["round"], states[line["round"]])
    checkpoints.close()


@pytest.fixture(scope="module")
def run(make_clients, settings_of, tmp_path_factory):
    """A finished run of 6 clients, with checkpoints after rounds 5, 10, 15 and 20."""
    made = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path_factory.mktemp("run"))
    federate(settings_of(SETTINGS), made)
    return made


def remembered(folder, settings, computations):
    log = read_clients(folder / "reports/clients.csv")
    with replayer(settings, folder, computations) as replays:
        return memories_of(replays, Probe(replays.model), log, FIRST).memories


def changed(run, to, client, change):
    shutil.copytree(run, to)
    x, y = change(*read_client(to / CLIENTS, client))
    write_client(to / CLIENTS, client, x, y)
    described = read_json(to / CLIENTS / "preprocess.json")
    described["clients"][client] = len(y)  # as a new run of preprocess would write
    write_json(to / CLIENTS / "preprocess.json", described)
    return to


def test_data_that_are_the_same_give_the_logged_loss_again(run, settings_of, computations):
    found = remembered(run, settings_of(SETTINGS), computations)
    assert sorted(found) == [f"{k:02}" for k in range(6)]
    for memory in found.values():
        assert not memory.changed
        assert memory.now == pytest.approx(memory.logged, rel=1e-5)


def test_augmented_data_give_it_again_too(make_clients, settings_of, tmp_path, computations):
    settings = settings_of({**SETTINGS, "federate.rounds": 12, "preprocess.augment.brightness": 0.3})
    folder = make_clients(sizes=(30,) * 4, num_test=40).write(tmp_path)
    federate(settings, folder)
    found = remembered(folder, settings, computations)
    assert len(found) == 4
    assert not any(memory.changed for memory in found.values())


OWN_MODEL = """
from tensorflow.keras import Sequential, layers


def model(input_shape, num_classes):
    hidden = [layers.Dense(8, "relu", kernel_regularizer="l2"), layers.Dropout(0.5)]
    return Sequential([layers.Input(input_shape), layers.Flatten(), *hidden, layers.Dense(num_classes)])
"""


def test_losses_with_dropout_and_a_penalty_are_given_again_too(
    make_clients, settings_of, tmp_path, monkeypatch, computations
):
    (tmp_path / "memory_model.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    settings = settings_of({**SETTINGS, "federate.rounds": 12, "federate.model": "memory_model:model"})
    folder = make_clients(sizes=(30,) * 4, num_test=40).write(tmp_path / "run")
    federate(settings, folder)
    found = remembered(folder, settings, computations)
    assert len(found) == 4
    assert not any(memory.changed for memory in found.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, classes: classes - 1 - y, "y to {last} - y"),
        (lambda y, classes: (y + 1) % classes, "y to y + {last} modulo {classes}"),
        (lambda y, classes: np.where(y == 0, 1, np.where(y == 1, 0, y)), "0 and 1 swapped"),
    ],
)
def test_labels_that_were_mixed_up_are_known(change, words, run, settings_of, tmp_path, computations):
    classes = 1 + max(int(read_client(run / CLIENTS, f"{k:02}")[1].max()) for k in range(6))
    assert classes > 2
    folder = changed(run, tmp_path / "run", "02", lambda x, y: (x, change(y, classes).astype(np.int32)))
    found = remembered(folder, settings_of(SETTINGS), computations)
    assert [client for client, memory in found.items() if memory.changed] == ["02"]
    then = found["02"].relabelling
    assert relabelling_in_words(then) == words.format(last=classes - 1, classes=classes)
    back = labels_changed_back({"02": then})({"02": read_client(folder / CLIENTS, "02")})
    np.testing.assert_array_equal(back["02"][1], read_client(run / CLIENTS, "02")[1])


def test_other_features_are_a_change_and_no_relabelling(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "run", "04", lambda x, y: (-x, y))
    memory = remembered(folder, settings_of(SETTINGS), computations)["04"]
    assert memory.changed
    assert memory.relabelling is None


def test_another_number_of_examples_is_not_compared(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "run", "04", lambda x, y: (x[:20], y[:20]))
    found = remembered(folder, settings_of(SETTINGS), computations)
    assert "04" not in found
    assert len(found) == 5


def test_where_most_have_changed_nothing_is_said_of_one(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "0", "00", lambda x, y: (-x, y))
    for k in range(1, 4):
        folder = changed(folder, tmp_path / f"{k}", f"{k:02}", lambda x, y: (-x, y))
    assert remembered(folder, settings_of(SETTINGS), computations) == {}


def test_clients_with_another_number_of_examples_count_as_changed(run, settings_of, tmp_path, computations):
    folder = run
    for k in range(4):
        folder = changed(folder, tmp_path / f"{k}", f"{k:02}", lambda x, y: (x[:20], y[:20]))
    assert remembered(folder, settings_of(SETTINGS), computations) == {}


def test_checkpoints_of_other_data_are_those_of_the_run(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "run", "02", lambda x, y: (-x, y))
    with replayer(settings_of(SETTINGS), folder, computations) as replays:
        assert replays.saved == [0, 5, 10, 15, 20]
        replays.go_to(17)
        assert replays.from_round == 15


def test_data_that_changed_after_the_rise_are_not_held_against_it(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "run", "02", lambda x, y: (-x, y))
    log = read_clients(folder / "reports/clients.csv")
    with replayer(settings_of(SETTINGS), folder, computations) as replays:
        # Rounds 11 and 16 were logged with the earlier data, so the data of today did not cause the rise of round 9.
        replays.go_to(8)
        assert "02" not in memories_of(replays, Probe(replays.model), log, first=9).memories
        assert "02" not in sent_over_trained(replays, log, ["02"], 18)


def test_checkpoints_of_another_run_are_not_used(run, settings_of, tmp_path, computations):
    folder = changed(run, tmp_path / "run", "02", lambda x, y: (-x, y))
    rows = read_rows(folder / "reports/rounds.csv")
    write_rows(folder / "reports/rounds.csv", list(rows[0]), [{**row, "train_loss": "0.5"} for row in rows])
    with replayer(settings_of(SETTINGS), folder, computations) as replays:
        assert replays.saved == [0]


def _clients(folder, change):
    """Changes the clients, {id: (x, y)}, as a new run of preprocess would."""
    described = read_json(folder / CLIENTS / "preprocess.json")
    sites = {client: read_client(folder / CLIENTS, client) for client in [*described["clients"], TEST]}
    clients = {client: examples for client, examples in sites.items() if client != TEST}
    change(clients)
    for path in (folder / CLIENTS).glob("*.npz"):
        path.unlink()
    write_sites(folder / CLIENTS, {**clients, TEST: sites[TEST]})
    described["clients"] = {client: len(y) for client, (_, y) in clients.items()}
    write_json(folder / CLIENTS / "preprocess.json", described)


def test_checkpoints_of_other_clients_are_not_used(run, settings_of, tmp_path, computations):
    # The states of SCAFFOLD and FedDyn are stored by place, so other clients would get the wrong states.
    folder = shutil.copytree(run, tmp_path / "run")
    _clients(folder, lambda clients: clients.update({"0X": clients.pop("02")}))
    with replayer(settings_of(SETTINGS), folder, computations) as replays:
        assert replays.saved == [0]


@pytest.mark.parametrize("change", ["broken", "added", "replaced"])
def test_what_clients_keep_goes_to_no_other_client(change, make_clients, settings_of, tmp_path, computations):
    settings = settings_of({**SETTINGS, "federate.client.kind": "scaffold", "federate.rounds": 10})
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path)
    federate(settings, folder)
    if change == "broken":
        put(folder / CLIENTS, "02", x=b"no array")
    elif change == "added":
        _clients(folder, lambda clients: clients.update({"01b": clients["02"]}))
    else:
        _clients(folder, lambda clients: clients.update({"0X": clients.pop("02")}))
    with replayer(settings, folder, computations) as replays:
        assert replays.saved == [0]
        replays.go_to(7)
        assert replays.from_round == 5


@pytest.mark.slow
def test_clients_that_train_a_part_of_the_model_are_not_compared(make_clients, settings_of, tmp_path, computations):
    settings = settings_of({**SETTINGS, "federate.model": "mlp", "federate.width": {"02": 0.5}})
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path)
    federate(settings, folder)
    assert sorted(remembered(folder, settings, computations)) == ["00", "01", "03", "04", "05"]
    for client in ("02", "03"):  # both have changed; for client 02 this cannot be seen
        x, y = read_client(folder / CLIENTS, client)
        write_client(folder / CLIENTS, client, 3 * x, y)
    assert [client for client, memory in remembered(folder, settings, computations).items() if memory.changed] == ["03"]
    assert risen_with_their_data(settings, folder, read_clients(folder / "reports/clients.csv"), computations) == []


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    (tmp_path / "round_00005.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"round_00005\.npz must be a checkpoint, got"):
        load_state(tmp_path / "round_00005.npz", ServerState(np.zeros(3), [], []))
    np.savez(tmp_path / "round_00006.npz", np.zeros(3), np.ones(3))
    with pytest.raises(DataError, match=r"round_00006\.npz must hold 1 arrays .* got 2: it belongs to another model"):
        load_state(tmp_path / "round_00006.npz", ServerState(np.zeros(3), [], []))


@pytest.mark.parametrize("kind", ["scaled_update", "reversed_update"])
@pytest.mark.parametrize("onset", [FIRST, FIRST + 2])  # right after a checkpoint, and 2 rounds later
def test_updates_that_training_does_not_give_are_known(kind, onset, make_clients, settings_of, tmp_path, computations):
    fault = {"kind": kind, "clients": ["02"], "from_round": onset, "factor": 8.0}
    settings = settings_of({**SETTINGS, **{f"federate.faults.{name}": value for name, value in fault.items()}})
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path)
    federate(settings, folder)
    with replayer(settings, folder, computations) as replays:
        replays.go_to(onset - 1)
        found = sent_over_trained(replays, read_clients(folder / "reports/clients.csv"), ["02"], onset + 9)
        assert replays.from_round == 15
    assert len(found) >= 3  # reversed updates turn the median, so honest ones can look odd
    assert found.pop("02") == pytest.approx(8, rel=1e-4)
    assert all(as_trained(value) for value in found.values())


def flipped_from(first, settings, make_clients, settings_of, folder):
    """Returns a run in which the labels of client 02 were reversed before round `first`, in its data and its log."""
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(folder)
    for client in [f"{k:02}" for k in range(6)] + [TEST]:  # labels that a model can learn
        x, y = read_client(folder / CLIENTS, client)
        x[np.arange(len(y)), y] += 2
        write_client(folder / CLIENTS, client, x, y)
    fault = {"kind": "flipped_labels", "clients": ["02"], "from_round": first}
    federate(settings_of({**settings, **{f"federate.faults.{name}": value for name, value in fault.items()}}), folder)
    x, y = read_client(folder / CLIENTS, "02")
    classes = read_json(folder / CLIENTS / "preprocess.json")["num_classes"]
    write_client(folder / CLIENTS, "02", x, (classes - 1 - y).astype(np.int32))
    # The identity of the run stays, except that no fault was simulated.
    identity = read_json(folder / "models/checkpoints/federate/run.json")["identity"]
    begun_with = settings_of(settings).model_dump(mode="json", include=set(identity["settings"]))
    del begun_with["federate"]["runtime"]
    record_as(folder, {**identity, "settings": begun_with})
    return folder


@pytest.fixture(scope="module")
def changed_in_between(make_clients, settings_of, tmp_path_factory):
    return flipped_from(13, SETTINGS, make_clients, settings_of, tmp_path_factory.mktemp("between"))


@pytest.mark.slow
def test_a_change_before_the_first_checkpoint_is_proven_from_the_next_one(
    make_clients, settings_of, tmp_path, computations
):
    # From the first weights, the model learns the reversed labels of client 02 from round 1 on, so its loss does not
    # rise as in the log. From the checkpoint of round 5 on, the replay is the run.
    settings = settings_of({**SETTINGS, "federate.rounds": 12})
    folder = flipped_from(4, {**SETTINGS, "federate.rounds": 12}, make_clients, settings_of, tmp_path)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = diagnosis(*logs, settings, folder, computations)
    assert [(one.cause, one.clients) for one in found.causes] == [("faulty_clients", ("02",))]
    assert found.causes[0].replay.from_round == 5


def test_a_rise_that_came_with_other_data_is_known_and_dated(changed_in_between, settings_of, computations):
    log = read_clients(changed_in_between / "reports/clients.csv")
    (one,) = risen_with_their_data(settings_of(SETTINGS), changed_in_between, log, computations)
    assert (one.client, one.round, one.alarm) == ("02", 13, 13)
    assert one.until >= 13


def test_a_report_without_a_rise_does_not_say_how_it_was_found(run, settings_of, computations, monkeypatch):
    # The losses of a healthy run fall, so a "rise" of client 02 has no higher losses.
    claimed = [ClientRise("02", 3, 20, 3, 1.0)]
    monkeypatch.setattr(step, "rises_with_changed_data", lambda *given: claimed)
    logs = read_rounds(run / "reports/rounds.csv"), read_clients(run / "reports/clients.csv")
    own = logs[1].signals["loss_before"][logs[1].rows("02")]
    assert own[2:].mean() < own[:2].mean()
    found = diagnosis(*logs, settings_of(SETTINGS), run, computations)
    assert not found.rise.detected
    assert FROM_DATA not in found.limits


@pytest.mark.parametrize("after", [8.0, 0.02])
def test_a_loss_is_dated_to_its_first_high_value_also_where_the_next_is_low_again(after):
    # Client 02's loss of rounds 11 to 20 is about 0.1 and jumps to 5 in round 16. Its data differ in 11, not in 21.
    losses = np.array([0.1, 0.12, 0.1, 0.11, 0.17, 5.0, after, 4.0, 3.0, 5.0])
    rounds, no = np.arange(11, 21), np.zeros(10, dtype=np.bool_)
    log = ClientLog(rounds, ("02",) * 10, {"loss_before": losses}, no, no)
    one = risen_between(log, "02", [Memory(11, 0.1, 6.0), Memory(21, 4.0, 4.0)])
    assert one is not None
    assert (one.round, one.until) == (16, 20)


@pytest.mark.parametrize(("high", "found"), [(3.0, True), (1.0, False)])
def test_first_weights_do_not_tell_how_bad_other_data_are(high, found):
    # Before round 1, every label has about the same loss: data that are wrong today have a lower one than those then.
    # Under the first weights, the model has not learned anything, so only the logged losses can rise.
    losses = np.array([2.4, 1.6, 1.2, 0.9, high, high, high])
    rounds, no = np.arange(1, 8), np.zeros(7, dtype=np.bool_)
    log = ClientLog(rounds, ("02",) * 7, {"loss_before": losses}, no, no)
    one = risen_between(log, "02", [Memory(1, 2.4, 2.2), Memory(6, high, high)])
    # The median of the four losses before is 1.4; 3.0 is more than 1.5 times that, 1.0 is not.
    assert (one is not None and (one.round, one.until) == (5, 7)) is found


@pytest.mark.slow
def test_it_is_explained_also_where_the_curve_shows_nothing(changed_in_between, settings_of, tmp_path, computations):
    # A log of three rounds has too few losses for any test.
    folder = shutil.copytree(changed_in_between, tmp_path / "run")
    for name in ("rounds.csv", "clients.csv"):
        rows = read_rows(folder / "reports" / name)
        kept = [row for row in rows if int(row["round"]) in {11, 13, 16}]
        write_rows(folder / "reports" / name, list(rows[0]), kept)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    settings = settings_of(SETTINGS)
    assert not observe(*logs, settings.diagnose.significance).rise.detected
    found = to_json(diagnosis(*logs, settings, folder, computations))
    assert found["detection"]["clients"] == ["02"]
    assert (found["increase"]["round"], found["verdict"]) == (13, "faulty_clients")
    assert found["causes"][0]["fault"] == "data"  # one earlier loss is too little to infer a relabelling
    assert "No test of the losses alone" in found["limits"][0]
    says = " ".join(one["says"] for one in found["causes"][0]["evidence"])
    assert "so the client's data have changed" in says


def test_rounds_of_pruning_are_not_compared(changed_in_between, settings_of, tmp_path, computations):
    # Training ended after round 15 and pruning followed, so round 16 does not continue the checkpoint of round 15.
    folder = shutil.copytree(changed_in_between, tmp_path / "run")
    rows = read_rows(folder / "reports/rounds.csv")
    told = [{**row, "phase": "prune" if int(row["round"]) > 15 else "federate"} for row in rows]
    write_rows(folder / "reports/rounds.csv", list(rows[0]), told)
    rounds, clients = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    training = clients.without(rounds.rounds[rounds.pruning])
    assert set(training.rounds) == set(range(1, 16))
    assert len(training.clients) == len(training.signals["loss_before"]) == len(training.failed) == 6 * 15
    # No checkpoint is left from which the data of today give the logged losses.
    assert risen_with_their_data(settings_of(SETTINGS), folder, training, computations) == []
    with replayer(settings_of(SETTINGS), folder, computations) as replays:
        replays.go_to(15)
        assert sent_over_trained(replays, training, ["02"], 20) == {}


def test_data_as_they_were_are_not_looked_at_twice(run, settings_of, monkeypatch, computations):
    logs = read_rounds(run / "reports/rounds.csv"), read_clients(run / "reports/clients.csv")
    looked_at = "tasks.diagnose.evidence.remembered.risen_with_their_data"
    monkeypatch.setattr(looked_at, lambda *_: pytest.fail("the data are the same"))
    assert not diagnosis(*logs, settings_of(SETTINGS), run, computations).rise.detected


def test_a_client_that_could_not_be_read_changes_no_data(make_clients, settings_of, tmp_path):
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path)
    put(folder / CLIENTS, "02", x=b"no array")
    federate(settings_of(SETTINGS), folder)
    assert not data_changed(settings_of(SETTINGS), folder)
    x, y = read_client(folder / CLIENTS, "03")
    write_client(folder / CLIENTS, "03", -x, y)
    assert data_changed(settings_of(SETTINGS), folder)


def test_relabellings_by_hand():
    # Three labels: reversed, shifted by one and by two, and two of them swapped. 2 1 0 is both the reversal and a swap.
    found = [tuple(int(label) for label in then) for then in relabellings(3)]
    assert found == [(2, 1, 0), (2, 0, 1), (1, 2, 0), (1, 0, 2), (2, 1, 0), (0, 2, 1)]
    assert [relabelling_in_words(then) for then in found[:4]] == [
        "y to 2 - y",
        "y to y + 2 modulo 3",
        "y to y + 1 modulo 3",
        "0 and 1 swapped",
    ]


def test_what_counts_as_the_same():
    assert same(1.0005, 1.0)
    assert not same(1.002, 1.0)
    assert same(0.000005, 0.0)  # a batch that the model memorised
    assert Memory(3, logged=0.5, now=0.6).changed
    assert as_trained(1.04)
    assert not as_trained(0.9)


@pytest.mark.slow
def test_labels_of_whom_the_model_cannot_do_without_are_changed_back(make_clients, settings_of, tmp_path, computations):
    # Only client 02 has the classes 0 and 2. From round 13 on they are swapped. Without this client the model forgets
    # both classes, so leaving it out removes nothing of the rise.
    folder = make_clients(sizes=(80, 80, 120, 80, 80), num_test=120).write(tmp_path)
    rng = np.random.default_rng(3)
    for client in [f"{k:02}" for k in range(5)] + [TEST]:
        x, y = read_client(folder / CLIENTS, client)
        y = np.where(rng.random(len(y)) < 0.5, 0, 2).astype(np.int32) if client == "02" else y
        y = y if client in ("02", TEST) else np.ones_like(y)
        x[np.arange(len(y)), y] += 0.5
        write_client(folder / CLIENTS, client, x, y)
    settings = settings_of(SETTINGS)
    fault = {"kind": "flipped_labels", "clients": ["02"], "from_round": 13}
    federate(settings_of({**SETTINGS, **{f"federate.faults.{name}": value for name, value in fault.items()}}), folder)
    x, y = read_client(folder / CLIENTS, "02")
    write_client(folder / CLIENTS, "02", x, (2 - y).astype(np.int32))
    identity = read_json(folder / "models/checkpoints/federate/run.json")["identity"]
    identity["settings"]["federate"]["faults"] = settings.federate.faults.model_dump(mode="json")
    record_as(folder, identity)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = to_json(diagnosis(*logs, settings, folder, computations))
    cause = found["causes"][0]
    assert (found["verdict"], cause["clients"], cause["fault"]) == ("faulty_clients", ["02"], "labels")
    assert cause["replay"]["change"] == {"data": "the labels of client 02 changed back"}
    assert cause["replay"]["removes"]["mean"] > 0.9
    left_out = next(one for one in found["remedies"] if one["says"] == "leave out client 02")
    assert left_out["recovers"] < 0
    assert cause["remedy"] is None or cause["remedy"]["recovers"] > 0
    says = next(one["says"] for one in cause["evidence"] if one["signal"] == "left_out")
    assert says.endswith(" % higher.")
