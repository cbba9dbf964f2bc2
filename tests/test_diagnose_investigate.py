"""From a run's log to its proven causes and remedies: real rounds, planted faults."""

import numpy as np
import pytest

from tasks.diagnose import diagnosis
from tasks.diagnose.diagnosis import to_json
from tasks.federate import federate
from tasks.files import read_rows, write_json
from tasks.round_log.read import read_clients, read_rounds

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 20,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 4,
}
ONSET = 13
FAULT = {
    "federate.faults.kind": "reversed_update",
    "federate.faults.clients": ["02"],
    "federate.faults.from_round": ONSET,
    "federate.faults.factor": 8.0,
    "federate.sampling.clients_per_round": 5,
}


@pytest.fixture(scope="module")
def broken(make_clients, settings_of, tmp_path_factory):
    """A run in which client 02 sends reversed updates from round 13 on."""
    made = make_clients(sizes=(30,) * 6, num_test=90).write(tmp_path_factory.mktemp("broken"))
    federate(settings_of({**BASE, **FAULT}), made)
    return made


def learnable(made):
    """Gives every site the labels of one linear rule, which a linear model learns well."""
    directions = np.random.default_rng(1).standard_normal((9, made.num_classes))
    for site, (x, _) in made.data.items():
        centred = 4 * (x - 0.5)
        made.data[site] = centred, (centred.reshape(len(x), -1) @ directions).argmax(1).astype(np.int32)
    return made


def logs_of(folder):
    return read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")


def test_a_run_of_more_rounds_than_the_settings_have_is_not_replayed(broken, settings_of, computations):
    settings = settings_of({**BASE, **FAULT, "federate.rounds": ONSET})
    found = to_json(diagnosis(*logs_of(broken), settings, broken, computations))
    assert found["increase"]["detected"]
    says = f"The log has {BASE['federate.rounds']} rounds of training, but federate.rounds is {ONSET}. "
    assert found["limits"][0].startswith(says)
    assert found["causes"] == [] or all(cause["replay"] is None for cause in found["causes"])


def test_reversed_updates_are_found_proven_and_cured(broken, settings_of, computations):
    settings = settings_of({**BASE, **FAULT})
    found = to_json(diagnosis(*logs_of(broken), settings, broken, computations))
    assert found["increase"]["detected"]
    assert ONSET <= found["increase"]["round"] <= ONSET + 2
    assert found["verdict"] == "faulty_clients"
    (cause, *_) = found["causes"]
    assert cause["clients"] == ["02"]
    assert cause["replay"]["change"] == {"leave out": ["02"]}
    assert cause["replay"]["removes"]["low"] > 0.2
    assert cause["remedy"]["settings"] == {"federate.exclude": ["02"]} or cause["remedy"]["recovers"] > 0.9
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]
    write_json(broken / "found.json", found)  # fails on a value that JSON does not have


def test_a_fault_that_has_gone_is_proven_by_the_log_and_the_replay(broken, settings_of, computations):
    """The settings of today know nothing of the fault, so the replay is the run without it."""
    honest = settings_of({**BASE, "federate.sampling.clients_per_round": 5})
    found = to_json(diagnosis(*logs_of(broken), honest, broken, computations))
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"], cause["fault"]) == ("faulty_clients", ["02"], "updates")
    assert cause["replay"]["of_log"]
    assert cause["replay"]["seeds"] == 3
    # The first round from 13 on in which client 02 took part.
    rows = [row for row in read_rows(broken / "reports/clients.csv") if row["client"] == "02"]
    assert cause["rounds"][0] == min(int(row["round"]) for row in rows if int(row["round"]) >= ONSET)
    (evidence,) = cause["evidence"]
    assert (evidence["signal"], evidence["value"]) == ("sent_over_trained", pytest.approx(8.0, rel=1e-3))
    assert cause["remedy"] is None
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


