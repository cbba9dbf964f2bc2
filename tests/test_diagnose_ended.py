"""Runs on the digits that end before their last round: the cause, and settings with which they train."""

import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks import end_of_run
from tasks.diagnose import diagnose, diagnosis
from tasks.diagnose.diagnosis import to_json
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.ended.investigate import investigate_ending
from tasks.diagnose.report.wording import headline
from tasks.errors import DataError, GuardStop, NoClientLeft
from tasks.federate import federate
from tasks.files import read_json
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.round_log.read import read_clients, read_rounds
from tasks.round_log.write import write_log
from tests.shards import shard_of

FAULT = {
    "federate.faults.clients": ["03"],
    "federate.faults.from_round": 9,
}


@pytest.fixture(scope="module")
def digits(settings_of, tmp_path_factory):
    """The digits, divided over ten clients."""
    folder = tmp_path_factory.mktemp("digits")
    partition(settings_of({}), folder)
    preprocess(settings_of({}), folder)
    return folder


@pytest.fixture
def ended(digits, settings_of, computations, tmp_path):
    """(settings, watch) -> the diagnosis of the run that they end."""

    def explain(dotted, watch=lambda row, *_: None):
        settings = settings_of(dotted)
        shutil.copytree(digits / "data", tmp_path / "data")
        with pytest.raises((NoClientLeft, GuardStop)):
            federate(settings, tmp_path, watch)
        logs = read_rounds(tmp_path / "reports/rounds.csv"), read_clients(tmp_path / "reports/clients.csv")
        return diagnosis(*logs, settings, tmp_path, computations)

    return explain


def cause_of(answer):
    """(verdict, clients, settings of the remedy) of an ended run with one proven cause."""
    found = to_json(answer)
    assert found["question"] == "ended"
    (cause,) = found["causes"]
    # The run trains with three seeds: it ends below the loss of a model that does not look at its inputs.
    assert cause["replay"]["seeds"] == 3
    assert cause["replay"]["loss_with"][-1] < found["replays"]["chance"] < 2.31
    assert cause["remedy"]["recovers"] == 1.0
    return found["verdict"], cause["clients"], cause["remedy"]["settings"]


def test_too_high_a_client_rate_that_ends_the_run_is_named_with_one_that_trains(ended):
    answer = ended({"federate.client.learning_rate": 3.0})
    verdict, clients, settings = cause_of(answer)
    assert (verdict, clients) == ("client_learning_rate", [])
    # Two kinds of settings bound the steps: clipped gradients, and a lower rate. At 1.0, the model goes on and learns
    # nothing; below 0.1, it learns more slowly.
    tried = [each for each in to_json(answer)["remedies"] if each["recovers"] == 1]
    rates = {each["settings"].get("federate.client.learning_rate"): each["loss_after"] for each in tried}
    best = min((rate for rate in rates if rate), key=rates.get)
    assert 0.1 <= best < 1.0
    # The proposed one of all settings ends lowest.
    assert settings in ({"federate.client.learning_rate": best}, {"federate.client.clip_norm": 1.0})
    assert min(tried, key=lambda each: each["loss_after"])["settings"] == settings
    assert answer.remedy.loss_after < 0.5
    says = headline(answer)
    assert says.startswith(
        "The run ended in round 2 because all 10 clients of that round failed (their updates were not"
    )
    assert "because of" not in says
    assert "The cause: the clients' learning rate is too high (proven by replay with 3 seeds" in says


@pytest.mark.slow
def test_a_client_for_which_the_guard_stops_is_left_out(ended):
    answer = ended({"federate.guard": "stop", "federate.faults.kind": "not_finite", **FAULT})
    assert cause_of(answer) == ("non_finite", ["03"], {"federate.exclude": ["03"]})
    assert answer.budget.from_round == 5
    assert headline(answer).startswith("The guard (federate.guard) ended the run in round 9 because client 03 failed")


@pytest.mark.slow
def test_too_high_a_server_rate_comes_before_a_lower_client_rate(ended):
    verdict, clients, settings = cause_of(ended({"federate.server_optimizer.learning_rate": 1e6}))
    assert (verdict, clients) == ("server_learning_rate", [])
    assert settings == {"federate.server_optimizer.learning_rate": 1.0}


@pytest.mark.slow
def test_the_client_whose_update_ends_the_run_is_named_and_not_the_clients_that_fail_of_it(ended):
    scaled = {"federate.faults.kind": "scaled_update", "federate.faults.factor": 1e18}
    answer = ended({**scaled, **FAULT})
    verdict, clients, _ = cause_of(answer)
    assert (verdict, clients) == ("faulty_clients", ["03"])
    assert (answer.ending.since, answer.ending.round) == (9, 10)


@pytest.mark.slow
def test_two_rates_that_end_the_run_together_are_both_lowered(ended):
    both = {"federate.client.learning_rate": 30.0, "federate.server_optimizer.learning_rate": 1000.0}
    found = to_json(ended(both))
    assert [cause["cause"] for cause in found["causes"]] == ["server_learning_rate", "client_learning_rate"]
    settings = found["causes"][0]["remedy"]["settings"]
    assert set(settings) == {"federate.server_optimizer.learning_rate", "federate.client.learning_rate"}


