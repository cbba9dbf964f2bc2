"""Small inputs that went wrong for those who brought them: from the data to the answer, with the default settings."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.diagnose import diagnosis
from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import to_json
from tasks.diagnose.report.wording import headline
from tasks.federate import federate
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.round_log.read import read_clients, read_rounds

FAULT = {"federate.faults.clients": ["03"], "federate.faults.from_round": 16}


@pytest.fixture
def answer(settings_of, computations, tmp_path):
    """(settings) -> diagnosis.json of the run with them in `tmp_path`, and the headline of the report."""

    def explain(dotted):
        settings = settings_of(dotted)
        for step in (partition, preprocess, federate):
            step(settings, tmp_path)
        logs = read_rounds(tmp_path / "reports/rounds.csv"), read_clients(tmp_path / "reports/clients.csv")
        found = diagnosis(*logs, settings, tmp_path, computations)
        content = to_json(found)
        assert contradictions(content) == []
        return content, headline(found)

    return explain


def write_hospitals(folder, pixels_of_h3):
    """Eight clients with a part of the digits each, pixels 0 to 1; `pixels_of_h3` changes those of client h3."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.images[order] / 16).astype(np.float32), data.target[order]
    folder.mkdir()
    np.savez(folder / "test.npz", x=x[:357], y=y[:357])
    for k in range(8):
        mine = slice(357 + k, None, 8)
        np.savez(folder / f"h{k}.npz", x=pixels_of_h3(x[mine]) if k == 3 else x[mine], y=y[mine])


def test_a_model_whose_weights_start_at_zero_is_said_to_be_at_chance(answer):
    found, says = answer({"federate.model": "case_models:zeros", "federate.rounds": 12})
    assert says.startswith("The model never learned: it has been at chance since round 1")
    # The noise of its loss near ln 10 = 2.303 is no rise, so nothing is tried, and nothing is claimed.
    assert found["detection"]["chance"] == {
        "loss": pytest.approx(np.log(10), abs=2e-3),
        "since": 1,
        "never_learned": True,
    }
    assert found["increase"]["detected"] is False
    assert (found["verdict"], found["causes"], found.get("remedies", [])) == ("none", [], [])


def test_a_reversed_update_that_raises_no_loss_makes_no_client_suspect(answer):
    reversed_ = {"federate.faults.kind": "reversed_update", "federate.faults.factor": 1.0}
    found, says = answer({**reversed_, **FAULT})
    assert found["increase"]["detected"] is False
    assert "did not rise beyond its noise" in says
    assert (found["verdict"], found["causes"], found.get("remedies", [])) == ("none", [], [])
    # Where a row is far outside, it is client 03's and of a round with the fault.
    rows = {(each["client"], each["rounds"][0] >= 16) for each in found["observations"] if each["unusual"]}
    assert rows <= {("03", True)}
    # The report says how little was looked at, and how large a rise would have had to be.
    assert any("a rise by less than" in limit for limit in found["limits"])
    assert any("the clients were checked only for failed updates" in limit for limit in found["limits"])


@pytest.mark.slow
def test_a_client_that_sends_ten_times_its_update_is_named(answer):
    found, _ = answer({"federate.faults.kind": "scaled_update", **FAULT})
    assert found["increase"]["round"] >= 16
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"], cause["fault"]) == ("faulty_clients", ["03"], "updates")
    # The factor of the simulated fault is 10.
    (sent,) = (each["value"] for each in cause["evidence"] if each["signal"] == "sent_over_trained")
    assert sent == pytest.approx(10, rel=1e-3)
    assert cause["replay"]["seeds"] >= 2
    assert cause["remedy"]["recovers"] > 0.5
    assert "03" not in found["healthy"]
    assert {each["client"] for each in found["observations"] if each["unusual"]} == {"03"}


@pytest.mark.slow
def test_a_client_whose_pixels_go_to_255_is_named_and_the_rate_is_not(answer, tmp_path, monkeypatch):
    write_hospitals(tmp_path / "raw", lambda x: 255 * x)
    monkeypatch.chdir(tmp_path)
    sites = {"data.kind": "clients", "data.path": "raw", "partition.kind": "natural", "preprocess.normalize": "none"}
    found, says = answer(sites)
    # The update of round 1 broke the model, which has been at chance since.
    assert says.startswith("The model was broken in round 1, and it stayed at chance up to round 30")
    assert [(cause["cause"], cause["clients"]) for cause in found["causes"]] == [("feature_shift", ["h3"])]
    (cause,) = found["causes"]
    assert cause["replay"]["seeds"] == 3
    works = [remedy["settings"] for remedy in found["remedies"] if remedy["recovers"] == 1]
    assert {"federate.exclude": ["h3"]} in works
    assert {"preprocess.normalize": "client"} in works
    assert cause["remedy"]["settings"] in works
    assert not any("federate.client.learning_rate" in settings for settings in works)


@pytest.mark.slow
def test_a_rate_of_2_with_momentum_is_named_and_no_client(answer):
    rate = {"federate.client.learning_rate": 2.0, "federate.client.momentum": 0.9, "federate.local_work.epochs": 5}
    found, says = answer(rate)
    assert "stayed at chance up to round 30" in says
    assert [(cause["cause"], cause["clients"]) for cause in found["causes"]] == [("client_learning_rate", [])]
    settings = found["causes"][0]["remedy"]["settings"]
    assert set(settings) == {"federate.client.learning_rate"}
    assert settings["federate.client.learning_rate"] < 0.2