def test_other_data_of_most_clients_prove_nothing(broken, settings_of, computations):
    honest = settings_of({**BASE, "federate.sampling.clients_per_round": 5, "federate.client.learning_rate": 0.1})
    found = to_json(diagnosis(*logs_of(broken), honest, broken, computations))
    assert (found["verdict"], found["causes"]) == ("none", [])
    assert "Something else was different in the run" in found["limits"][0]
    assert "The replay first differs from the log in round 11, in the rows of all clients." in found["limits"][0]


def test_logs_alone_prove_nothing_and_say_so(broken, settings_of, computations):
    found = to_json(diagnosis(*logs_of(broken), settings_of(BASE), None, computations))
    assert (found["increase"]["detected"], found["verdict"], found["causes"]) == (True, "none", [])
    assert "data are missing in this folder" in found["limits"][0]


@pytest.mark.slow
def test_a_client_with_flipped_labels_is_found_where_few_take_part(make_clients, settings_of, tmp_path, computations):
    """Only in the rounds of client 01 of 16, the training loss is up; 4 clients take part in a round."""
    settings = settings_of(
        {
            **BASE,
            "federate.rounds": 30,
            "federate.faults.kind": "flipped_labels",
            "federate.faults.clients": ["01"],
            "federate.faults.from_round": 16,
        }
    )
    made = make_clients(sizes=(30,) * 16, num_classes=4, num_test=90)
    folder = learnable(made).write(tmp_path)  # so flipped labels differ
    federate(settings, folder)
    found = to_json(diagnosis(*logs_of(folder), settings, folder, computations))
    assert found["detection"]["clients"] == ["01"]
    rows = [row for row in read_rows(folder / "reports/clients.csv") if row["client"] == "01"]
    before = [float(row["loss_before"]) for row in rows if int(row["round"]) < 16][-4:]
    assert found["increase"]["loss_before"] == pytest.approx(np.mean(before))
    assert found["increase"]["loss_after"] > 2 * found["increase"]["loss_before"]
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"]) == ("faulty_clients", ["01"])
    assert cause["remedy"]["settings"] == {"federate.exclude": ["01"]}
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


@pytest.mark.slow
def test_failures_that_no_loss_shows_have_a_remedy(make_clients, settings_of, tmp_path, computations):
    fault = {"kind": "not_finite", "clients": ["02"], "from_round": 7}
    settings = settings_of(
        {
            "federate.model": "logistic",
            "federate.rounds": 15,
            "federate.client.learning_rate": 0.1,
            "federate.guard": "continue",
            **{f"federate.faults.{name}": value for name, value in fault.items()},
        }
    )
    # No remedy is proposed for a model at chance, so the labels are such that it learns.
    folder = learnable(make_clients(sizes=(30,) * 6, num_test=60)).write(tmp_path)
    federate(settings, folder)
    found = to_json(diagnosis(*logs_of(folder), settings, folder, computations))
    cause = found["causes"][0]
    assert (cause["cause"], cause["clients"]) == ("non_finite", ["02"])
    # The client fails in every compared round from 7 to 15; without it, nothing fails.
    assert (cause["remedy"]["settings"], cause["remedy"]["recovers"]) == ({"federate.exclude": ["02"]}, 1.0)
    clipped = next(one for one in found["remedies"] if "clip gradients" in one["says"])
    assert clipped["recovers"] == 0
    assert clipped["against"] == ["non_finite"]


@pytest.mark.slow
def test_after_a_remedy_left_clients_out_the_next_diagnosis_never_names_them(
    make_clients, settings_of, tmp_path, computations
):
    again = {"federate.exclude": ["02", "05"], "federate.faults.clients": ["02", "03"], "federate.guard": "continue"}
    settings = settings_of({**BASE, **FAULT, "federate.sampling.clients_per_round": 4, **again})
    folder = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path)
    federate(settings, folder)
    found = to_json(diagnosis(*logs_of(folder), settings, folder, computations))
    named = {client for cause in found["causes"] for client in cause["clients"]}
    assert found["causes"]
    assert not named & {"02", "05"}
    for cause in found["causes"]:
        left_out = ((cause["remedy"] or {}).get("settings") or {}).get("federate.exclude", ["02", "05"])
        assert {"02", "05"} <= {*left_out}