@pytest.mark.slow
def test_a_client_whose_data_cannot_be_read_is_left_out(ended, tmp_path):
    def watch(row, *_):
        if row["round"] == 7:
            shard_of(tmp_path / "data/clients", "03").unlink()

    answer = ended({"federate.guard": "stop"}, watch)
    assert cause_of(answer) == ("faulty_clients", ["03"], {"federate.exclude": ["03"]})


@pytest.mark.slow
def test_a_rise_for_which_the_guard_stops_is_explained_as_a_rise(ended):
    risen = {"federate.faults.kind": "reversed_update", "federate.faults.factor": 30.0}
    answer = ended({"federate.guard": "stop", **risen, **FAULT, "federate.faults.from_round": 14})
    assert (answer.question, answer.verdict, answer.rise.kind) == ("ended", "faulty_clients", "level")
    assert headline(answer).startswith(
        "The guard (federate.guard) ended the run in round 14 because val_loss has risen"
    )


@pytest.mark.slow
def test_the_first_client_rate_that_is_tried_does_not_overshoot(ended):
    # No factor of ten alone gets from here to a rate that trains.
    _, _, settings = cause_of(ended({"federate.client.learning_rate": 1e6}))
    assert 0.01 < settings["federate.client.learning_rate"] < 1.0


# A model that was broken in its first rounds, in a run that went on: the same replays answer for it.

BROKEN = Ending(3, "federate", "", False, (), (), 8, since=1, sound_after=0, loss_before=None)


@pytest.mark.slow
def test_a_client_whose_features_break_the_model_is_named_and_no_other(
    make_clients, settings_of, computations, tmp_path
):
    made, source = make_clients(), load_digits()
    order = np.random.default_rng(0).permutation(len(source.target))
    x = (source.images[order] / 16).astype(np.float32)[..., None]
    y = source.target[order].astype(np.int32)
    made.data = {f"h{k}": (x[357 + k :: 8].copy(), y[357 + k :: 8].copy()) for k in range(8)}
    made.data["h3"] = made.data["h3"][0] * 255, made.data["h3"][1]
    made.data["test"], made.num_classes = (x[:357], y[:357]), 10
    settings = settings_of({"federate.rounds": 12})
    federate(settings, made.write(tmp_path))
    clients = read_clients(tmp_path / "reports/clients.csv")
    found = investigate_ending(settings, tmp_path, BROKEN, clients, 3.0, computations)
    assert [(proof.candidate.cause, proof.candidate.clients) for proof in found.causes] == [("feature_shift", ("h3",))]
    assert {"federate.exclude": ["h3"]} in [each.remedy.settings for each in found.tried if each.recovers == 1]


@pytest.mark.slow
def test_too_high_a_rate_with_momentum_is_named_where_the_model_stays_at_chance(
    digits, settings_of, computations, tmp_path
):
    rate = {"federate.client.learning_rate": 2.0, "federate.client.momentum": 0.9, "federate.local_work.epochs": 5}
    settings = settings_of({**rate, "federate.rounds": 12})
    shutil.copytree(digits / "data", tmp_path / "data")
    federate(settings, tmp_path)
    clients = read_clients(tmp_path / "reports/clients.csv")
    found = investigate_ending(settings, tmp_path, BROKEN, clients, 3.0, computations)
    assert [proof.candidate.cause for proof in found.causes] == ["client_learning_rate"]
    assert found.proposed["client_learning_rate"].remedy.settings["federate.client.learning_rate"] < 0.2


# A log without a round.


@pytest.fixture
def without_rounds(digits, settings_of, tmp_path):
    """(client rate) -> the settings of a workspace whose logs have headers only."""

    def write(rate):
        shutil.copytree(digits / "data", tmp_path / "data")
        write_log(tmp_path / "reports", [], [])
        return settings_of({"federate.client.learning_rate": rate, "federate.rounds": 5})

    return write


def test_a_header_beside_a_run_that_ended_is_diagnosed(without_rounds, tmp_path):
    diagnose(without_rounds(1e6), tmp_path)
    found = read_json(tmp_path / "reports/diagnosis.json")
    assert (found["question"], found["verdict"]) == ("ended", "client_learning_rate")
    assert found["limits"][0].startswith("The round log has no round. So round 1 was run again")
    # The run's own log stays as it is.
    assert len((tmp_path / "reports/rounds.csv").read_text().splitlines()) == 1


def test_a_header_beside_a_run_that_goes_on_is_wrong_input_and_so_is_an_empty_file(without_rounds, tmp_path):
    settings = without_rounds(0.05)
    with pytest.raises(DataError, match=r"rounds\.csv holds no row below its header"):
        diagnose(settings, tmp_path)
    (tmp_path / "reports/rounds.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"rounds\.csv is empty: run the step that makes it again"):
        diagnose(settings, tmp_path)


# The diagnosis on the spot.


def test_a_diagnosis_that_fails_leaves_the_error_alone(tmp_path, caplog):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/rounds.csv").write_text("round\n1\n")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    error = NoClientLeft("round 1: every client failed")
    assert end_of_run.diagnosed("federate", error, tmp_path) is None
    assert any(message.startswith("no diagnosis: ") for message in caplog.messages)


@pytest.mark.parametrize("step", ["federate", "evaluate"])
def test_only_the_end_of_a_run_is_diagnosed(step, tmp_path):
    error = DataError("wrong") if step == "federate" else GuardStop("ended")
    assert end_of_run.diagnosed(step, error, tmp_path) is None
    assert end_of_run.diagnosed("federate", GuardStop("ended before round 1"), tmp_path) is None
