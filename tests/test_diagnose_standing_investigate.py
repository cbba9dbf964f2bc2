"""From a run in which nothing rose to what has been in its way: real rounds on some of the digits, planted faults."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.clients import TEST
from tasks.diagnose import diagnosis
from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import to_json
from tasks.federate import federate
from tasks.files import read_rows, write_rows
from tasks.round_log.read import read_clients, read_rounds

ROUNDS = 10
BASE = {
    "federate.model": "logistic",
    "federate.rounds": ROUNDS,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.5,
    "federate.local_work.epochs": 2,
}


@pytest.fixture(scope="module")
def digits_at(make_clients, settings_of, tmp_path_factory):
    """(settings, changes of clients' (x, y), number of clients) -> (settings, workspace) of a run that was trained."""

    def run(dotted, changes=None, num_clients=6):
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        x, y = (data.images[order] / 16).astype(np.float32)[..., None], data.target[order].astype(np.int32)
        made = make_clients(sizes=(1,) * num_clients)
        made.num_classes = 10
        made.data = {f"{k:02}": (x[400 + k : 880 : 6], y[400 + k : 880 : 6]) for k in range(num_clients)}
        for client, change in (changes or {}).items():
            made.data[client] = change(*made.data[client])
        made.data[TEST] = x[:400], y[:400]
        folder = made.write(tmp_path_factory.mktemp("run"))
        settings = settings_of({**BASE, **dotted})
        federate(settings, folder)
        return settings, folder

    return run


@pytest.fixture(scope="module")
def answer(computations):
    """(settings, workspace) -> diagnosis.json, free of contradictions."""

    def explain(settings, folder):
        logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
        found = to_json(diagnosis(*logs, settings, folder, computations))
        assert contradictions(found) == []
        assert found["increase"]["detected"] is False
        return found

    return explain


def shifted(x, y):
    return x, (y + 1) % 10


@pytest.fixture(scope="module")
def mislabelled(digits_at):
    """A run in which the labels of client 02 of six are shifted by one."""
    return digits_at({}, {"02": shifted})


def hold_out_losses(folder):
    return [float(row["val_loss"]) for row in read_rows(folder / "reports/rounds.csv")]


def test_a_client_with_wrong_labels_is_proven_with_three_seeds(mislabelled, answer):
    found = answer(*mislabelled)
    assert (found["question"], found["verdict"]) == ("standing", "faulty_clients")
    (cause,) = found["causes"]
    assert (cause["clients"], cause["fault"], cause["rounds"]) == (["02"], "labels", [1, ROUNDS])
    assert cause["evidence"][0]["says"].endswith("its labels are shifted: y + 1 modulo 10 in place of y.")
    assert (cause["replay"]["seeds"], cause["replay"]["from_round"]) == (3, 0)
    assert cause["remedy"]["settings"] == {"federate.exclude": ["02"]}
    assert cause["remedy"]["recovers"] == 1
    assert found["healthy"] == ["00", "01", "03", "04", "05"]
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


def test_the_harm_is_the_loss_at_the_end_over_the_loss_without_the_cause(mislabelled, answer):
    harm = answer(*mislabelled)["harm"]
    # The mean over three seeds, one of which is the run itself, is within a few standard deviations of it.
    ended = np.exp(np.mean(np.log(hold_out_losses(mislabelled[1])[-5:])))
    assert abs(harm["loss"] - ended) < 4 * harm["noise"]
    assert harm["reference"] < harm["loss"] - harm["noise"]


def test_sound_clients_are_all_called_usual_and_nothing_is_replayed(digits_at, answer):
    found = answer(*digits_at({}))
    assert (found["question"], found["verdict"], found["causes"]) == ("rise", "none", [])
    assert found["healthy"] == [f"{k:02}" for k in range(6)]
    assert found["not_looked_at"] == []
    assert len(found["looked_for"]) == 4
    assert found.get("replays") is None


def test_a_rate_at_which_nothing_moves_is_named(digits_at, answer):
    found = answer(*digits_at({"federate.client.learning_rate": 1e-5}))
    (cause,) = found["causes"]
    assert (cause["cause"], cause["fault"], cause["clients"]) == ("client_learning_rate", "too_low", [])
    ((name, rate),) = cause["remedy"]["settings"].items()
    assert name == "federate.client.learning_rate"
    # A sound rate is 0.5 (BASE); the powers of ten that are tried are 0.1, 1 or 10 beside it.
    assert 0.1 <= rate <= 1
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


def test_a_client_that_sends_the_reverse_is_named(digits_at, answer):
    faults = {"kind": "reversed_update", "clients": ["04"], "factor": 1.0}
    found = answer(*digits_at({f"federate.faults.{name}": value for name, value in faults.items()}))
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"], cause["fault"]) == ("faulty_clients", ["04"], "updates")
    assert cause["rounds"] == [1, ROUNDS]
    assert [each["signal"] for each in cause["evidence"]] == ["sent_over_trained"]


def test_a_client_that_is_excluded_already_stays_excluded(digits_at, answer):
    found = answer(*digits_at({"federate.exclude": ["05"]}, {"02": shifted}))
    (cause,) = found["causes"]
    assert cause["clients"] == ["02"]
    assert cause["remedy"]["settings"] == {"federate.exclude": ["02", "05"]}
    assert "05" not in found["healthy"]


@pytest.mark.slow
def test_two_faults_one_after_the_other_are_taken_away_together(digits_at, answer):
    """The second one is proven beyond the first: the client of the first one stays away."""
    found = answer(*digits_at({"diagnose.budget": 20.0}, {"02": shifted, "04": lambda x, y: (1 - x, y)}))
    assert [(cause["cause"], cause["clients"]) for cause in found["causes"]][:1] == [("faulty_clients", ["02"])]
    beyond = [cause for cause in found["causes"] if cause["cause"] == "feature_shift"]
    beyond += [tried for tried in found.get("ruled_out", []) if tried["cause"] == "feature_shift"]
    assert "without client 02" in (beyond[0].get("says") or beyond[0]["replay"]["says"])
    for cause in found["causes"][1:]:
        assert "02" in cause["replay"]["change"]["leave out"]


def test_three_clients_are_not_called_usual(digits_at, answer):
    found = answer(*digits_at({}, {"01": shifted}, num_clients=3))
    assert (found["verdict"], found["healthy"]) == ("none", [])
    assert found["not_looked_at"] == ["00", "01", "02"]
    assert found["not_examined"] == [
        "Single clients: fewer than 4 can be compared, so none can stand apart from the others."
    ]


def rewrite(folder, name, change):
    """Writes a log again, each row as `change` leaves it; a row of None is left out."""
    path = folder / f"reports/{name}.csv"
    rows = [changed for row in read_rows(path) if (changed := change(dict(row))) is not None]
    write_rows(path, list(rows[0]), rows)


def test_a_run_that_stopped_between_two_measured_rounds_is_compared_with_a_replay(digits_at, answer):
    """Rounds 1 to 7 of 10 are there, and only round 2 was measured: the log does not say how the run ended."""
    settings, folder = digits_at({}, {"02": shifted})
    was = hold_out_losses(folder)
    rewrite(folder, "clients", lambda row: row if int(row["round"]) <= 7 else None)
    rewrite(
        folder,
        "rounds",
        lambda row: (
            {**row, "val_loss": row["val_loss"] if row["round"] == "2" else ""} if int(row["round"]) <= 7 else None
        ),
    )
    found = answer(settings, folder)
    assert found["verdict"] == "faulty_clients"
    # Replays of the same seed repeat the rounds that were not logged.
    assert found["causes"][0]["replay"]["loss_without"][2] == pytest.approx(was[2], rel=0.1)
    assert found["harm"]["loss"] == pytest.approx(np.exp(np.mean(np.log(was[2:7]))), rel=0.1)
    assert found["replays"]["compared"] == [1, 7]


def test_a_log_without_the_updates_says_that_they_were_not_looked_at(digits_at, answer):
    settings, folder = digits_at({}, {"02": shifted})
    rewrite(folder, "clients", lambda row: {k: v for k, v in row.items() if k != "update_cosine_robust"})
    found = answer(settings, folder)
    assert found["verdict"] == "faulty_clients"
    (said,) = [each for each in found["not_examined"] if "updates" in each]
    assert "does not have the columns" in said
    assert not any("updates" in each for each in found["looked_for"])


def test_a_log_of_more_rounds_than_the_settings_is_of_another_run(mislabelled, answer, settings_of):
    _, folder = mislabelled
    found = answer(settings_of({**BASE, "federate.rounds": 5}), folder)
    assert (found["verdict"], found["causes"]) == ("none", [])
    assert "The log has 10 rounds of training, but federate.rounds is 5." in found["limits"][0]
    assert found["healthy"] == []


def test_settings_of_another_run_prove_nothing(digits_at, answer, settings_of):
    """The log is of a rate of 1e-5, params.yaml has 0.5: two seeds end far below the log without any change."""
    _, folder = digits_at({"federate.client.learning_rate": 1e-5}, {"02": shifted})
    found = answer(settings_of(BASE), folder)
    assert (found["verdict"], found["causes"]) == ("none", [])


@pytest.mark.slow
def test_most_clients_against_the_hold_out_data_are_not_called_faulty(digits_at, answer):
    found = answer(*digits_at({}, {f"{k:02}": shifted for k in range(4)}))
    assert all(cause["cause"] != "faulty_clients" for cause in found["causes"])
    assert any("disagree with the hold-out data" in each for each in found["not_examined"]) or (
        found["verdict"] == "hold_out_shift"
    )
