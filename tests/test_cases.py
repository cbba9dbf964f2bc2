"""Small inputs that went wrong for those who brought them: from the data to the answer, with the default settings."""

import re

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


def write_hospitals(folder, of_h3=lambda x, y: (x, y), of_test=lambda x, y: (x, y), skewed=False):
    """Eight clients with a part of the digits each, pixels 0 to 1; `of_h3` changes the data of client h3.

    `skewed`: each label is divided among the clients by a Dirichlet(0.5) distribution.
    """
    data = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.target))
    x, y = (data.images[order] / 16).astype(np.float32), data.target[order]
    parts = {k: np.arange(357 + k, len(y), 8).tolist() for k in range(8)}
    if skewed:
        parts = {k: [] for k in range(8)}
        for label in range(10):
            mine = 357 + rng.permutation(np.flatnonzero(y[357:] == label))
            cuts = (np.cumsum(rng.dirichlet(np.full(8, 0.5)))[:-1] * len(mine)).astype(int)
            for k, some in enumerate(np.split(mine, cuts)):
                parts[k].extend(some.tolist())
    folder.mkdir()
    sites = {f"h{k}": (x[part], y[part]) for k, part in parts.items()}
    sites |= {"h3": of_h3(*sites["h3"]), "test": of_test(x[:357], y[:357])}
    for site, (its_x, its_y) in sites.items():
        np.savez(folder / f"{site}.npz", x=its_x, y=its_y)


@pytest.fixture
def hospitals(answer, tmp_path, monkeypatch):
    """(settings, see `write_hospitals`) -> diagnosis.json of the run on these clients, and the headline."""

    def explain(dotted=None, **changes):
        write_hospitals(tmp_path / "raw", **changes)
        monkeypatch.chdir(tmp_path)
        sites = {"data.kind": "clients", "data.path": "raw", "partition.kind": "natural", "partition.min_examples": 1}
        return answer({**sites, **(dotted or {})})

    return explain


def test_a_model_whose_weights_start_at_zero_is_said_to_be_at_chance(answer):
    found, says = answer({"federate.model": "case_models:zeros", "federate.rounds": 12})
    assert says.startswith("The model never learned: it has been at chance since round 1")
    # The noise of its loss near ln 10 = 2.303 is no rise, and no change of a setting or a client moves such a model.
    assert found["detection"]["chance"] == {
        "loss": pytest.approx(np.log(10), abs=2e-3),
        "since": 1,
        "never_learned": True,
    }
    assert found["increase"]["detected"] is False
    assert (found["verdict"], found["causes"], found.get("remedies", [])) == ("none", [], [])
    assert found["replays"]["rounds"] == 0
    (why,) = [limit for limit in found["limits"] if "are zero in the first model" in limit]
    assert "of the layers dense and dense_1 are zero" in re.sub(r"dense_\d+ and dense_\d+", "dense and dense_1", why)


@pytest.mark.slow
def test_a_reversed_update_that_raises_no_loss_is_named(answer):
    reversed_ = {"federate.faults.kind": "reversed_update", "federate.faults.factor": 1.0}
    found, says = answer({**reversed_, **FAULT})
    assert (found["increase"]["detected"], found["question"]) == (False, "standing")
    assert "higher than it should be because the updates of client 03 are faulty" in says
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"], cause["fault"]) == ("faulty_clients", ["03"], "updates")
    # A checkpoint is after round 15, and the fault begins in the round after it.
    assert cause["rounds"] == [16, 30]
    (sent,) = cause["evidence"]
    assert (sent["signal"], sent["value"]) == ("sent_over_trained", pytest.approx(-1, abs=0.01))
    assert cause["remedy"]["settings"] == {"federate.exclude": ["03"]}
    # Where a row is far outside, it is client 03's and of a round with the fault.
    rows = {(each["client"], each["rounds"][0] >= 16) for each in found["observations"] if each["unusual"]}
    assert rows <= {("03", True)}


def named(found):
    """(cause, clients, fault) of each cause of a run in which nothing rose."""
    assert (found["increase"]["detected"], found["question"]) == (False, "standing")
    return [(cause["cause"], cause["clients"], cause.get("fault", "")) for cause in found["causes"]]


H3 = ("faulty_clients", ["h3"], "labels")
FEW = {"federate.rounds": 12}
"""Enough rounds to learn the digits; the cases as they were brought have 30."""


def test_labels_shifted_by_one_from_the_start_are_named(hospitals):
    found, says = hospitals(FEW, of_h3=lambda x, y: (x, (y + 1) % 10))
    assert named(found) == [H3]
    assert says.startswith("The loss of the global model (val_loss) did not rise, but it is higher than it should be")
    assert "the labels of client h3 are wrong" in says
    cause = found["causes"][0]
    assert "its labels are shifted: y + 1 modulo 10 in place of y" in cause["evidence"][0]["says"]
    assert cause["remedy"]["settings"] == {"federate.exclude": ["h3"]}
    assert "h3" not in found["healthy"]
    assert len(found["healthy"]) == 7


