"""`federate.faults.kind: absent`: clients that are drawn and take no part."""

import logging

import numpy as np
import pytest

from tasks.errors import RunError
from tasks.federate import federate
from tasks.federate.cohort import cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.runner import Phase, Runner
from tasks.files import read_rows
from tasks.models import build
from tasks.prune import prune

SIZES = (7, 4, 11, 5, 6)
EVERYBODY = ["00", "01", "02", "03", "04"]
BASE = {"federate.model": "logistic", "federate.rounds": 4, "federate.client.batch_size": 4}


def away(*clients, from_round=1, until_round=0):
    return {
        "federate.faults.kind": "absent",
        "federate.faults.clients": list(clients),
        "federate.faults.from_round": from_round,
        "federate.faults.until_round": until_round,
    }


def logs(folder):
    return [read_rows(folder / "reports" / f"{name}.csv") for name in ("rounds", "clients")]


def taking_part(folder):
    """The clients of each round."""
    rounds, rows = logs(folder)
    return [[row["client"] for row in rows if row["round"] == each["round"]] for each in rounds]


@pytest.fixture(scope="module")
def clients(make_clients):
    return make_clients(sizes=SIZES)


@pytest.fixture
def run(clients, settings_of, tmp_path):
    """({setting: value}) -> the workspace of a run with the settings."""

    def made(changes):
        folder = clients.write(tmp_path / str(len(list(tmp_path.iterdir()))))
        federate(settings_of({**BASE, **changes}), folder)
        return folder

    return made


def test_absent_clients_have_no_row_and_come_back(run):
    folder = run(away("01", "03", from_round=2, until_round=3))
    some = ["00", "02", "04"]
    assert taking_part(folder) == [EVERYBODY, some, some, EVERYBODY]
    rounds, rows = logs(folder)
    assert [row["num_clients"] for row in rounds] == ["5", "3", "3", "5"]
    assert {row["num_failed"] for row in rounds} == {"0"}
    # 7, 11 and 6 examples take part in round 2.
    shares = [float(row["weight"]) for row in rows if row["round"] == "2"]
    np.testing.assert_allclose(shares, [7 / 24, 11 / 24, 6 / 24], rtol=1e-6)


def test_clients_that_are_always_absent_are_as_excluded(run):
    absent, excluded = run(away("01", "03")), run({"federate.exclude": ["01", "03"]})
    assert logs(absent) == logs(excluded)
    assert (absent / "models/global.h5").read_bytes() == (excluded / "models/global.h5").read_bytes()


@pytest.mark.parametrize("kind", ["uniform", "by_examples", "stratified"])
def test_draws_are_those_of_the_run_without_the_fault(kind, run):
    sampling = {"federate.sampling.kind": kind, "federate.sampling.clients_per_round": 2, "federate.rounds": 8}
    whole, part = taking_part(run(sampling)), taking_part(run({**sampling, **away("01", "02", from_round=3)}))
    assert part == whole[:2] + [[client for client in drawn if client not in ("01", "02")] for drawn in whole[2:]]
    assert part != whole


def test_round_without_a_client_leaves_the_model_and_says_why(run, caplog):
    changes = {"federate.server_optimizer.kind": "momentum", "federate.guard": "stop"}
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        folder = run({**changes, **away(*EVERYBODY, from_round=2, until_round=3)})
    rounds, rows = logs(folder)
    assert [row["num_clients"] for row in rounds] == ["5", "0", "0", "5"]
    assert {row["round"] for row in rows} == {"1", "4"}
    for row in rounds[1:3]:
        assert (row["val_loss"], row["train_loss"], row["failure"]) == (rounds[0]["val_loss"], "", "")
        assert float(row["server_update_norm"]) == 0
    said = "round 2: no client takes part: 00, 01, 02, 03, 04 stay away; federate.faults.kind is absent"
    assert said in caplog.messages
    # Round 4 goes on from the model and the momentum after round 1: it is round 2 without the fault, but for its draws.
    whole = {**BASE, **changes, "federate.client.batch_size": 20}  # a batch of all examples: no draw matters
    gone_on, at_once = run({**whole, **away(*EVERYBODY, from_round=2, until_round=3)}), run(whole)
    for name in ("train_loss", "val_loss", "server_update_norm"):
        assert float(logs(gone_on)[0][3][name]) == pytest.approx(float(logs(at_once)[0][1][name]), rel=1e-5)


def test_run_in_which_nobody_takes_part_is_refused_with_its_setting(run):
    with pytest.raises(RunError, match=r"no client took part in rounds 1 to 4: federate.faults.kind is absent"):
        run(away(*EVERYBODY))


def test_prune_goes_on_without_the_absent_until_they_are_back(clients, settings_of, tmp_path):
    pruning = {"prune.rounds": 3, "prune.begin_round": 1, "prune.end_round": 3}
    settings = settings_of({**BASE, **pruning, **away("01", from_round=4, until_round=5)})
    folder = clients.write(tmp_path)
    federate(settings, folder)
    prune(settings, folder)
    assert [row["num_clients"] for row in logs(folder)[0]] == ["5", "5", "5", "4", "4", "5", "5"]


@pytest.mark.parametrize("kind", ["scaffold", "feddyn"])
def test_absent_client_keeps_its_vector_and_its_share_of_the_servers(kind, clients, settings_of, one_thread, tmp_path):
    settings = settings_of({**BASE, "federate.client.kind": kind, **away("01", from_round=2, until_round=2)})
    cohort = cohort_of(settings, clients.write(tmp_path))
    model = build("logistic", (3, 3, 1), 3, 0)
    computations = build_computations(settings, cohort, model, masked=False)
    with one_thread():
        runner = Runner(settings, cohort, model, Phase("federate", 1, 4), computations)
        states = [runner.fresh()]
        for round_num in (1, 2, 3):
            states.append(runner.step(states[-1], round_num).state)
    np.testing.assert_array_equal(states[2].kept["01"], states[1].kept["01"])
    assert np.any(states[3].kept["01"] != states[2].kept["01"])
    for state in states[1:]:
        # Σ n_k c_k / Σ n_k over all clients, 33 examples: the server does not know that a client will stay away.
        mean = sum(size * state.kept[f"{k:02}"].astype(float) for k, size in enumerate(SIZES)) / sum(SIZES)
        assert np.abs(mean).max() > 1e-3
        np.testing.assert_allclose(state.shared, mean, atol=1e-6)