def test_one_class_for_all_examples_from_the_start_is_named(hospitals):
    found, _ = hospitals(FEW, of_h3=lambda x, y: (x, np.full_like(y, 2)))
    assert named(found) == [H3]
    assert "all of its labels are 2" in found["causes"][0]["evidence"][0]["says"]


def test_honest_clients_with_skewed_labels_are_all_called_usual(hospitals):
    found, says = hospitals(FEW, skewed=True)
    assert (found["verdict"], found["causes"], found["question"]) == ("none", [], "rise")
    assert "no sign of a cause that keeps it higher than it should be" in says
    assert found["healthy"] == [f"h{k}" for k in range(8)]
    assert found["looked_for"]


def test_pixels_of_255_times_the_others_under_global_statistics_are_named(hospitals):
    found, _ = hospitals(FEW, of_h3=lambda x, y: (255 * x, y))
    assert named(found) == [("feature_shift", ["h3"], "")]
    (cause,) = found["causes"]
    assert cause["remedy"]["settings"] == {"preprocess.normalize": "client"}
    # At chance with the shared statistics; as good as other runs once each site standardises its own features.
    assert found["harm"]["loss"] > 2
    assert found["harm"]["reference"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x, (y + 1) % 10), "its labels are shifted: y + 1 modulo 10 in place of y"),
        (lambda x, y: (x, np.random.default_rng(5).permutation(10)[y]), "it numbers the labels differently: "),
        (lambda x, y: (x, np.full_like(y, 2)), "all of its labels are 2"),
    ],
)
def test_wrong_labels_are_named_over_all_rounds(hospitals, change, says):
    found, _ = hospitals(of_h3=change)
    assert named(found) == [H3]
    assert says in found["causes"][0]["evidence"][0]["says"]


@pytest.mark.slow
def test_reversed_labels_are_named_among_skewed_clients(hospitals):
    found, _ = hospitals(of_h3=lambda x, y: (x, 9 - y), skewed=True)
    assert named(found) == [H3]
    assert "its labels are reversed: 9 - y in place of y" in found["causes"][0]["evidence"][0]["says"]


@pytest.mark.slow
def test_honest_skewed_clients_are_usual_over_all_rounds(hospitals):
    found, _ = hospitals(skewed=True)
    assert (found["verdict"], len(found["healthy"])) == ("none", 8)


@pytest.mark.slow
def test_inverted_pixels_are_named(hospitals):
    found, _ = hospitals(of_h3=lambda x, y: (1 - x, y))
    assert [(cause, clients) for cause, clients, _ in named(found)] == [("feature_shift", ["h3"])]
    assert "labels" not in " ".join(each["says"] for each in found["causes"][0]["evidence"][1:])


@pytest.mark.slow
def test_a_rate_at_which_nothing_moves_is_named(answer):
    found, _ = answer({"federate.client.learning_rate": 0.00001})
    assert named(found) == [("client_learning_rate", [], "too_low")]
    (cause,) = found["causes"]
    # The default rate is 0.05. The powers of ten beside it are tried.
    assert 0.01 <= cause["remedy"]["settings"]["federate.client.learning_rate"] <= 1
    assert found["harm"]["reference"] < 0.6 < 2 < found["harm"]["loss"]


@pytest.mark.slow
def test_inverted_hold_out_data_are_named_and_nobody_is_excluded(hospitals):
    found, says = hospitals(of_test=lambda x, y: (1 - x, y))
    assert found["verdict"] == "hold_out_shift"
    assert "the hold-out data are unlike the clients' data" in says
    assert found["causes"][0]["clients"] == []
    assert found["causes"][0]["remedy"] is None


@pytest.mark.slow
def test_a_client_that_sends_ten_times_its_update_is_named(answer):
    found, _ = answer({"federate.faults.kind": "scaled_update", **FAULT})
    # Its rise is not beyond the noise of the curve; compared over the rounds in which the fault acts, its harm is.
    assert found["question"] == "standing"
    (cause,) = found["causes"]
    assert cause["rounds"] == [16, 30]
    assert (cause["cause"], cause["clients"], cause["fault"]) == ("faulty_clients", ["03"], "updates")
    # The factor of the simulated fault is 10.
    (sent,) = (each["value"] for each in cause["evidence"] if each["signal"] == "sent_over_trained")
    assert sent == pytest.approx(10, rel=1e-3)
    assert cause["replay"]["seeds"] >= 2
    assert cause["remedy"]["recovers"] > 0.5
    assert "03" not in found["healthy"]
    assert {each["client"] for each in found["observations"] if each["unusual"]} == {"03"}


@pytest.mark.slow
def test_a_client_whose_pixels_go_to_255_is_named_and_the_rate_is_not(hospitals):
    found, says = hospitals({"preprocess.normalize": "none"}, of_h3=lambda x, y: (255 * x, y))
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
    assert "it has been at chance since round 1" in says
    assert [(cause["cause"], cause["clients"]) for cause in found["causes"]] == [("client_learning_rate", [])]
    settings = found["causes"][0]["remedy"]["settings"]
    assert set(settings) == {"federate.client.learning_rate"}
    assert settings["federate.client.learning_rate"] < 0.2
